"""Heads: pooling, feature normalization, and CCA initialization, against loops, BatchNorm and a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmmixer.config import preset
from cmmixer.evaluation.metrics import rank_metrics, ranks_of
from cmmixer.models.heads import SHRINKAGE, FeatureNorm, Head, fit_cca, pool
from cmmixer.models.patches import Grid, frame_parts
from cmmixer.models.retriever import Retriever
from cmmixer.models.vit import Encoded
from cmmixer.types import Statistics
from tests.reference import heads_slow
from tests.support.small_runs import PICO

STATISTICS = Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1)


def _pairs(count: int, dim: int, shared: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two modalities with `shared` common latent variables, each with its own map, noise and scale."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(count, shared))
    modalities = []
    for _ in range(2):
        noise = rng.normal(size=(count, dim))
        modalities.append((latent @ rng.normal(size=(shared, dim)) + noise) * rng.uniform(0.1, 9, dim) + 5)
    return torch.from_numpy(modalities[0]), torch.from_numpy(modalities[1])


@pytest.mark.parametrize("interleave", [False, True])
def test_pool_equals_loops(interleave: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 1 + 3, 4, generator=generator)
    restore = torch.stack([torch.randperm(8, generator=generator) for _ in range(2)])
    parts = frame_parts(2, Grid(2, 4), 8, interleave)
    clip, frames = pool(Encoded(tokens, torch.zeros(2, 8), restore), parts)
    for b in range(2):
        visible = [token for position in range(3) for token in range(8) if restore[b, token] == position]
        torch.testing.assert_close(clip[b], sum(tokens[b, 1 + position] for position in range(3)) / 3)
        for t in range(2):
            weights = [parts[t, token].item() for token in visible]
            total = sum(w * tokens[b, 1 + position] for position, w in enumerate(weights))
            expected = total / sum(weights) if sum(weights) else torch.zeros(4)
            torch.testing.assert_close(frames[b, t], expected)


@pytest.mark.parametrize("shrinkage", [1e-6, 0.1, 1.0])
def test_cca_correlations_equal_the_slow_twin(shrinkage: float) -> None:
    video, audio = _pairs(200, 12, 4)
    maps = fit_cca(video, audio, shrinkage)
    slow = heads_slow.correlations(video.numpy(), audio.numpy(), shrinkage)
    np.testing.assert_allclose(maps.correlations_K.numpy(), slow, atol=1e-7)


def test_cca_weights_each_direction_by_its_correlation() -> None:
    video, audio = _pairs(300, 10, 3)
    maps = fit_cca(video, audio, 1e-9)
    mapped_video = heads_slow.normalized(video.numpy()) @ maps.video_KD.numpy().T
    mapped_audio = heads_slow.normalized(audio.numpy()) @ maps.audio_KD.numpy().T
    weight = np.diag(maps.correlations_K.numpy())
    # Directions of unit variance with correlation s, scaled by s on both sides: covariances diag(s^2), across diag(s^3).
    np.testing.assert_allclose(heads_slow.covariance(mapped_video, mapped_video), weight**2, atol=1e-6)
    np.testing.assert_allclose(heads_slow.covariance(mapped_audio, mapped_audio), weight**2, atol=1e-6)
    np.testing.assert_allclose(heads_slow.covariance(mapped_video, mapped_audio), weight**3, atol=1e-6)


def test_cca_of_few_pairs_and_constant_features_is_finite() -> None:
    video, audio = _pairs(5, 16, 2)
    video[:, 3] = 1.0
    maps = fit_cca(video, audio)
    assert all(bool(torch.isfinite(part).all()) for part in maps)
    assert float(maps.correlations_K.max()) <= 1.0


def test_cca_refuses_unequal_or_too_few_rows() -> None:
    video, audio = _pairs(5, 4, 2)
    expected = r"^expected at least two pairs of features; got \(5, 4\) of video, \(4, 4\) of audio$"
    with pytest.raises(ValueError, match=expected):
        fit_cca(video, audio[:4])
    with pytest.raises(ValueError, match=r"got \(1, 4\) of video, \(1, 4\) of audio$"):
        fit_cca(video[:1], audio[:1])


@pytest.mark.parametrize("embed_dim", [8, 128, 160])
def test_cca_initialized_heads_match_unseen_pairs(embed_dim: int) -> None:
    torch.manual_seed(0)
    dim = preset("nano").model.dim
    retriever = Retriever(preset("nano").model, PICO, STATISTICS, embed_dim=embed_dim)
    video, audio = _pairs(1200, dim, 6)
    before = _median_rank(retriever, video[1000:], audio[1000:])
    weights = retriever.heads["video"].get_submodule("project").weight.clone()
    retriever.initialize_heads(video[:1000], audio[:1000])
    assert _median_rank(retriever, video[1000:], audio[1000:]) < before / 3
    assert before > 60
    head = retriever.heads["video"]
    assert isinstance(head, Head)
    torch.testing.assert_close(head.feature_norm.running_mean, video[:1000].mean(0).float())
    torch.testing.assert_close(head.feature_norm.running_variance, video[:1000].var(0, correction=0).float())
    assert float(head.feature_norm.batches) == 1.0
    rest = head.project.weight[dim:]
    last = fit_cca(video[:1000], audio[:1000], SHRINKAGE).correlations_K[-1]
    torch.testing.assert_close(rest, weights[dim:] * float(last))


def _median_rank(retriever: Retriever, video: torch.Tensor, audio: torch.Tensor) -> float:
    retriever.eval()
    with torch.no_grad():
        embeddings = [
            retriever.heads[modality](features.float(), features.float()[:, None])[0].numpy()
            for modality, features in (("video", video), ("audio", audio))
        ]
    return rank_metrics(ranks_of(*embeddings))["MedR"]


def test_retriever_features_are_the_input_of_the_head() -> None:
    torch.manual_seed(0)
    retriever = Retriever(preset("nano").model, PICO, STATISTICS, embed_dim=8).eval()
    frames = torch.randn(3, PICO.frames, 3, PICO.height, PICO.width)
    features_BD = retriever.features("audio", frames)
    clip_BE, _ = retriever.heads["audio"](features_BD, features_BD[:, None])
    torch.testing.assert_close(clip_BE, retriever(frames, frames).audio.clip_BE)


def features(batch: int = 8, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return 3 + 2 * torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_feature_norm_equals_loops() -> None:
    out = FeatureNorm(5).double()(features())
    for d in range(5):
        column = features()[:, d].tolist()
        mean = sum(column) / 8
        variance = sum((x - mean) ** 2 for x in column) / 8
        expected = [(x - mean) / (variance + 1e-5) ** 0.5 for x in column]
        assert out[:, d].tolist() == pytest.approx(expected, rel=1e-9)


def test_feature_norm_gradients_equal_batch_norm_without_affine() -> None:
    ours, theirs = features().requires_grad_(), features().requires_grad_()
    weight = features(seed=1)
    (FeatureNorm(5).double()(ours) * weight).sum().backward()
    (nn.BatchNorm1d(5, affine=False).double()(theirs) * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_running_statistics_are_an_average_then_use_momentum() -> None:
    feature_norm = FeatureNorm(5, momentum=0.25).double()
    means, expected = [features(seed=seed).mean(0) for seed in range(6)], torch.zeros(5, dtype=torch.float64)
    for number, mean in enumerate(means, start=1):
        feature_norm(features(seed=number - 1))
        weight = max(0.25, 1 / number)
        expected = (1 - weight) * expected + weight * mean
        torch.testing.assert_close(feature_norm.running_mean, expected)
    assert feature_norm.batches.item() == 6


def test_evaluation_uses_the_running_statistics_unchanged() -> None:
    feature_norm = FeatureNorm(5).double()
    feature_norm(features())
    feature_norm.eval()
    before = {name: value.clone() for name, value in feature_norm.named_buffers()}
    single = feature_norm(features(1, seed=2))
    expected = (features(1, seed=2) - features().mean(0)) / (features().var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(single, expected)
    assert all(torch.equal(before[name], value) for name, value in feature_norm.named_buffers())


def test_other_features_are_normalized_with_given_statistics() -> None:
    feature_norm = FeatureNorm(5).double()
    statistics = feature_norm.statistics(features())
    frames = features(24, seed=3).reshape(8, 3, 5)
    out = feature_norm.normalize(frames, statistics)
    torch.testing.assert_close(out, (frames - features().mean(0)) / (features().var(0, correction=0) + 1e-5).sqrt())


def test_a_constant_feature_gives_zeros() -> None:
    assert FeatureNorm(2)(torch.full((4, 2), 7.0)).eq(0).all()


def test_feature_norm_initialized_from_features_continues_as_after_their_batch() -> None:
    initialized, trained = FeatureNorm(5).double(), FeatureNorm(5).double()
    initialized.initialize_from(features())
    trained(features())
    for norm in (initialized, trained):
        norm(features(seed=1))
    torch.testing.assert_close(initialized.state_dict(), trained.state_dict())


def test_pool_gives_zeros_to_a_frame_whose_tokens_were_all_dropped() -> None:
    tokens, restore = torch.ones(1, 1 + 2, 3), torch.tensor([[0, 1, 2, 3]])  # tokens 0 and 1 of 4 are visible
    parts = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    clip, frames = pool(Encoded(tokens, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), restore), parts)
    assert clip.tolist() == [[1.0, 1.0, 1.0]]
    assert frames.tolist() == [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]


def test_pool_leaves_out_the_cls_token() -> None:
    tokens = torch.cat([torch.full((1, 1, 2), 100.0), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])], dim=1)
    clip, frames = pool(Encoded(tokens, None, None), torch.eye(2))
    assert clip.tolist() == [[2.0, 3.0]]
    assert frames.tolist() == [[[1.0, 2.0], [3.0, 4.0]]]


def test_cca_puts_the_shared_direction_first() -> None:
    """The last feature of the video and the first of the audio are the same signal, the others are noise."""
    noise = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    maps = fit_cca(noise[:, :3], noise[:, 2:], shrinkage=1e-6)
    assert maps.correlations_K[0].item() == pytest.approx(1.0, abs=1e-5)
    assert maps.correlations_K[1].item() < 0.1
    assert maps.video_KD[0].abs().argmax() == 2
    assert maps.audio_KD[0].abs().argmax() == 0


def test_head_embeds_frames_with_the_statistics_of_the_clips() -> None:
    torch.manual_seed(0)
    head, clip = Head(5, 3), features().float()
    clip_BE, frames_BTE = head(clip, clip.unsqueeze(1).expand(-1, 2, -1))
    torch.testing.assert_close(clip_BE.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(frames_BTE, clip_BE.unsqueeze(1).expand(-1, 2, -1))
    assert head.feature_norm.batches.item() == 1
