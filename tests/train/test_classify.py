"""Fine-tuning a classifier: which modalities are kept, and what the loss is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.train.classify import ClassifyTask
from tests.models.test_classifier import METADATA
from tests.support.training_runs import random_batch, step_rng

CLIPS = 400


def task(
    present: NDArray[np.bool_] | None = None, *, dropout: float = 0.0, multi_label: bool = False, **options: object
) -> ClassifyTask:
    truth = np.eye(3, dtype=bool)[np.arange(CLIPS) % 3]
    present = np.ones((CLIPS, 2), bool) if present is None else present
    return ClassifyTask(
        dataclasses.replace(METADATA, options={**METADATA.options, **options}),
        0,
        NO_AUGMENTATION,
        ids=[str(row) for row in range(CLIPS)],
        truth_RK=truth,
        present_RS=present,
        multi_label=multi_label,
        modality_dropout=dropout,
    )


def test_dropped_modality_leaves_the_other_one_and_is_never_the_only_one() -> None:
    present = torch.ones(CLIPS, 2)
    present[:50, 0] = 0.0
    present[50:100, 1] = 0.0
    kept = task(present.bool().numpy(), dropout=0.5)._drop_modalities(present, step_rng(CLIPS))
    assert torch.equal(kept[:100], present[:100])
    assert (kept.sum(1) >= 1).all()
    video_only = int((kept[100:, 0] > kept[100:, 1]).sum())
    audio_only = int((kept[100:, 1] > kept[100:, 0]).sum())
    # Each with probability 1/4 of 300, within five standard deviations.
    assert all(abs(count - 75) < 5 * math.sqrt(300 * 0.25 * 0.75) for count in (video_only, audio_only))
    assert torch.equal(task(dropout=0.0)._drop_modalities(present, step_rng(CLIPS)), present)
    always = task(dropout=1.0)._drop_modalities(torch.ones(CLIPS, 2), step_rng(CLIPS))
    assert (always.sum(1) == 1).all()


def test_classifier_of_one_modality_drops_nothing() -> None:
    present = torch.tensor([[1.0], [0.0]])
    kept = task(dropout=1.0, modalities=["audio"])._drop_modalities(present, step_rng(2))
    assert torch.equal(kept, present)


def test_two_processes_drop_what_one_would() -> None:
    present = torch.ones(8, 2)
    one = task(dropout=0.6)._drop_modalities(present, step_rng(8))
    two = [task(dropout=0.6)._drop_modalities(present[:4], step_rng(4, rank=rank, world=2)) for rank in range(2)]
    assert torch.equal(torch.cat(two), one)


@pytest.mark.parametrize("multi_label", [False, True])
def test_loss_is_that_of_the_definition(multi_label: bool) -> None:
    batch, its = random_batch(6), task(multi_label=multi_label)
    loss = its.losses(its.network, batch, step_rng(6))["loss"].item()
    with torch.no_grad():
        inputs = its.inputs.of_modalities(batch, step_rng(6), ("video", "audio"))
        logits = its.classifier(inputs, torch.ones(6, 2)).double()
    total = 0.0
    for row in range(6):
        if multi_label:
            for place in range(3):
                probability = 1 / (1 + math.exp(-logits[row, place].item()))
                total -= math.log(probability if place == row % 3 else 1 - probability) / 3
        else:
            exponentials = [math.exp(value) for value in logits[row].tolist()]
            total -= math.log(exponentials[row % 3] / sum(exponentials))
    assert loss == pytest.approx(total / 6, abs=1e-5)


def test_labels_follow_the_ids_not_the_order_of_the_batch() -> None:
    batch, its = random_batch(4), task()
    forward = its.losses(its.network, batch, step_rng(4))["loss"].item()
    order = [2, 0, 3, 1]
    shuffled = dataclasses.replace(
        batch,
        ids=[batch.ids[row] for row in order],
        video_BTCHW=batch.video_BTCHW[order],
        audio_BTN=batch.audio_BTN[order],
    )
    assert its.losses(its.network, shuffled, step_rng(4))["loss"].item() == pytest.approx(forward, rel=1e-5)


def test_missing_modality_does_not_change_the_loss() -> None:
    present = np.ones((CLIPS, 2), bool)
    present[:, 1] = False
    its, batch = task(present), random_batch(4)
    before = its.losses(its.network, batch, step_rng(4))["loss"].item()
    batch.audio_BTN.zero_()
    assert its.losses(its.network, batch, step_rng(4))["loss"].item() == before
    assert its.reconstruction_image(batch, step_rng(4)) is None
