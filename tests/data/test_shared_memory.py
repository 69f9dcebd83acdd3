"""Shared buffers: a batch stays what it was as long as anything views it, and its buffer is used again afterwards."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmmixer.data import shared_memory as shared_memory_module
from cmmixer.data.loader import ClipBatches
from cmmixer.data.shared_memory import SharedBatch, SharedBatchPool
from cmmixer.errors import SettingsError
from cmmixer.types import Batch
from tests.support.small_runs import PICO
from tests.support.small_stores import open_store

VIDEO_BYTES, AUDIO_BYTES = 2 * 3 * 32 * 32, 2 * 2 * 2000


class FullMemory:
    """What `os.statvfs` says of a file system with 40 kB left."""

    f_bavail, f_frsize = 10, 4096


def shared(pool: SharedBatchPool, buffer: int, count: int = 3) -> SharedBatch:
    return SharedBatch(pool.number, buffer, [str(number) for number in range(count)], [None] * count)


def viewed(pool: SharedBatchPool) -> set[int]:
    gc.collect()
    return pool._viewed


class TestPool:
    def test_arrays_are_the_memory_of_one_buffer(self) -> None:
        pool = SharedBatchPool(PICO, 3, 2)
        video, audio = pool.arrays(1)
        assert (video.shape, video.dtype) == ((3, 2, 3, 32, 32), np.uint8)
        assert (audio.shape, audio.dtype) == ((3, 2, 2000), np.int16)
        video[:], audio[:] = 7, -2
        assert pool.memory[0].sum() == 0 or not (pool.memory[0] == 7).all()
        again, _ = pool.arrays(1)
        assert (again == 7).all()
        assert (pool.memory[1, : 3 * VIDEO_BYTES] == 7).all()

    def test_buffers_and_their_audio_are_aligned(self) -> None:
        odd = PICO.__class__(
            frames=1, height=5, width=7, clip_seconds=1.0, window_seconds=0.0125, sample_rate_hz=8000
        )  # fmt: skip
        pool = SharedBatchPool(odd, 3, 4)
        assert 3 * (3 * 5 * 7) % 64 != 0
        assert pool.buffer_bytes % 64 == 0
        for buffer in range(4):
            video, audio = pool.arrays(buffer)
            offset = audio.__array_interface__["data"][0] - video.__array_interface__["data"][0]
            assert offset == 320  # 315 bytes of video
            assert audio.shape == (3, 1, 100)

    def test_every_buffer_is_handed_out_once(self) -> None:
        pool = SharedBatchPool(PICO, 1, 3)
        assert sorted(buffer for buffer in (pool.acquire() for _ in range(3)) if buffer is not None) == [0, 1, 2]
        assert pool.acquire() is None
        pool.reclaim()
        assert pool.acquire() is not None

    def test_a_buffer_is_free_again_when_the_last_view_is_gone(self) -> None:
        pool = SharedBatchPool(PICO, 3, 1)
        assert pool.acquire() == 0
        batch = pool.batch(shared(pool, 0))
        row = batch.video_BTCHW[2, 0]
        audio = batch.audio_BTN
        del batch
        assert viewed(pool) == {0}
        pool.reclaim()
        assert pool.acquire() is None
        del row
        assert viewed(pool) == {0}
        del audio
        assert viewed(pool) == set()
        assert pool.acquire() == 0

    def test_a_short_batch_views_the_first_rows(self) -> None:
        pool = SharedBatchPool(PICO, 3, 1)
        video, audio = pool.arrays(0)
        video[:], audio[:] = np.arange(3).reshape(3, 1, 1, 1, 1), np.arange(3).reshape(3, 1, 1)
        batch = shared(pool, 0, count=2).batch()
        assert batch.ids == ["0", "1"]
        assert batch.video_BTCHW.shape[0] == batch.audio_BTN.shape[0] == 2
        assert batch.video_BTCHW.unique().tolist() == batch.audio_BTN.unique().tolist() == [0, 1]
        assert batch.video_BTCHW.data_ptr() == pool.memory.data_ptr()  # no copy

    def test_a_worker_s_copy_hands_out_nothing(self) -> None:
        pool = SharedBatchPool(PICO, 1, 2)
        state: dict[str, Any] = pool.__getstate__()
        assert (state["_free"], state["_viewed"]) == ([], set())
        assert state["number"] == pool.number
        assert pool.acquire() is not None

    def test_what_travels_is_small(self) -> None:
        pool = SharedBatchPool(PICO, 3, 2)
        assert len(pickle.dumps(shared(pool, 1))) < 500

    def test_a_batch_is_pinned_like_any_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = SharedBatchPool(PICO, 3, 2)
        video, audio = pool.arrays(1)
        video[:2], audio[:2] = 7, -3
        pinned: list[Batch] = []
        monkeypatch.setattr(Batch, "pin_memory", lambda batch: pinned.append(batch) or "pinned")
        assert SharedBatch(pool.number, 1, ["a", "b"], [None, "x"]).pin_memory() == "pinned"  # type: ignore[comparison-overlap]
        assert (pinned[0].ids, pinned[0].labels) == (["a", "b"], [None, "x"])
        assert pinned[0].video_BTCHW.shape == (2, 2, 3, 32, 32)
        assert pinned[0].video_BTCHW.unique().tolist() == [7]
        assert pinned[0].audio_BTN.unique().tolist() == [-3]


class TestLimits:
    def test_too_little_shared_memory_is_refused_before_a_worker_dies_of_it(
        self, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_memory_module.os, "statvfs", lambda path: FullMemory)
        with pytest.raises(SettingsError) as caught:
            ClipBatches(open_store(store), batch_size=4, seed=0, num_workers=2)
        assert 0.3e6 < 6 * 4 * (VIDEO_BYTES + AUDIO_BYTES) < 0.35e6  # 6 buffers of 4 clips
        assert str(caught.value) == (
            "--num_workers: the batches under way need 0.3 MB of shared memory, /dev/shm has 0.0 MB free; give fewer workers, "
            "a smaller --batch_size or a larger /dev/shm (docker run --shm-size)"
        )

    def test_the_error_names_the_option_of_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shared_memory_module.os, "statvfs", lambda path: FullMemory)
        with pytest.raises(SettingsError, match=r"^--workers: the batches under way need"):
            SharedBatchPool(PICO, 100, 2, "--workers")

    def test_without_a_shared_memory_file_system_nothing_is_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shared_memory_module.os, "statvfs", lambda path: FullMemory)
        monkeypatch.setattr(shared_memory_module, "_SHARED_MEMORY", "/nowhere")
        assert SharedBatchPool(PICO, 4, 6).memory.shape[0] == 6


class TestLoading:
    def test_a_batch_stays_what_it_was_as_long_as_anything_views_it(self, store: Path) -> None:
        loader = ClipBatches(open_store(store), batch_size=2, seed=0, num_workers=1)
        pool = loader._sampler.pool
        assert pool is not None
        views, copies = [], []
        for batch in loader.epoch(0):
            views.append((batch.video_BTCHW[1:], batch.audio_BTN[:, 0]))  # the batch itself is released
            copies.append((batch.video_BTCHW[1:].clone(), batch.audio_BTN[:, 0].clone()))
        assert len(views) == 15 > len(pool.memory)  # beyond the buffers, batches travel in memory of their own
        for view, copy in zip(views, copies, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(view, copy, strict=True))
        assert len(viewed(pool)) == len(pool.memory) == 4
        views.clear()
        del batch, view
        assert viewed(pool) == set()

    def test_an_epoch_that_is_left_early_gives_its_buffers_back(self, store: Path) -> None:
        loader = ClipBatches(open_store(store), batch_size=2, seed=0, num_workers=1)
        pool = loader._sampler.pool
        assert pool is not None
        expected = [batch.ids for batch in ClipBatches(open_store(store), batch_size=2, seed=0).epoch(1)]
        for _ in range(6):
            abandoned = loader.epoch(0)
            next(abandoned)
            del abandoned
        loaded, in_a_buffer = [], []
        for batch in loader.epoch(1):
            offset = batch.video_BTCHW.data_ptr() - pool.memory.data_ptr()
            in_a_buffer.append(0 <= offset < pool.memory.numel())
            loaded.append(batch.ids)
        assert loaded == expected
        assert all(in_a_buffer)
