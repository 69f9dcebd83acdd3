from __future__ import annotations

import pytest
import torch
from torch import nn

from cmmixer.models.standardize import BatchStandardize


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
