"""The classifier: logits by the formula, missing modalities, towers taken from a retriever."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import preset
from cmmixer.models.classifier import Classifier
from cmmixer.models.retriever import Retriever
from cmmixer.types import Statistics
from tests.support.small_runs import PICO, random_clips

METADATA = Metadata(
    kind="classifier",
    model=dataclasses.replace(preset("nano").model, depth=2),
    clip=PICO,
    statistics=Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1),
    options={"modalities": ["video", "audio"], "classes": ["dog", "cat", "rain"]},
    settings={},
)


def decoded() -> tuple[torch.Tensor, torch.Tensor]:
    clips = random_clips(5)
    return torch.from_numpy(clips.video_NTCHW), torch.from_numpy(clips.audio_NTS)


def initialized() -> tuple[Classifier, Retriever]:
    network = checkpoint.build(METADATA, seed=1)
    towers = checkpoint.build(dataclasses.replace(METADATA, kind="retriever", options={}), seed=2)
    assert isinstance(network, Classifier)
    assert isinstance(towers, Retriever)
    network.load_towers(towers)
    generator = torch.Generator().manual_seed(0)
    width = METADATA.model.dim
    network.initialize_head(
        torch.randn(3, 2 * width, generator=generator),
        torch.randn(3, generator=generator),
        torch.randn(2, width, generator=generator),
        torch.rand(2, width, generator=generator) + 0.5,
    )
    return network.eval(), towers.eval()


def test_logits_are_the_formula() -> None:
    network, towers = initialized()
    pixels, windows = decoded()
    keep = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    logits = network.classify(pixels, windows, keep)
    with torch.no_grad():
        features = [
            towers.features("video", towers.frontend.video(pixels)),
            towers.features("audio", towers.frontend.audio(windows)),
        ]
        for row in range(5):
            normalized = [keep[row, s] * (features[s][row] - network.mean_SD[s]) / network.std_SD[s] for s in range(2)]
            expected = network.head.weight @ torch.cat(normalized) + network.head.bias
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[3], network.head.bias.detach())


def test_a_missing_modality_counts_as_an_average_one() -> None:
    network, towers = initialized()
    pixels, windows = decoded()
    with torch.no_grad():
        network.mean_SD[1] = towers.features("audio", towers.frontend.audio(windows))[0]
    present = network.classify(pixels[:1], windows[:1], torch.ones(1, 2))
    missing = network.classify(pixels[:1], windows[:1], torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(present, missing, rtol=1e-4, atol=1e-4)


def test_an_audio_classifier_ignores_the_frames() -> None:
    metadata = dataclasses.replace(METADATA, options={"modalities": ["audio"], "classes": ["dog", "cat"]})
    network = checkpoint.build(metadata).eval()
    assert isinstance(network, Classifier)
    _, windows = decoded()
    blank = torch.zeros(5, PICO.frames, 3, 1, 1, dtype=torch.uint8)
    assert network.classify(blank, windows, torch.ones(5, 1)).shape == (5, 2)
    assert [name for name, _ in network.named_parameters() if "video" in name] == []


@pytest.mark.parametrize("shared", [False, True])
def test_load_towers_copies_those_of_the_retriever(shared: bool) -> None:
    network = checkpoint.build(METADATA, seed=1)
    towers = checkpoint.build(dataclasses.replace(METADATA, kind="retriever", options={"shared_tower": shared}), seed=2)
    assert isinstance(network, Classifier)
    assert isinstance(towers, Retriever)
    network.load_towers(towers)
    for modality in ("video", "audio"):
        for name, value in towers.tower(modality).state_dict().items():
            assert torch.equal(network.encoders[modality].state_dict()[name], value)


def test_preprocess_normalizes_the_modalities_of_the_classifier_in_their_order() -> None:
    network, _ = initialized()
    pixels, windows = decoded()
    video, audio = network.preprocess(pixels, windows)
    assert torch.equal(video, network.frontend.video(pixels))
    assert torch.equal(audio, network.frontend.audio(windows))


def test_features_are_those_of_the_towers_in_float32() -> None:
    network, towers = initialized()
    pixels, windows = decoded()
    features = network.features(network.preprocess(pixels, windows))
    assert (features.shape, features.dtype) == ((5, 2, METADATA.model.dim), torch.float32)
    torch.testing.assert_close(features[:, 0], towers.features("video", towers.frontend.video(pixels)))
    torch.testing.assert_close(features[:, 1], towers.features("audio", towers.frontend.audio(windows)))


def test_an_untrained_classifier_normalizes_features_with_mean_0_and_deviation_1() -> None:
    network = checkpoint.build(METADATA, seed=1)
    assert isinstance(network, Classifier)
    assert network.mean_SD.eq(0).all()
    assert network.std_SD.eq(1).all()
    assert network.mean_SD.shape == network.std_SD.shape == (2, METADATA.model.dim)
    assert network.head.weight.shape == (3, 2 * METADATA.model.dim)
