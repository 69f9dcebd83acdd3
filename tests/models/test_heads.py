"""Canonical heads: the correlations of the definition, maps that reach them, heads that find pairs before any step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmmixer.config import preset
from cmmixer.evaluation.metrics import rank_metrics, ranks_of
from cmmixer.models.heads import SHRINKAGE, BatchStandardize, canonical_maps
from cmmixer.models.retriever import Head, Retriever
from cmmixer.types import Statistics
from tests.reference import heads_slow
from tests.support.small_runs import PICO

STATISTICS = Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1)


def _pairs(count: int, dim: int, shared: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two senses that have `shared` hidden causes in common, under maps and offsets of their own."""
    chance = np.random.default_rng(seed)
    causes = chance.normal(size=(count, shared))
    sides = []
    for _ in range(2):
        own = chance.normal(size=(count, dim))
        sides.append((causes @ chance.normal(size=(shared, dim)) + own) * chance.uniform(0.1, 9, dim) + 5)
    return torch.from_numpy(sides[0]), torch.from_numpy(sides[1])


@pytest.mark.parametrize("shrinkage", [1e-6, 0.1, 1.0])
def test_correlations_are_those_of_the_slow_twin(shrinkage: float) -> None:
    video, audio = _pairs(200, 12, 4)
    maps = canonical_maps(video, audio, shrinkage)
    slow = heads_slow.correlations(video.numpy(), audio.numpy(), shrinkage)
    np.testing.assert_allclose(maps.correlations_K.numpy(), slow, atol=1e-7)


def test_mapped_pairs_correlate_as_said_and_each_direction_is_weighted() -> None:
    video, audio = _pairs(300, 10, 3)
    maps = canonical_maps(video, audio, 1e-9)
    mapped_video = heads_slow.standardised(video.numpy()) @ maps.video_KD.numpy().T
    mapped_audio = heads_slow.standardised(audio.numpy()) @ maps.audio_KD.numpy().T
    weight = np.diag(maps.correlations_K.numpy())
    # Own covariance diag(s^2), covariance across diag(s^3): unit directions with correlation s, times s on both sides.
    np.testing.assert_allclose(heads_slow.covariance(mapped_video, mapped_video), weight**2, atol=1e-6)
    np.testing.assert_allclose(heads_slow.covariance(mapped_audio, mapped_audio), weight**2, atol=1e-6)
    np.testing.assert_allclose(heads_slow.covariance(mapped_video, mapped_audio), weight**3, atol=1e-6)


def test_fewer_pairs_than_features_and_constant_features_give_finite_maps() -> None:
    video, audio = _pairs(5, 16, 2)
    video[:, 3] = 1.0
    maps = canonical_maps(video, audio)
    assert all(bool(torch.isfinite(part).all()) for part in maps)
    assert float(maps.correlations_K.max()) <= 1.0


def test_what_are_no_pairs_is_refused() -> None:
    video, audio = _pairs(5, 4, 2)
    with pytest.raises(ValueError, match=r"expected pairs of features, at least two; got .*\[5, 4\].*\[4, 4\]"):
        canonical_maps(video, audio[:4])
    with pytest.raises(ValueError, match="at least two"):
        canonical_maps(video[:1], audio[:1])


@pytest.mark.parametrize("embed_dim", [8, 128, 160])
def test_heads_find_partners_that_were_never_seen(embed_dim: int) -> None:
    torch.manual_seed(0)
    dim = preset("nano").model.dim
    retriever = Retriever(preset("nano").model, PICO, STATISTICS, embed_dim=embed_dim)
    video, audio = _pairs(1200, dim, 6)
    before = _median_rank(retriever, video[1000:], audio[1000:])
    weights = retriever.heads["video"].get_submodule("project").weight.clone()
    retriever.start_heads(video[:1000], audio[:1000])
    assert _median_rank(retriever, video[1000:], audio[1000:]) < before / 3
    assert before > 60
    head = retriever.heads["video"]
    assert isinstance(head, Head)
    torch.testing.assert_close(head.standardize.running_mean, video[:1000].mean(0).float())
    torch.testing.assert_close(head.standardize.running_variance, video[:1000].var(0, correction=0).float())
    assert float(head.standardize.batches) == 1.0
    rest = head.project.weight[dim:]
    last = canonical_maps(video[:1000], audio[:1000], SHRINKAGE).correlations_K[-1]
    torch.testing.assert_close(rest, weights[dim:] * float(last))


def _median_rank(retriever: Retriever, video: torch.Tensor, audio: torch.Tensor) -> float:
    retriever.eval()
    with torch.no_grad():
        found = [
            retriever.heads[sense](features.float(), features.float()[:, None]).clip_BE.numpy()
            for sense, features in (("video", video), ("audio", audio))
        ]
    return rank_metrics(ranks_of(*found))["MedR"]


def test_features_are_what_the_head_is_given() -> None:
    torch.manual_seed(0)
    retriever = Retriever(preset("nano").model, PICO, STATISTICS, embed_dim=8).eval()
    pictures = torch.randn(3, PICO.frames, 3, PICO.height, PICO.width)
    features_BD = retriever.features("audio", pictures)
    embedded = retriever.heads["audio"](features_BD, features_BD[:, None]).clip_BE
    torch.testing.assert_close(embedded, retriever(pictures, pictures).audio.clip_BE)


def features(batch: int = 8, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return 3 + 2 * torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_loops() -> None:
    given, out = features(), BatchStandardize(5).double()(features())
    for d in range(5):
        column = given[:, d].tolist()
        mean = sum(column) / 8
        variance = sum((x - mean) ** 2 for x in column) / 8
        expected = [(x - mean) / (variance + 1e-5) ** 0.5 for x in column]
        assert out[:, d].tolist() == pytest.approx(expected, rel=1e-9)


def test_values_and_gradients_are_those_of_batch_norm_without_affine() -> None:
    ours, theirs = features().requires_grad_(), features().requires_grad_()
    weight = features(seed=1)
    (BatchStandardize(5).double()(ours) * weight).sum().backward()
    (nn.BatchNorm1d(5, affine=False).double()(theirs) * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_running_statistics_begin_as_an_average_and_go_on_with_momentum() -> None:
    standardize = BatchStandardize(5, momentum=0.25).double()
    means, expected = [features(seed=seed).mean(0) for seed in range(6)], torch.zeros(5, dtype=torch.float64)
    for number, mean in enumerate(means, start=1):
        standardize(features(seed=number - 1))
        step = max(0.25, 1 / number)
        expected = (1 - step) * expected + step * mean
        torch.testing.assert_close(standardize.running_mean, expected)
    assert standardize.batches.item() == 6


def test_evaluation_uses_the_running_statistics_and_leaves_them() -> None:
    standardize = BatchStandardize(5).double()
    standardize(features())
    standardize.eval()
    before = {name: value.clone() for name, value in standardize.named_buffers()}
    alone = standardize(features(1, seed=2))
    expected = (features(1, seed=2) - features().mean(0)) / (features().var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(alone, expected)
    assert all(torch.equal(before[name], value) for name, value in standardize.named_buffers())


def test_other_features_pass_with_the_same_statistics() -> None:
    standardize = BatchStandardize(5).double()
    statistics = standardize.statistics(features())
    frames = features(24, seed=3).reshape(8, 3, 5)
    out = standardize.apply_to(frames, statistics)
    torch.testing.assert_close(out, (frames - features().mean(0)) / (features().var(0, correction=0) + 1e-5).sqrt())


def test_a_constant_feature_gives_zeros() -> None:
    assert BatchStandardize(2)(torch.full((4, 2), 7.0)).eq(0).all()
