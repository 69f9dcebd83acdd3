"""Cross-clip frame mixup: permutations within groups, probabilities, several processes, both modalities alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Generator, Tensor, nn

from cmmixer.checkpoint import Metadata
from cmmixer.config import FinetuneSettings, preset
from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.data.loader import collate
from cmmixer.models.frame_mixup import GROUP, draw_frame_rows, local_rows, take_frames
from cmmixer.train.finetune import FinetuneTask
from cmmixer.train.inputs import rng_for_step
from cmmixer.types import Clip, Statistics
from tests.reference import frame_mixup_slow
from tests.support.small_runs import PICO, random_clips

STATISTICS = Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1)


def drawn(prob: float = 1.0, *, batch: int = 16, frames: int = 3, seed: int = 0) -> Tensor:
    return draw_frame_rows(prob, batch=batch, frames=frames, generator=Generator().manual_seed(seed))


@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 100))
def test_frames_are_permuted_within_each_group(batch: int, frames: int, seed: int) -> None:
    rows = drawn(batch=batch, frames=frames, seed=seed)
    assert rows.shape == (batch, frames)
    for start in range(0, batch, GROUP):
        group = list(range(start, min(start + GROUP, batch)))
        for time in range(frames):
            sources = rows[group, time].tolist()
            assert sorted(sources) == group
            if len(group) < GROUP:
                assert sources == group


def test_each_clip_of_a_group_is_drawn_equally_often() -> None:
    rows = drawn(batch=GROUP * 2000, frames=2) % GROUP
    for clip in range(GROUP):
        counts = torch.bincount(rows[clip::GROUP].flatten(), minlength=GROUP) / 4000
        assert counts.tolist() == pytest.approx([1 / GROUP] * GROUP, abs=0.03)


@pytest.mark.parametrize("prob", [0.0, 0.3])
def test_prob_is_the_fraction_of_mixed_clips(prob: float) -> None:
    rows = drawn(prob, batch=8000, frames=8)
    own = (rows == torch.arange(8000).unsqueeze(1)).all(1)
    # A mixed clip draws eight frames of its own once in 4^8.
    assert float((~own).float().mean()) == pytest.approx(prob, abs=0.02)


def test_take_frames_is_the_formula() -> None:
    rows = drawn(batch=8)
    for shape in ((8, 3, 3, 4, 4), (8, 3, 5)):
        frames = torch.randn(shape)
        assert torch.equal(take_frames(frames, rows), frame_mixup_slow.mixed(frames, rows.tolist()))


def test_processes_with_full_groups_mix_as_one_process_would() -> None:
    frames, rows = torch.randn(16, 3, 2), drawn()
    whole = take_frames(frames, rows)
    for batch in (4, 8):
        parts = [slice(start, start + batch) for start in range(0, 16, batch)]
        assert torch.equal(torch.cat([take_frames(frames[part], local_rows(rows, part)) for part in parts]), whole)


def test_frames_of_another_process_are_replaced_by_the_own_frame() -> None:
    rows = torch.tensor([[1, 2], [0, 1], [2, 0], [3, 3]])
    assert local_rows(rows, slice(0, 2)).tolist() == [[1, 0], [0, 1]]
    assert local_rows(rows, slice(2, 4)).tolist() == [[0, 0], [1, 1]]


def test_fine_tuning_takes_both_modalities_from_the_same_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Metadata(
        kind="retriever",
        model=preset("nano").model,
        clip=PICO,
        statistics=STATISTICS,
        options={"embed_dim": 8},
        settings={},
    )
    settings = FinetuneSettings(data="videos", **dataclasses.asdict(NO_AUGMENTATION))
    assert FinetuneTask(metadata, settings, clips=500).frame_mixup_prob == 0.0
    task, plain = (
        FinetuneTask(metadata, settings, 499),
        FinetuneTask(metadata, dataclasses.replace(settings, frame_mixup_prob=0.0), 499),
    )
    seen: list[tuple[Tensor, Tensor]] = []

    class Recorder(nn.Module):
        def forward(self, video: Tensor, audio: Tensor, **options: Any) -> Any:
            seen.append((video, audio))
            return task.network(video, audio, **options)

    clips = [clip for clip in random_clips(8).read(range(8)) if isinstance(clip, Clip)]
    batch = collate(clips)
    for finetuning in (task, plain):
        finetuning.losses(
            Recorder(), batch, rng_for_step(0, 0, device=torch.device("cpu"), rank=0, world=1, batch_size=8)
        )
    (video, audio), (own_video, own_audio) = seen
    for clip in range(8):
        for time in range(metadata.clip.frames):
            taken = [row for row in range(8) if torch.equal(video[clip, time], own_video[row, time])]
            assert taken == [row for row in range(8) if torch.equal(audio[clip, time], own_audio[row, time])]
            assert len(taken) == 1
    assert not torch.equal(video, own_video)
