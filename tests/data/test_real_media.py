"""`prepare` on real videos, and on 336 files a library will meet one day."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmmixer.config import PrepareSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import open_clips
from cmmixer.data.prepare import prepare
from cmmixer.data.store import ClipStore
from cmmixer.errors import MediaError
from tests.support.small_runs import NANO

pytestmark = pytest.mark.data


def test_every_hostile_file_is_used_or_listed(real_media: Path, tmp_path: Path) -> None:
    # A manifest tries every file, whatever its ending.
    hostile = sorted(path for path in (real_media / "hostile").rglob("*") if path.is_file() or path.suffix == ".mp4")
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps({"path": str(path)}) for path in hostile))
    report = prepare(
        PrepareSettings(
            data=str(tmp_path / "all.jsonl"), out=str(tmp_path / "store"), preset="nano", workers=2, file_seconds=20.0,
            clip_seconds=1.0, stride_seconds=10.0, frames=2, window_seconds=0.5,
        )
    )  # fmt: skip
    store = ClipStore.open(tmp_path / "store")
    used = {i.partition("#")[0] for i in store.ids}
    listed = {skip.path: skip for skip in report.skips if skip.clips_used == 0}
    assert used | set(listed) == {str(path) for path in hostile}
    assert used & set(listed) == set()
    assert len(used) > 50
    assert {skip.reason for skip in report.skips} <= set(MediaError.REASONS)
    assert all(skip.message for skip in report.skips)
    assert len(store.read(range(len(store)))) == len(store.ids) == report.clips


def test_real_videos_from_the_store_are_the_videos(real_media: Path, tmp_path: Path) -> None:
    lines = (real_media / "films/manifest.csv").read_text().splitlines()
    # Every ninth video; the whole folder takes a minute.
    rows = [f"{real_media}/films/{line}" for line in lines[1::9]]
    (tmp_path / "m.csv").write_text("\n".join([lines[0], *rows]))
    report = prepare(
        PrepareSettings(data=str(tmp_path / "m.csv"), out=str(tmp_path / "store"), preset="nano", workers=2)
    )
    videos = open_clips(DataSettings(data=str(tmp_path / "m.csv")), NANO, workers=2)
    store = ClipStore.open(tmp_path / "store")
    assert store.ids == list(videos.ids)
    assert store.sources == list(videos.sources)
    assert set(store.splits) == {"train", "gallery"}
    assert report.videos == len(rows)
    assert len(set(store.sources)) + report.skips.total >= len(rows) - 3  # several videos of one source
    picked = range(0, len(videos), 4)
    for direct, stored in zip(videos.read(picked), store.read(picked), strict=True):
        assert not isinstance(direct, MediaError)
        assert direct.frames is not None
        assert direct.sound is not None
        assert stored.frames is not None
        assert stored.sound is not None
        assert (stored.sound.samples_TN == direct.sound.samples_TN).all()
        off = stored.frames.pixels_THWC.astype(float) - direct.frames.pixels_THWC
        assert (off**2).mean() ** 0.5 < 6.0  # more than 32 dB
