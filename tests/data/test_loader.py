"""Order and batches: everything follows from (seed, epoch, step), whatever the number of processes and workers."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from cmmixer.data.dataset import KeptClips
from cmmixer.data.loader import ClipBatches, collate, epoch_order, make_loader
from cmmixer.data.statistics import measure_statistics
from cmmixer.errors import DataError, MediaError
from cmmixer.media.mel import MelPictures
from cmmixer.types import Clip
from tests.support.small_runs import PICO, ArrayClips, random_clips


class FaultyClips(ArrayClips):
    """Clips of which some cannot be decoded. Knows how often each was asked for."""

    def __init__(self, count: int, broken: set[int], per_film: int = 1) -> None:
        clips = random_clips(count)
        sources = [f"film {number // per_film}" for number in range(count)]
        super().__init__(clips.video_NTCHW, clips.audio_NTS, sources=sources)
        self.broken = broken
        self.asked: Counter[int] = Counter()

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        self.asked.update(indices)
        error = MediaError("broken.mp4", "unreadable", "damaged")
        return [error if index in self.broken else self[index] for index in indices]


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


def test_the_order_of_an_epoch_is_frozen() -> None:
    # A checkpoint of an older version must go on in the order it began with.
    assert epoch_order(10, seed=3, epoch=2, shuffle=True).tolist() == [7, 4, 1, 8, 6, 0, 2, 9, 3, 5]


def test_global_batch_k_is_the_literal_slice_for_every_rank() -> None:
    dataset, world, size = random_clips(26), 3, 2
    order = epoch_order(26, seed=5, epoch=1, shuffle=True)
    loaders = [make_loader(dataset, batch_size=size, seed=5, epoch=1, rank=r, world=world) for r in range(world)]
    seen = [ids(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [4, 4, 4]
    for k in range(4):
        step = [str(index) for index in order[k * size * world : (k + 1) * size * world]]
        assert flat(seen[r][k] for r in range(world)) == step


def test_one_process_of_sixteen_sees_what_two_of_eight_see() -> None:
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
    with pytest.raises(DataError, match="clips are too few: one step takes 4 clips x 2 processes; give more films"):
        make_loader(dataset, batch_size=4, world=2, drop_last=drop_last)


class TestBrokenFilms:
    def test_the_next_clip_of_another_film_steps_in(self) -> None:
        dataset = FaultyClips(12, broken={3, 4, 6}, per_film=3)  # film 1 = clips 3, 4, 5; film 2 = clips 6, 7, 8
        batches = ClipBatches(dataset, batch_size=12, seed=0, shuffle=False)
        (batch,) = batches.epoch(0)
        # 3 -> 6 is broken too and rules out film 2 -> 9. 6 -> 9.
        assert batch.ids == ["0", "1", "2", "9", "9", "5", "9", "7", "8", "9", "10", "11"]
        assert batches.replaced == 3
        assert [(skip.path, skip.reason) for skip in dataset.skips] == [("broken.mp4", "unreadable")]

    def test_a_broken_file_is_opened_once(self) -> None:
        dataset = FaultyClips(8, broken={2})
        batches = ClipBatches(dataset, batch_size=4, seed=0)
        for epoch in range(3):
            list(batches.epoch(epoch))
        assert batches.replaced == 3
        assert dataset.asked[2] == 1

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

    def test_when_nothing_can_be_decoded_it_is_told(self) -> None:
        batches = ClipBatches(FaultyClips(4, broken={0, 1, 2, 3}), batch_size=2, seed=0)
        with pytest.raises(
            DataError, match=r"4 films in a row could not be decoded, the first one broken\.mp4: damaged"
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
    with pytest.raises(DataError, match="z: training needs picture and sound; it has no sound"):
        collate([half])


@pytest.mark.parametrize(
    ("video", "audio", "ids_given", "told"),
    [
        ((2, 1, 1, 4, 4), (2, 1, 9), None, r"pictures must be uint8 \(N, T, 3, H, W\); got uint8 \(2, 1, 1, 4, 4\)"),
        ((2, 1, 3, 4, 4), (2, 2, 9), None, r"sound windows must be int16 \(2, 1\)"),
        ((2, 1, 3, 4, 4), (2, 1, 9), ["x"], "2 clips need 2 ids; got 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(video: tuple, audio: tuple, ids_given: list | None, told: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=told):
        ArrayClips(np.zeros(video, np.uint8), np.zeros(audio, np.int16), ids_given)


def test_statistics_are_those_of_the_plain_formula() -> None:
    dataset = random_clips(20)
    statistics = measure_statistics(dataset, PICO, limit=100)
    pixels = dataset.video_NTCHW.astype(np.float64) / 255
    decibels = MelPictures(PICO)(torch.from_numpy(dataset.audio_NTS)).double().numpy()
    assert statistics.clips == 20
    assert statistics.picture_mean == pytest.approx(pixels.mean((0, 1, 3, 4)), rel=1e-9)
    assert statistics.picture_std == pytest.approx(pixels.std((0, 1, 3, 4)), rel=1e-9)
    assert statistics.mel_mean == pytest.approx(decibels.mean(), rel=1e-6)
    assert statistics.mel_std == pytest.approx(decibels.std(), rel=1e-6)


def test_statistics_look_at_no_more_clips_than_asked() -> None:
    dataset = FaultyClips(60, broken=set())
    assert measure_statistics(dataset, PICO, limit=20).clips == 20
    assert dataset.asked.total() == 32  # two batches of 16
    assert measure_statistics(dataset, PICO, limit=20) == measure_statistics(dataset, PICO, limit=20)


def test_kept_clips_are_the_same_and_are_decoded_once() -> None:
    plain, asked = random_clips(12), FaultyClips(12, broken={5})
    kept = KeptClips(asked, most_bytes=10**9)
    for epoch in (0, 1, 2):
        got = list(make_loader(kept, batch_size=4, seed=1, epoch=epoch))
        want = list(make_loader(FaultyClips(12, broken={5}), batch_size=4, seed=1, epoch=epoch))
        assert ids(got) == ids(want)
        for mine, other in zip(got, want, strict=True):
            assert torch.equal(mine.video_BTCHW, other.video_BTCHW)
            assert torch.equal(mine.audio_BTN, other.audio_BTN)
    assert all(asked.asked[index] == 1 for index in range(12) if index != 5)
    assert asked.asked[5] == 3  # what failed is not remembered here; each loader asks once
    one = plain[0]
    assert one.frames is not None
    assert one.sound is not None
    size = one.frames.pixels_THWC.nbytes + one.sound.samples_TN.nbytes
    assert kept.kept_bytes == 11 * size
    assert kept.ids == plain.ids
    with pytest.raises(MediaError, match="damaged"):
        kept[5]


def test_no_more_clips_are_kept_than_memory_is_given() -> None:
    asked = FaultyClips(10, broken=set())
    size = random_clips(1).video_NTCHW[0].nbytes + random_clips(1).audio_NTS[0].nbytes
    kept = KeptClips(asked, most_bytes=3 * size + 1)
    for _ in range(2):
        assert [clip.id for clip in kept.read(range(10)) if isinstance(clip, Clip)] == [str(n) for n in range(10)]
    assert kept.kept_bytes == 3 * size
    assert sum(asked.asked.values()) == 10 + 7
    # Twice the same clip in one request is decoded once.
    assert [clip.id for clip in kept.read([9, 9]) if isinstance(clip, Clip)] == ["9", "9"]
    assert asked.asked[9] == 3


def test_batches_of_a_killed_worker_are_loaded_by_another(tmp_path: Path) -> None:
    dataset = DeadlyClips(24, deadly=13, marks=tmp_path, times=2)
    batches = ClipBatches(dataset, batch_size=4, seed=0, num_workers=2)
    got = [ids(batches.epoch(epoch)) for epoch in (0, 1)]
    assert len(list(tmp_path.iterdir())) == 2
    assert got == [ids(make_loader(random_clips(24), batch_size=4, seed=0, epoch=epoch)) for epoch in (0, 1)]


def test_what_kills_every_worker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmmixer.data.loader.MOST_DEATHS", 1)  # torch notices a death every five seconds
    batches = ClipBatches(DeadlyClips(8, 5, tmp_path, times=99), batch_size=4, seed=0, num_workers=1)
    with pytest.raises(DataError, match="--num_workers: 2 times in a row a loading process was killed; if memory runs"):
        list(batches.epoch(0))
