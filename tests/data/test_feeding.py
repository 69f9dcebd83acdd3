"""Clips from a store through worker processes: the same values whoever loads them, and clear words when the store fails."""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
import torch
from PIL import Image

from cmmixer.config import PrepareSettings
from cmmixer.config.data import DataSettings
from cmmixer.data import shared_memory as slots_module
from cmmixer.data.clip_encoding import decode_jpeg, encode_jpeg
from cmmixer.data.dataset import StoreClips, open_clips
from cmmixer.data.loader import ClipBatches, collate, epoch_order
from cmmixer.data.prepare import prepare
from cmmixer.data.shared_memory import Filled, Slots
from cmmixer.data.store import ClipStore
from cmmixer.errors import SettingsError, StoreError
from cmmixer.storage.files import only_writer
from cmmixer.types import Batch
from tests.support.small_runs import PICO
from tests.support.small_videos import film

GEOMETRY: dict[str, Any] = {
    "frames": PICO.frames,
    "height": PICO.height,
    "width": PICO.width,
    "clip_seconds": PICO.clip_seconds,
    "window_seconds": PICO.window_seconds,
    "sample_rate_hz": PICO.sample_rate_hz,
}


def settings(data: Path, out: Path, **changes: Any) -> PrepareSettings:
    return PrepareSettings(**{"data": str(data), "out": str(out), "workers": 1, **GEOMETRY, **changes})


@pytest.fixture(scope="module")
def store(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 clips."""
    out = tmp_path_factory.mktemp("stores") / "films"
    prepare(settings(films, out, workers=2))
    return out


def opened(store: Path) -> StoreClips:
    clips = open_clips(DataSettings(data=str(store)), PICO)
    assert isinstance(clips, StoreClips)
    return clips


def same(one: Batch, other: Batch) -> bool:
    return (
        (one.ids, one.labels) == (other.ids, other.labels)
        and torch.equal(one.video_BTCHW, other.video_BTCHW)
        and torch.equal(one.audio_BTN, other.audio_BTN)
    )


class TestValues:
    def test_a_jpeg_s_planes_are_what_the_plain_way_gives(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (24, 17, 3), np.uint8)
        jpeg = encode_jpeg(picture, 90)
        planes = np.empty((3, 24, 17), np.uint8)
        decode_jpeg(jpeg, planes)
        assert np.array_equal(planes.transpose(1, 2, 0), np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        with pytest.raises(ValueError, match="could not broadcast"):
            decode_jpeg(jpeg, np.empty((3, 24, 16), np.uint8))

    def test_batches_are_the_stacked_clips(self, store: Path) -> None:
        clips = opened(store)
        for step, batch in enumerate(ClipBatches(clips, batch_size=7, seed=5, num_workers=1).epoch(3)):
            rows = epoch_order(30, seed=5, epoch=3, shuffle=True)[7 * step : 7 * step + 7]
            assert same(batch, collate([clips[int(row)] for row in rows]))  # through `Clip`s, one at a time

    @pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
    @pytest.mark.parametrize(("workers", "world"), [(0, 3), (1, 2), (3, 1)])
    def test_any_number_of_workers_and_processes_gives_the_same_global_batches(
        self, store: Path, workers: int, world: int
    ) -> None:
        clips, size = opened(store), 6
        alone = ClipBatches(clips, batch_size=size, seed=1)
        ranks = [
            ClipBatches(clips, batch_size=size // world, seed=1, rank=rank, world=world, num_workers=workers)
            for rank in range(world)
        ]
        for epoch, start in ((0, 0), (1, 0), (1, 3), (2, 4)):
            whole = list(alone.epoch(epoch))[start:]
            parts = [list(rank.epoch(epoch, start)) for rank in ranks]
            assert [len(part) for part in parts] == [len(whole)] * world == [5 - start] * world
            for step, batch in enumerate(whole):
                mine = [part[step] for part in parts]
                assert [name for one in mine for name in one.ids] == batch.ids
                assert torch.equal(torch.cat([one.video_BTCHW for one in mine]), batch.video_BTCHW)
                assert torch.equal(torch.cat([one.audio_BTN for one in mine]), batch.audio_BTN)

    def test_without_drop_last_the_last_batch_is_shorter(self, store: Path) -> None:
        clips = opened(store)
        loaders = [ClipBatches(clips, batch_size=8, seed=0, drop_last=False, num_workers=workers) for workers in (0, 1)]
        got = [list(loader.epoch(0)) for loader in loaders]
        assert [len(batch) for batch in got[1]] == [8, 8, 8, 6]
        assert all(same(one, other) for one, other in zip(*got, strict=True))

    def test_a_batch_stays_what_it_was_as_long_as_somebody_looks_into_it(self, store: Path) -> None:
        loader = ClipBatches(opened(store), batch_size=2, seed=0, num_workers=1)
        slots = loader._plan.slots
        assert slots is not None
        kept, copies = [], []
        for batch in loader.epoch(0):
            kept.append((batch.video_BTCHW[1:], batch.audio_BTN[:, 0]))  # the batch itself is let go
            copies.append((batch.video_BTCHW[1:].clone(), batch.audio_BTN[:, 0].clone()))
        assert len(kept) == 15 > len(slots.memory)  # beyond the slots, batches travel by themselves
        assert all(
            torch.equal(a, b)
            for mine, other in zip(kept, copies, strict=True)
            for a, b in zip(mine, other, strict=True)
        )
        assert len(slots._held) == len(slots.memory) == 4
        kept.clear()
        del batch
        gc.collect()
        assert slots._held == set()

    def test_an_epoch_that_is_left_gives_its_slots_back(self, store: Path) -> None:
        loader = ClipBatches(opened(store), batch_size=2, seed=0, num_workers=1)
        slots = loader._plan.slots
        assert slots is not None
        want = [batch.ids for batch in ClipBatches(opened(store), batch_size=2, seed=0).epoch(1)]
        for _ in range(6):
            left = loader.epoch(0)
            next(left)
            del left
        by_slot = []
        for batch in loader.epoch(1):
            first, room = batch.video_BTCHW.data_ptr(), slots.memory
            by_slot.append(0 <= first - room.data_ptr() < room.numel())
            assert batch.ids == want[len(by_slot) - 1]
        assert all(by_slot)

    def test_a_batch_in_a_slot_is_pinned_like_any_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slots = Slots(PICO, 3, 2)
        video, audio = slots.arrays(1)
        video[:2], audio[:2] = 7, -3
        seen = []
        monkeypatch.setattr(Batch, "pin_memory", lambda batch: seen.append(batch) or "pinned")
        assert Filled(slots.number, 1, ["a", "b"], [None, "x"]).pin_memory() == "pinned"
        assert seen[0].ids == ["a", "b"]
        assert seen[0].video_BTCHW.shape == (2, 2, 3, 32, 32)
        assert seen[0].video_BTCHW.unique().tolist() == [7]
        assert seen[0].audio_BTN.unique().tolist() == [-3]


class TestFaults:
    def test_too_little_shared_memory_is_told_before_a_worker_dies_of_it(
        self, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Small:
            f_bavail, f_frsize = 10, 4096

        monkeypatch.setattr(slots_module.os, "statvfs", lambda path: Small)
        with pytest.raises(SettingsError) as caught:
            ClipBatches(opened(store), batch_size=4, seed=0, num_workers=2)
        # 6 slots of 4 clips: 2 x 3 x 32 x 32 bytes of pictures and 2 x 2000 x 2 of sound each
        assert str(caught.value) == (
            "--num_workers: the batches under way need 0.3 MB of shared memory, /dev/shm has 0.0 MB free; give fewer workers, "
            "a smaller --batch_size or a larger /dev/shm (docker run --shm-size)"
        )

    def test_a_store_that_is_being_written_is_not_one_that_was_stopped(self, films: Path, tmp_path: Path) -> None:
        prepare(settings(films / "a", tmp_path / "store"))
        with only_writer(tmp_path / "store", StoreError("busy")):
            assert len(opened(tmp_path / "store")) == 12  # whole, whatever is being added
            card = tmp_path / "store/store.json"
            card.write_text(card.read_text().replace('"complete": true', '"complete": false'))
            with pytest.raises(StoreError, match="a `prepare` is writing to it; wait until it has ended"):
                opened(tmp_path / "store")
        with pytest.raises(StoreError, match="its `prepare` was stopped; run the same command again"):
            opened(tmp_path / "store")

    def test_films_may_be_added_while_a_run_reads(self, films: Path, tmp_path: Path) -> None:
        data = Path(shutil.copytree(films / "a", tmp_path / "data"))
        prepare(settings(data, tmp_path / "store"))
        loader = ClipBatches(opened(tmp_path / "store"), batch_size=2, seed=0, num_workers=1)
        want = list(ClipBatches(opened(tmp_path / "store"), batch_size=2, seed=0).epoch(0))
        reading = loader.epoch(0)
        got = [next(reading)]
        shutil.copytree(films / "b", data / "b")
        report = prepare(settings(data, tmp_path / "store"))
        assert (report.clips_before, report.clips) == (12, 30)
        got += reading
        assert all(same(one, other) for one, other in zip(got, want, strict=True))
        # Its workers, and new ones that open the larger table, give the rows that the run began with.
        assert all(same(one, other) for one, other in zip(loader.epoch(0), want, strict=True))

    def test_a_store_written_anew_under_a_reader_is_told(self, films: Path, tmp_path: Path) -> None:
        prepare(settings(films / "a", tmp_path / "store"))
        clips = opened(tmp_path / "store")
        loader = ClipBatches(clips, batch_size=4, seed=0, num_workers=1)  # its worker opens the table later
        prepare(settings(films / "b", tmp_path / "store", overwrite=True))
        with pytest.raises(StoreError, match="was prepared anew while it was read; start again") as caught:
            list(loader.epoch(0))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kept", [0.0, 0.7])
    def test_a_fragment_cut_off_while_a_run_reads_is_one_line_within_seconds(
        self, store: Path, tmp_path: Path, kept: float
    ) -> None:
        copy = Path(shutil.copytree(store, tmp_path / "store"))
        loader = ClipBatches(opened(copy), batch_size=4, seed=0, num_workers=1)
        for fragment in (copy / "clips.lance/data").iterdir():
            os.truncate(fragment, int(kept * fragment.stat().st_size))
        begun = time.monotonic()
        with pytest.raises(
            StoreError, match=r"clips\.lance: missing or damaged \(.*\); prepare it again with --over"
        ) as told:
            list(loader.epoch(0))
        assert time.monotonic() - begun < 20
        assert "\n" not in str(told.value)

    def test_a_damaged_picture_is_told(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clips = opened(store)
        jpegs = clips.store.jpegs([4])[0]
        monkeypatch.setattr(ClipStore, "jpegs", lambda self, rows: [[jpegs[0], jpegs[1][:200]]])
        for read in both_ways_to_read(clips):
            with pytest.raises(StoreError, match=r"missing or damaged \(.*[Tt]runcated"):
                read()

    def test_bytes_that_were_written_over_are_told(self, store: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(store, tmp_path / "store"))
        clips = opened(copy)
        pictures = clips.store._aside["frames"]
        with open(pictures.files[pictures.file_C[4]], "r+b") as file:
            file.seek(pictures.position_C[4])
            file.write(bytes(100))
        for read in both_ways_to_read(clips):
            with pytest.raises(StoreError, match=r"missing or damaged \(cannot identify image file"):
                read()

    def test_a_file_that_ends_before_a_sound_is_told(self, store: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(store, tmp_path / "store"))
        clips = opened(copy)
        sounds = clips.store._aside["windows"]
        end = int(sounds.position_C[4] + sounds.size_C[4]) - 3
        os.truncate(sounds.files[sounds.file_C[4]], end)
        with pytest.raises(StoreError, match=rf"missing or damaged \(\w+\.lance: ends early, at byte {end}\)"):
            both_ways_to_read(clips)[1]()

    def test_values_lie_where_the_table_says(self, store: Path) -> None:
        """The slow twin: Lance's own reader."""
        clips = opened(store).store
        rows = [5, 0, 3, 5]
        table = lance.dataset(str(store / "clips.lance"))
        for column in ("frames", "windows"):
            told = table.read_blobs(column, indices=rows, preserve_order=True)
            assert clips._values(column, rows) == [value for _, value in told]
        assert [b"".join(jpegs) for jpegs in clips.jpegs(rows)] == clips._values("frames", rows)


def both_ways_to_read(clips: StoreClips) -> list[Callable[[], Any]]:
    """Row 4 as a clip, and laid down in a batch."""
    video, audio = np.empty((1, 2, 3, 32, 32), np.uint8), np.empty((1, 2, 2000), np.int16)
    return [lambda: clips.read([4]), lambda: clips.read_into([4], video, audio)]


class TestCommand:
    def test_training_on_a_store_with_a_truncated_fragment_ends_in_one_line(self, store: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(store, tmp_path / "store"))
        fragments = sorted((copy / "clips.lance/data").iterdir())
        os.truncate(fragments[-1], fragments[-1].stat().st_size // 2)
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        flags = ["--data", str(copy), "--out", str(tmp_path / "run"), "--preset", "nano", "--num_workers", "1"]
        for name, value in GEOMETRY.items():
            flags += [f"--{name}", str(value)]
        done = subprocess.run(
            [sys.executable, "-m", "cmmixer", "pretrain", *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "rror" in line]
        assert "clips.lance: missing or damaged" in line
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before

    def test_a_file_size_limit_is_a_full_disk_for_prepare(self, films: Path, store: Path, tmp_path: Path) -> None:
        flags = ["--data", str(films), "--out", str(tmp_path / "store"), "--workers", "1"]
        for name, value in GEOMETRY.items():
            flags += [f"--{name}", str(value)]
        code = (
            "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)); from cmmixer.cli.main import main; sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "prepare", *flags], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("cmmixer")]
        assert f"{tmp_path / 'store'}: a file may not grow any larger there (see `ulimit -f`" in line
        ClipStore.open(tmp_path / "store")  # what is there is a store
        prepare(settings(films, tmp_path / "store"))
        assert ClipStore.open(tmp_path / "store").ids == ClipStore.open(store).ids


def test_a_small_film_more(tmp_path: Path) -> None:
    """More decoder processes than films."""
    film(tmp_path / "films/one.mp4", seconds=2.0)
    assert prepare(settings(tmp_path / "films", tmp_path / "store", workers=8)).clips == 2
