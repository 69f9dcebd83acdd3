"""Learning to name classes: what is shown of a clip, by chance and by what it has, and what the loss is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.data.loader import collate
from cmmixer.train.classify import ClassifyTask
from cmmixer.train.inputs import Chance, chance_of_step
from tests.models.test_classifier import CARD
from tests.support.small_runs import random_clips

CLIPS = 400


def task(there: np.ndarray | None = None, *, dropout: float = 0.0, several: bool = False) -> ClassifyTask:
    truth = np.eye(3, dtype=bool)[np.arange(CLIPS) % 3]
    there = np.ones((CLIPS, 2), bool) if there is None else there
    ids = [str(row) for row in range(CLIPS)]
    return ClassifyTask(
        CARD, 0, NO_AUGMENTATION, ids=ids, truth_RK=truth, there_RS=there, several=several, sense_dropout=dropout
    )


def chance(batch: int, rank: int = 0, world: int = 1) -> Chance:
    return chance_of_step(0, 0, device=torch.device("cpu"), rank=rank, world=world, batch_size=batch)


def test_a_dropped_sense_leaves_the_other_one_and_never_the_only_one() -> None:
    there = torch.ones(CLIPS, 2)
    there[:50, 0] = 0.0
    there[50:100, 1] = 0.0
    shown = task(there.bool().numpy(), dropout=0.5)._keep(there, chance(CLIPS))
    assert torch.equal(shown[:100], there[:100])
    assert (shown.sum(1) >= 1).all()
    video_only = int((shown[100:, 0] > shown[100:, 1]).sum())
    audio_only = int((shown[100:, 1] > shown[100:, 0]).sum())
    # Each with probability 1/4 of 300: five standard deviations around.
    assert all(abs(count - 75) < 5 * math.sqrt(300 * 0.25 * 0.75) for count in (video_only, audio_only))
    assert torch.equal(task(dropout=0.0)._keep(there, chance(CLIPS)), there)
    everyone = task(dropout=1.0)._keep(torch.ones(CLIPS, 2), chance(CLIPS))
    assert (everyone.sum(1) == 1).all()


def test_two_processes_drop_what_one_would() -> None:
    there = torch.ones(8, 2)
    one = task(dropout=0.6)._keep(there, chance(8))
    two = [task(dropout=0.6)._keep(there[:4], chance(4, rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(two), one)


@pytest.mark.parametrize("several", [False, True])
def test_the_loss_is_that_of_the_definition(several: bool) -> None:
    dataset = random_clips(6)
    batch = collate([dataset[row] for row in range(6)])
    its = task(several=several)
    loss = its.losses(its.network, batch, chance(6))["loss"].item()
    with torch.no_grad():
        logits = its.classifier(its.inputs.each(batch, chance(6), ("video", "audio")), torch.ones(6, 2)).double()
    total = 0.0
    for row in range(6):
        if several:
            for place in range(3):
                probability = 1 / (1 + math.exp(-logits[row, place].item()))
                total -= math.log(probability if place == row % 3 else 1 - probability) / 3
        else:
            exponents = [math.exp(value) for value in logits[row].tolist()]
            total -= math.log(exponents[row % 3] / sum(exponents))
    assert loss == pytest.approx(total / 6, abs=1e-5)
