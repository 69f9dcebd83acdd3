"""Pair mixing: frames are dealt out anew among neighbours, picture and sound alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Generator, Tensor, nn

from cmmixer.checkpoint import Card
from cmmixer.config import FinetuneSettings, preset
from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.data.loader import collate
from cmmixer.models.pair_mixup import GROUP, draw_frame_rows, own_rows, take_frames
from cmmixer.train.finetune import FinetuneTask
from cmmixer.train.inputs import chance_of_step
from cmmixer.types import Clip, Statistics
from tests.reference import pair_mixup_slow
from tests.support.small_runs import PICO, random_clips

STANDARD = Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1)


def drawn(prob: float = 1.0, *, batch: int = 16, frames: int = 3, seed: int = 0) -> Tensor:
    return draw_frame_rows(prob, batch=batch, frames=frames, generator=Generator().manual_seed(seed))


@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 100))
def test_every_frame_of_a_whole_group_is_dealt_to_exactly_one_clip(batch: int, frames: int, seed: int) -> None:
    rows = drawn(batch=batch, frames=frames, seed=seed)
    assert rows.shape == (batch, frames)
    for start in range(0, batch, GROUP):
        group = list(range(start, min(start + GROUP, batch)))
        for place in range(frames):
            dealt = rows[group, place].tolist()
            assert sorted(dealt) == group
            if len(group) < GROUP:
                assert dealt == group


def test_every_clip_of_the_group_is_dealt_as_often_as_any_other() -> None:
    rows = drawn(batch=GROUP * 2000, frames=2) % GROUP
    for clip in range(GROUP):
        counts = torch.bincount(rows[clip::GROUP].flatten(), minlength=GROUP) / 4000
        assert counts.tolist() == pytest.approx([1 / GROUP] * GROUP, abs=0.03)


@pytest.mark.parametrize("prob", [0.0, 0.3])
def test_prob_is_the_part_of_clips_that_is_mixed(prob: float) -> None:
    rows = drawn(prob, batch=8000, frames=8)
    own = (rows == torch.arange(8000).unsqueeze(1)).all(1)
    # A clip that is mixed is dealt eight frames of its own once in 4^8.
    assert float((~own).float().mean()) == pytest.approx(prob, abs=0.02)


def test_taking_frames_is_the_formula_for_any_shape_behind_clips_and_frames() -> None:
    rows = drawn(batch=8)
    for shape in ((8, 3, 3, 4, 4), (8, 3, 5)):
        pictures = torch.randn(shape)
        assert torch.equal(take_frames(pictures, rows), pair_mixup_slow.mixed(pictures, rows.tolist()))


def test_processes_with_whole_groups_mix_as_one_process_would() -> None:
    pictures, rows = torch.randn(16, 3, 2), drawn()
    whole = take_frames(pictures, rows)
    for each in (4, 8):
        parts = [slice(start, start + each) for start in range(0, 16, each)]
        assert torch.equal(torch.cat([take_frames(pictures[part], own_rows(rows, part)) for part in parts]), whole)


def test_a_frame_of_another_process_is_replaced_by_the_clip_s_own() -> None:
    rows = torch.tensor([[1, 2], [0, 1], [2, 0], [3, 3]])
    assert own_rows(rows, slice(0, 2)).tolist() == [[1, 0], [0, 1]]
    assert own_rows(rows, slice(2, 4)).tolist() == [[0, 0], [1, 1]]


def test_fine_tuning_lays_the_same_clips_over_both_senses(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(
        kind="retriever",
        model=preset("nano").model,
        clip=PICO,
        statistics=STANDARD,
        options={"embed_dim": 8},
        settings={},
    )
    settings = FinetuneSettings(data="films", **dataclasses.asdict(NO_AUGMENTATION))
    assert FinetuneTask(card, settings, clips=500).pair_mix_prob == 0.0
    task, plain = (
        FinetuneTask(card, settings, 499),
        FinetuneTask(card, dataclasses.replace(settings, pair_mix_prob=0.0), 499),
    )
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(nn.Module):
        def forward(self, video: Tensor, audio: Tensor, **named: Any) -> Any:
            seen.append((video, audio))
            return task.network(video, audio, **named)

    clips = [clip for clip in random_clips(8).read(range(8)) if isinstance(clip, Clip)]
    batch = collate(clips)
    for each in (task, plain):
        each.losses(Watched(), batch, chance_of_step(0, 0, device=torch.device("cpu"), rank=0, world=1, batch_size=8))
    (video, audio), (own_video, own_audio) = seen
    for clip in range(8):
        for place in range(card.clip.frames):
            taken = [row for row in range(8) if torch.equal(video[clip, place], own_video[row, place])]
            assert taken == [row for row in range(8) if torch.equal(audio[clip, place], own_audio[row, place])]
            assert len(taken) == 1
    assert not torch.equal(video, own_video)
