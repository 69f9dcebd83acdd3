"""The classifier's logits are those of its formula; a sense that is missing counts as an average one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import preset
from cmmixer.models.classifier import Classifier
from cmmixer.models.retriever import Retriever
from cmmixer.types import Statistics
from tests.support.small_runs import PICO, random_clips

CARD = Card(
    kind="classifier",
    model=dataclasses.replace(preset("nano").model, depth=2),
    clip=PICO,
    statistics=Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1),
    options={"senses": ["video", "audio"], "classes": ["dog", "cat", "rain"]},
    settings={},
)


def decoded() -> tuple[torch.Tensor, torch.Tensor]:
    clips = random_clips(5)
    return torch.from_numpy(clips.video_NTCHW), torch.from_numpy(clips.audio_NTS)


def started() -> tuple[Classifier, Retriever]:
    network = checkpoint.build(CARD, seed=1)
    towers = checkpoint.build(dataclasses.replace(CARD, kind="retriever", options={}), seed=2)
    assert isinstance(network, Classifier)
    assert isinstance(towers, Retriever)
    network.start_from(towers)
    chance = torch.Generator().manual_seed(0)
    width = CARD.model.dim
    network.start_head(
        torch.randn(3, 2 * width, generator=chance),
        torch.randn(3, generator=chance),
        torch.randn(2, width, generator=chance),
        torch.rand(2, width, generator=chance) + 0.5,
    )
    return network.eval(), towers.eval()


def test_logits_follow_the_formula_from_the_towers_of_the_run() -> None:
    network, towers = started()
    pixels, windows = decoded()
    keep = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    got = network.classify(pixels, windows, keep)
    with torch.no_grad():
        features = [
            towers.features("video", towers.frontend.video(pixels)),
            towers.features("audio", towers.frontend.audio(windows)),
        ]
        for row in range(5):
            standard = [
                keep[row, place] * (features[place][row] - network.mean_SD[place]) / network.spread_SD[place]
                for place in range(2)
            ]
            expected = network.head.weight @ torch.cat(standard) + network.head.bias
            torch.testing.assert_close(got[row], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[3], network.head.bias.detach())


def test_a_missing_sense_counts_as_an_average_one() -> None:
    network, towers = started()
    pixels, windows = decoded()
    with torch.no_grad():
        network.mean_SD[1] = towers.features("audio", towers.frontend.audio(windows))[0]
    present = network.classify(pixels[:1], windows[:1], torch.ones(1, 2))
    missing = network.classify(pixels[:1], windows[:1], torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(present, missing, rtol=1e-4, atol=1e-4)


def test_one_sense_is_all_that_it_looks_at() -> None:
    card = dataclasses.replace(CARD, options={"senses": ["audio"], "classes": ["dog", "cat"]})
    network = checkpoint.build(card).eval()
    assert isinstance(network, Classifier)
    _, windows = decoded()
    blank = torch.zeros(5, PICO.frames, 3, 1, 1, dtype=torch.uint8)
    assert network.classify(blank, windows, torch.ones(5, 1)).shape == (5, 2)
    assert [name for name, _ in network.named_parameters() if "video" in name] == []


@pytest.mark.parametrize("shared", [False, True])
def test_towers_of_a_shared_retriever_are_taken_for_each_sense(shared: bool) -> None:
    network = checkpoint.build(CARD, seed=1)
    towers = checkpoint.build(dataclasses.replace(CARD, kind="retriever", options={"shared_tower": shared}), seed=2)
    assert isinstance(network, Classifier)
    assert isinstance(towers, Retriever)
    network.start_from(towers)
    for sense in ("video", "audio"):
        for name, value in towers.tower(sense).state_dict().items():
            assert torch.equal(network.encoders[sense].state_dict()[name], value)
