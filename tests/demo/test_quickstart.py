"""The quickstart's own decisions: its folder, its splits, its budget and its summary; no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cmmixer.config import QuickstartSettings
from cmmixer.config.training import PretrainSettings
from cmmixer.data.manifest import read_manifest
from cmmixer.demo.quickstart import OUTPUTS, QuickstartResult, _open_folder, _Quickstart, _user_videos
from cmmixer.errors import DataError, SettingsError


def _job(tmp_path: Path, **options: Any) -> _Quickstart:
    return _Quickstart(QuickstartSettings(**{"out": str(tmp_path / "out"), **options}))


def _manifest(tmp_path: Path, rows: list[str], columns: str = "path,source,split") -> str:
    for row in rows:
        (tmp_path / row.split(",")[0]).touch()
    (tmp_path / "videos.csv").write_text("\n".join([columns, *rows]) + "\n")
    return str(tmp_path / "videos.csv")


def test_scale_sets_videos_and_epochs(tmp_path: Path) -> None:
    whole, small = _job(tmp_path), _job(tmp_path, scale=0.001)
    assert (whole.videos(1200), small.videos(1200)) == (1200, 8)
    # 9,600 clips seen in batches of 16: 1,200 clips are 75 batches per epoch.
    assert whole.epochs(9_600, 1200, 16) == 8
    # 1,250 clips are 78 whole batches, 1,248 clips; 2 clips of an epoch are not seen.
    assert whole.epochs(24_960, 1250, 16) == 20
    assert small.epochs(9_600, 1200, 16) == 1


def test_crop_is_off_for_synthetic_videos_only(tmp_path: Path) -> None:
    assert _job(tmp_path).crop_scale_min == 1.0
    assert _job(tmp_path, data="videos").crop_scale_min == PretrainSettings.crop_scale_min


def test_commands_are_recorded_as_typed(tmp_path: Path) -> None:
    job = _job(tmp_path)
    job.note("pretrain", PretrainSettings(data="a store", epochs=3))
    assert job.commands == ["cmmixer pretrain --epochs 3 --data 'a store'"]


def test_folder_is_reused_with_the_same_settings_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _open_folder(out, QuickstartSettings(out=str(out)))
    (out / "metrics.json").write_text("{}")
    _open_folder(out, QuickstartSettings(out=str(out)))
    assert (out / "metrics.json").exists()
    with pytest.raises(SettingsError) as raised:
        _open_folder(out, QuickstartSettings(out=str(out), scale=0.5, seed=2))
    assert str(raised.value) == (
        f"{out}: holds a quickstart with other settings: scale is 1.0 there, 0.5 here; seed is 0 there, 2 here; "
        "choose another --out, or --overwrite"
    )


def test_overwrite_removes_the_outputs_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _open_folder(out, QuickstartSettings(out=str(out)))
    for name in OUTPUTS:
        if "." in name:
            (out / name).write_text("{}")
        else:
            (out / name / "deep").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    _open_folder(out, QuickstartSettings(out=str(out), seed=1, overwrite=True))
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "quickstart.json"]
    assert json.loads((out / "quickstart.json").read_text()) == {"data": None, "scale": 1.0, "seed": 1}


def test_user_videos_are_split_by_the_column(tmp_path: Path) -> None:
    data = _manifest(tmp_path, ["a.mp4,a,train", "b.mp4,b,test", "c.mp4,c,train", "d.mp4,d,val", "e.mp4,e,"])
    job = _job(tmp_path, data=data)
    job.out.mkdir()
    train, gallery = _user_videos(job, data)
    assert [entry.source for entry in read_manifest(train)] == ["a", "c"]
    assert [entry.source for entry in read_manifest(gallery)] == ["b", "d"]
    assert all(Path(entry.path).is_absolute() for entry in read_manifest(train))


def test_user_videos_without_a_split_are_divided_by_source(tmp_path: Path) -> None:
    rows = [f"{source}{part}.mp4,{source}" for source in "abcdefgh" for part in range(2)]
    data = _manifest(tmp_path, rows, "path,source")
    job = _job(tmp_path, data=data)
    job.out.mkdir()
    parts = [{entry.source for entry in read_manifest(path)} for path in _user_videos(job, data)]
    assert parts[0].isdisjoint(parts[1])
    assert (len(parts[0]), len(parts[1])) == (6, 2)


def test_source_in_both_splits_is_refused(tmp_path: Path) -> None:
    data = _manifest(tmp_path, ["a.mp4,s,train", "b.mp4,s,gallery"])
    job = _job(tmp_path, data=data)
    with pytest.raises(DataError) as raised:
        _user_videos(job, data)
    assert str(raised.value) == f"{data}: 1 sources are in both splits, such as s; expected each source in one split"


def test_result_shows_metrics_next_to_baseline_and_chance(tmp_path: Path) -> None:
    metrics: dict[str, Any] = {
        "candidates": 200,
        "video_to_audio": {"R@1": 0.6754},
        "audio_to_video": {"R@1": 0.5},
        "baseline": {"video_to_audio": {"R@1": 0.4}, "audio_to_video": {"R@1": 0.3}},
        "chance": {"R@1": 0.005},
        "minutes": {"total": 4.94},
        "attempts": 1,
        "attempts_killed": 0,
    }
    result = QuickstartResult(tmp_path, tmp_path / "report.html", metrics, [])
    console = Console(width=200)
    with console.capture() as captured:
        console.print(result.render())
    lines = [line.split() for line in captured.get().splitlines()]
    assert ["silent", "video", "->", "its", "sound", "0.675", "0.400", "0.005"] in [
        [word for word in line if word != "│"] for line in lines
    ]
    assert "200 unseen videos" in captured.get()
    assert f"took 4.9 minutes; open {tmp_path / 'report.html'} in a browser" in " ".join(captured.get().split())
    assert result.as_json() == metrics
