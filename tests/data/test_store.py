"""Reading a clip store: values in any order, and one clear line when it is damaged or replaced."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from cmmixer.config.clip import ClipSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import StoreClips, open_clips
from cmmixer.data.loader import ClipBatches, make_loader
from cmmixer.data.prepare import prepare
from cmmixer.data.store import FORMAT, ClipStore, StoreMetadata, differences
from cmmixer.errors import StoreError
from cmmixer.storage.folder import LocalFolder
from tests.support.small_runs import PICO
from tests.support.small_stores import GEOMETRY, open_store, prepare_settings, same_batch


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    return Path(shutil.copytree(store, tmp_path / "copy"))


def both_ways_to_read(clips: StoreClips) -> list[Callable[[], Any]]:
    """Reads row 4 as a clip, and into the arrays of a batch."""
    video, audio = np.empty((1, 2, 3, 32, 32), np.uint8), np.empty((1, 2, 2000), np.int16)
    return [lambda: clips.read([4]), lambda: clips.read_into([4], video, audio)]


class TestContent:
    def test_it_holds_what_training_from_videos_sees(self, videos: Path, store: Path) -> None:
        from_videos = open_clips(DataSettings(data=str(videos)), PICO, workers=1)
        from_store = open_store(store)
        assert list(from_store.ids) == list(from_videos.ids)
        assert list(from_store.sources) == list(from_videos.sources)
        for direct, stored in zip(from_videos.read(range(30)), from_store.read(range(30)), strict=True):
            assert stored.span == direct.span  # type: ignore[union-attr]
            assert (stored.sound.samples_TN == direct.sound.samples_TN).all()  # type: ignore[union-attr]
            assert (stored.sound.centres_seconds_T == direct.sound.centres_seconds_T).all()  # type: ignore[union-attr]
            off = stored.frames.pixels_THWC.astype(int) - direct.frames.pixels_THWC  # type: ignore[union-attr]
            assert (off**2).mean() ** 0.5 < 3.0  # more than 38 dB
            assert np.abs(off).max() <= 40  # at edges of colour

    def test_batches_from_videos_and_store_are_the_same_in_any_worker(self, videos: Path, store: Path) -> None:
        from_videos = open_clips(DataSettings(data=str(videos)), PICO, workers=1)
        direct = list(make_loader(from_videos, batch_size=5, seed=4))
        stored = list(make_loader(open_store(store), batch_size=5, seed=4, num_workers=1))
        assert [batch.ids for batch in stored] == [batch.ids for batch in direct]
        assert all((a.audio_BTN == b.audio_BTN).all() for a, b in zip(stored, direct, strict=True))

    def test_rows_come_in_the_requested_order_and_repeat(self, store: Path) -> None:
        clips = ClipStore.open(store)
        rows = [7, 0, 29, 7]
        assert [clip.id for clip in clips.read(rows)] == [clips.ids[row] for row in rows]
        assert clips.read([]) == []
        for row in (30, -1):
            with pytest.raises(IndexError) as caught:
                clips.read([row])
            assert str(caught.value) == f"{store}: got rows [{row}], expected 0 to 29"

    def test_a_batch_is_filled_with_the_values_of_the_clips(self, store: Path) -> None:
        clips, rows = open_store(store), [3, 28, 3]
        video, audio = np.empty((3, 2, 3, 32, 32), np.uint8), np.empty((3, 2, 2000), np.int16)
        clips.read_into(rows, video, audio)
        for index, clip in enumerate(clips.read(rows)):
            assert np.array_equal(video[index], clip.frames.pixels_THWC.transpose(0, 3, 1, 2))  # type: ignore[union-attr]
            assert np.array_equal(audio[index], clip.sound.samples_TN)  # type: ignore[union-attr]

    def test_samples_of_a_clip_can_be_written_to(self, store: Path) -> None:
        clip = ClipStore.open(store).read([0])[0]
        assert clip.sound is not None
        clip.sound.samples_TN[:] = 0
        assert ClipStore.open(store).read([0])[0].sound.samples_TN.any()  # type: ignore[union-attr]

    def test_it_is_pickled_without_its_open_table(self, store: Path) -> None:
        clips = StoreClips(ClipStore.open(store))
        pickled = pickle.dumps(clips)
        assert pickle.loads(pickled)[3].id == clips.ids[3]
        assert len(pickled) < 10_000

    def test_blobs_lie_where_the_table_says(self, store: Path) -> None:
        """The slow twin: Lance's own reader."""
        clips, rows = ClipStore.open(store), [5, 0, 3, 5]
        table = lance.dataset(str(store / "clips.lance"))
        for column in ("frames", "windows"):
            blobs = table.read_blobs(column, indices=rows, preserve_order=True)
            assert clips._values(column, rows) == [value for _, value in blobs]
        assert [b"".join(jpegs) for jpegs in clips.jpegs(rows)] == clips._values("frames", rows)
        assert {len(jpegs) for jpegs in clips.jpegs(rows)} == {PICO.frames}


class TestMetadata:
    def test_it_can_be_read_by_people(self, store: Path, videos: Path) -> None:
        values = json.loads((store / "store.json").read_text())
        assert values["clip"] == GEOMETRY
        assert values["data"] == str(videos)
        assert (values["format"], values["complete"], values["stride_seconds"]) == (FORMAT, True, 1.0)
        assert values["created_by"].startswith("cmmixer ")

    def test_it_comes_back(self, store: Path) -> None:
        metadata = StoreMetadata.read(LocalFolder(store))
        assert metadata.clip == PICO
        assert (metadata.jpeg_quality, metadata.silence_dbfs, metadata.split) == (92, -60.0, None)
        assert metadata.differences(metadata) == []

    def test_an_older_store_is_refused_in_one_line(self, copy: Path) -> None:
        values = json.loads((copy / "store.json").read_text())
        (copy / "store.json").write_text(json.dumps({**values, "format": 2}))
        with pytest.raises(StoreError) as caught:
            ClipStore.open(copy)
        assert str(caught.value) == (
            f"{copy}/store.json: got format 2 of an older version of cmmixer, expected 3; prepare the store again with --overwrite"
        )

    def test_differences_name_the_field_and_both_values(self) -> None:
        other = ClipSettings(**{**GEOMETRY, "height": 48, "frames": 3})
        assert differences(PICO, other) == [
            "frames: got 3, holds 2",
            "height: got 48, holds 32",
        ]
        assert differences(PICO, PICO) == []

    def test_videos_are_not_a_store(self, videos: Path, store: Path) -> None:
        assert ClipStore.is_store(store)
        assert not ClipStore.is_store(videos)
        with pytest.raises(StoreError) as caught:
            ClipStore.open(videos)
        assert str(caught.value) == (
            f"{videos}: no clip store there (store.json is missing); make one with `cmmixer prepare`"
        )


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda s: shutil.rmtree(s / "clips.lance"), r"clips\.lance: missing or damaged"),
            (lambda s: (s / "store.json").write_text("{"), r"store\.json: damaged \(not JSON"),
            (lambda s: (s / "store.json").write_text("[]"), r"store\.json: damaged \(got a JSON list"),
            (lambda s: [f.write_bytes(b"x") for f in (s / "clips.lance/data").iterdir()], "missing or damaged"),
        ],
    )
    def test_it_is_one_line(self, copy: Path, damage: Any, message: str) -> None:
        damage(copy)
        with pytest.raises(StoreError, match=message) as caught:
            ClipStore.open(copy).read([0])
        assert "\n" not in str(caught.value)

    def test_a_damaged_frame_is_reported(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clips = open_store(store)
        jpegs = clips.store.jpegs([4])[0]
        monkeypatch.setattr(ClipStore, "jpegs", lambda self, rows: [[jpegs[0], jpegs[1][:200]]])
        for read in both_ways_to_read(clips):
            with pytest.raises(StoreError, match=r"missing or damaged \(.*[Tt]runcated"):
                read()

    def test_overwritten_bytes_are_reported(self, copy: Path) -> None:
        clips = open_store(copy)
        frames = clips.store._blobs["frames"]
        with open(frames.files[frames.file_C[4]], "r+b") as file:
            file.seek(frames.position_C[4])
            file.write(bytes(100))
        for read in both_ways_to_read(clips):
            with pytest.raises(StoreError, match=r"missing or damaged \(cannot identify image file"):
                read()

    def test_a_file_that_ends_within_the_audio_is_reported(self, copy: Path) -> None:
        clips = open_store(copy)
        windows = clips.store._blobs["windows"]
        end = int(windows.position_C[4] + windows.size_C[4]) - 3
        os.truncate(windows.files[windows.file_C[4]], end)
        with pytest.raises(StoreError, match=rf"missing or damaged \(\w+\.lance: ends early, at byte {end}\)"):
            both_ways_to_read(clips)[1]()

    @pytest.mark.parametrize("kept", [0.0, 0.7])
    def test_a_fragment_cut_off_while_a_run_reads_is_one_line_within_seconds(self, copy: Path, kept: float) -> None:
        loader = ClipBatches(open_store(copy), batch_size=4, seed=0, num_workers=1)
        for fragment in (copy / "clips.lance/data").iterdir():
            os.truncate(fragment, int(kept * fragment.stat().st_size))
        started = time.monotonic()
        with pytest.raises(
            StoreError, match=r"clips\.lance: missing or damaged \(.*\); prepare it again with --over"
        ) as caught:
            list(loader.epoch(0))
        assert time.monotonic() - started < 20
        assert "\n" not in str(caught.value)


class TestChangesUnderAReader:
    def test_videos_may_be_added_while_a_run_reads(self, videos: Path, tmp_path: Path) -> None:
        data = Path(shutil.copytree(videos / "a", tmp_path / "data"))
        prepare(prepare_settings(data, tmp_path / "store"))
        loader = ClipBatches(open_store(tmp_path / "store"), batch_size=2, seed=0, num_workers=1)
        expected = list(ClipBatches(open_store(tmp_path / "store"), batch_size=2, seed=0).epoch(0))
        reading = loader.epoch(0)
        batches = [next(reading)]
        shutil.copytree(videos / "b", data / "b")
        report = prepare(prepare_settings(data, tmp_path / "store"))
        assert (report.clips_before, report.clips) == (12, 30)
        batches += reading
        assert all(same_batch(one, other) for one, other in zip(batches, expected, strict=True))
        # Its workers, and new ones that open the larger table, give the rows that the run began with.
        assert all(same_batch(one, other) for one, other in zip(loader.epoch(0), expected, strict=True))

    def test_an_overwritten_store_is_reported(self, videos: Path, tmp_path: Path) -> None:
        prepare(prepare_settings(videos / "a", tmp_path / "store"))
        clips = open_store(tmp_path / "store")
        loader = ClipBatches(clips, batch_size=4, seed=0, num_workers=1)  # its worker opens the table later
        prepare(prepare_settings(videos / "b", tmp_path / "store", overwrite=True))
        with pytest.raises(StoreError) as caught:
            list(loader.epoch(0))
        assert str(caught.value) == f"{tmp_path}/store: was prepared again while it was read; start again"
