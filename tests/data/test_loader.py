"""Batches follow from (seed, epoch, step), whatever the number of processes and workers, and whatever becomes of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cmmixer.data.loader import ClipBatches, collate, is_worker_death, make_loader
from cmmixer.data.sampler import epoch_order
from cmmixer.errors import DataError, MediaError
from cmmixer.types import Clip
from tests.support.small_runs import ArrayClips, FaultyClips, random_clips
from tests.support.small_stores import open_store, same_batch


class DeadlyClips(ArrayClips):
    """Clips that kill the process which reads one of them, as the system does: for so many times, or always."""

    def __init__(self, count: int, deadly: int, marks: Path, times: int) -> None:
        clips = random_clips(count)
        super().__init__(clips.video_NTCHW, clips.audio_NTS)
        self.deadly, self.marks, self.times = deadly, marks, times

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        died = len(list(self.marks.iterdir()))
        if self.deadly in indices and died < self.times:
            (self.marks / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [self[index] for index in indices]


def ids(batches: object) -> list[list[str]]:
    return [batch.ids for batch in batches]  # type: ignore[attr-defined]


def flat(lists: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(lists))


def test_one_epoch_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    dataset = random_clips(24)
    epochs = [flat(ids(make_loader(dataset, batch_size=4, seed=s, epoch=e))) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(epoch, key=int) == dataset.ids for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] == flat(ids(make_loader(dataset, batch_size=4, seed=0, epoch=0)))
    in_order = make_loader(dataset, batch_size=4, shuffle=False, epoch=3)
    assert flat(ids(in_order)) == dataset.ids


def test_global_batch_k_is_the_literal_slice_for_every_rank() -> None:
    dataset, world, size = random_clips(26), 3, 2
    order = epoch_order(26, seed=5, epoch=1, shuffle=True)
    loaders = [make_loader(dataset, batch_size=size, seed=5, epoch=1, rank=r, world=world) for r in range(world)]
    seen = [ids(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [4, 4, 4]
    for k in range(4):
        step = [str(index) for index in order[k * size * world : (k + 1) * size * world]]
        assert flat(seen[r][k] for r in range(world)) == step


def test_two_processes_of_eight_see_what_one_of_sixteen_sees() -> None:
    dataset = random_clips(40)
    together = list(make_loader(dataset, batch_size=16, seed=1))
    apart = [list(make_loader(dataset, batch_size=8, seed=1, rank=rank, world=2)) for rank in (0, 1)]
    for step, batch in enumerate(together):
        assert torch.equal(batch.video_BTCHW, torch.cat([apart[0][step].video_BTCHW, apart[1][step].video_BTCHW]))
        assert torch.equal(batch.audio_BTN, torch.cat([apart[0][step].audio_BTN, apart[1][step].audio_BTN]))


def test_an_epoch_can_be_entered_at_any_step() -> None:
    dataset = random_clips(20)
    whole = ids(make_loader(dataset, batch_size=4, seed=2))
    for start in range(6):
        loader = make_loader(dataset, batch_size=4, seed=2, start_step=start)
        assert ids(loader) == whole[start:]
        assert len(loader) == len(whole[start:])


def test_without_drop_last_every_clip_comes_once_also_with_several_processes() -> None:
    dataset = random_clips(12)
    alone = make_loader(dataset, batch_size=4, seed=0, drop_last=False)
    assert [len(batch) for batch in alone] == [4, 4, 4]
    seen = []
    for rank in (0, 1):
        loader = make_loader(dataset, batch_size=4, seed=0, drop_last=False, rank=rank, world=2)
        seen += [batch.ids for batch in loader]
        assert len(loader) == len(list(loader)) == (2, 1)[rank]
    assert sorted(flat(seen), key=int) == dataset.ids
    assert [len(batch) for batch in make_loader(random_clips(13), batch_size=4, drop_last=False)] == [4, 4, 4, 1]


@pytest.mark.parametrize("drop_last", [True, False])
def test_too_few_clips_are_an_error_that_says_what_to_do(drop_last: bool) -> None:
    dataset = (
        random_clips(7) if drop_last else ArrayClips(np.zeros((0, 2, 3, 4, 4), np.uint8), np.zeros((0, 2, 9), np.int16))
    )
    with pytest.raises(DataError, match="clips are too few: one step takes 4 clips x 2 processes; give more videos"):
        make_loader(dataset, batch_size=4, world=2, drop_last=drop_last)


class TestBrokenVideos:
    def test_the_next_clip_of_another_video_steps_in(self) -> None:
        dataset = FaultyClips(12, broken={3, 4, 6}, per_video=3)  # video 1 = clips 3, 4, 5; video 2 = clips 6, 7, 8
        batches = ClipBatches(dataset, batch_size=12, seed=0, shuffle=False)
        (batch,) = batches.epoch(0)
        # 3 -> 6 is broken too and rules out video 2 -> 9. 6 -> 9.
        assert batch.ids == ["0", "1", "2", "9", "9", "5", "9", "7", "8", "9", "10", "11"]
        assert batches.replaced == 3
        assert [(skip.path, skip.reason) for skip in dataset.skips] == [("broken.mp4", "unreadable")]

    def test_a_broken_file_is_opened_once(self) -> None:
        dataset = FaultyClips(8, broken={2})
        batches = ClipBatches(dataset, batch_size=4, seed=0)
        for epoch in range(3):
            list(batches.epoch(epoch))
        assert batches.replaced == 3
        assert dataset.reads[2] == 1

    def test_the_same_steps_in_for_any_number_of_workers_and_any_start(self) -> None:
        whole = None
        for workers in (0, 2):
            dataset = FaultyClips(24, broken={1, 5, 9, 10})
            batches = ClipBatches(dataset, batch_size=4, seed=3, num_workers=workers)
            seen = [ids(batches.epoch(0)), ids(batches.epoch(1)), ids(batches.epoch(1, start_step=4))]
            whole = whole or seen
            assert seen == whole
            assert seen[2] == seen[1][4:]
            assert batches.replaced > 8
            assert dataset.skips.total == 1

    def test_workers_stay_alive_and_a_left_epoch_does_no_harm(self) -> None:
        batches = ClipBatches(random_clips(24), batch_size=4, seed=0, num_workers=1)
        iterator = batches.epoch(0)
        next(iterator)
        workers = {worker.pid for worker in batches._loader._iterator._workers}  # type: ignore[union-attr]
        assert os.getpid() not in workers
        assert ids(batches.epoch(1)) == ids(make_loader(random_clips(24), batch_size=4, seed=0, epoch=1))
        assert {worker.pid for worker in batches._loader._iterator._workers} == workers  # type: ignore[union-attr]

    def test_an_epoch_without_a_decodable_video_fails(self) -> None:
        batches = ClipBatches(FaultyClips(4, broken={0, 1, 2, 3}), batch_size=2, seed=0)
        with pytest.raises(
            DataError, match=r"4 videos in a row could not be decoded, the first one broken\.mp4: damaged"
        ):
            list(batches.epoch(0))


def test_collate_stacks_channels_first() -> None:
    dataset = ArrayClips(
        np.arange(2 * 1 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 1, 3, 2, 2),
        np.array([[[1, 2, 3]], [[4, 5, 6]]], dtype=np.int16),
        ids=["x", "y"],
        labels=["dog", None],
    )
    batch = collate([dataset[1], dataset[0]])
    assert batch.ids == ["y", "x"]
    assert batch.labels == [None, "dog"]
    assert batch.video_BTCHW[1].flatten().tolist() == list(range(12))
    assert batch.video_BTCHW.is_contiguous()
    assert batch.audio_BTN.tolist() == [[[4, 5, 6]], [[1, 2, 3]]]
    half = Clip(id="z", source="z", label=None, span=dataset.span, frames=dataset[0].frames, sound=None)
    with pytest.raises(DataError, match="z: training needs video and audio; it has no audio"):
        collate([half])


@pytest.mark.parametrize(
    ("video", "audio", "ids_given", "message"),
    [
        ((2, 1, 1, 4, 4), (2, 1, 9), None, r"frames must be uint8 \(N, T, 3, H, W\); got uint8 \(2, 1, 1, 4, 4\)"),
        ((2, 1, 3, 4, 4), (2, 2, 9), None, r"audio windows must be int16 \(2, 1\)"),
        ((2, 1, 3, 4, 4), (2, 1, 9), ["x"], "2 clips need 2 ids; got 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(video: tuple, audio: tuple, ids_given: list | None, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=message):
        ArrayClips(np.zeros(video, np.uint8), np.zeros(audio, np.int16), ids_given)


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torch look for dead workers every 0.2 s instead of every 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.mark.usefixtures("quick_watch")
def test_batches_of_a_killed_worker_are_loaded_by_another(tmp_path: Path) -> None:
    dataset = DeadlyClips(24, deadly=13, marks=tmp_path, times=2)
    batches = ClipBatches(dataset, batch_size=4, seed=0, num_workers=2)
    got = [ids(batches.epoch(epoch)) for epoch in (0, 1)]
    assert len(list(tmp_path.iterdir())) == 2
    assert got == [ids(make_loader(random_clips(24), batch_size=4, seed=0, epoch=epoch)) for epoch in (0, 1)]


@pytest.mark.usefixtures("quick_watch")
def test_workers_that_die_again_and_again_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmmixer.data.loader.MAX_WORKER_DEATHS", 1)
    batches = ClipBatches(DeadlyClips(8, 5, tmp_path, times=99), batch_size=4, seed=0, num_workers=1)
    with pytest.raises(DataError, match="--num_workers: 2 times in a row a loading process was killed; if memory runs"):
        list(batches.epoch(0))


@pytest.mark.parametrize(
    ("error", "is_death"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (EOFError(), True),
        (ConnectionResetError("connection reset by peer"), True),
        (FileNotFoundError("/torch_7"), True),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."), False),
        (ValueError("DataLoader worker"), False),
    ],
)
def test_a_death_of_a_worker_is_told_from_other_errors(error: Exception, is_death: bool) -> None:
    assert is_worker_death(error) is is_death


def test_a_worker_s_own_error_is_raised(tmp_path: Path) -> None:
    class BuggyClips(ArrayClips):
        def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
            raise ValueError("a bug")

    clips = random_clips(4)
    with pytest.raises(ValueError, match="a bug"):
        list(ClipBatches(BuggyClips(clips.video_NTCHW, clips.audio_NTS), batch_size=2, seed=0).epoch(0))


def test_an_epoch_knows_how_many_batches_are_left() -> None:
    loader = make_loader(random_clips(12), batch_size=4)
    assert [len(make_loader(random_clips(12), batch_size=4, start_step=start)) for start in range(5)] == [3, 2, 1, 0, 0]
    assert ids(loader) == ids(loader)  # it can be iterated again
    assert len(ClipBatches(random_clips(12), batch_size=4, seed=0)) == 3


def test_replacements_end_with_the_limit_of_failed_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmmixer.data.loader.MAX_FAILED_VIDEOS", 3)
    dataset = FaultyClips(12, broken=set(range(11)))
    with pytest.raises(DataError, match=r"^4 videos in a row could not be decoded"):
        list(ClipBatches(dataset, batch_size=2, seed=0, shuffle=False).epoch(0))
    assert dataset.reads[11] == 0


class TestFromAStore:
    def test_batches_are_the_stacked_clips(self, store: Path) -> None:
        clips = open_store(store)
        for step, batch in enumerate(ClipBatches(clips, batch_size=7, seed=5, num_workers=1).epoch(3)):
            rows = epoch_order(30, seed=5, epoch=3, shuffle=True)[7 * step : 7 * step + 7]
            assert same_batch(batch, collate([clips[int(row)] for row in rows]))  # through `Clip`s, one at a time

    @pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
    @pytest.mark.parametrize(("workers", "world"), [(0, 3), (1, 2), (3, 1)])
    def test_any_number_of_workers_and_processes_gives_the_same_global_batches(
        self, store: Path, workers: int, world: int
    ) -> None:
        clips, size = open_store(store), 6
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
        clips = open_store(store)
        loaders = [ClipBatches(clips, batch_size=8, seed=0, drop_last=False, num_workers=workers) for workers in (0, 1)]
        batches = [list(loader.epoch(0)) for loader in loaders]
        assert [len(batch) for batch in batches[1]] == [8, 8, 8, 6]
        assert all(same_batch(one, other) for one, other in zip(*batches, strict=True))
