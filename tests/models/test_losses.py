"""Contrastive losses against slow twins: values, gradients, precision, and two processes against one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from cmmixer.models.heads import FeatureNorm
from cmmixer.models.losses import frame_vectors, info_nce, nt_xent, sequence_vectors
from tests.reference import losses_slow
from tests.support.gloo_processes import run_processes

SCALE, TEMPERATURE = 4.0, 0.25
Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "infonce": lambda video, audio: info_nce(video, audio, SCALE),
    "nt_xent": lambda video, audio: nt_xent(video, audio, TEMPERATURE),
}
SLOW = {
    "infonce": lambda video, audio: losses_slow.info_nce(video, audio, SCALE),
    "nt_xent": lambda video, audio: losses_slow.nt_xent(video, audio, TEMPERATURE),
}


def unit_pairs(pairs: int = 5, length: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, pairs, length, dtype=torch.float64, generator=generator)
    video, audio = functional.normalize(drawn, dim=-1)
    return video, audio


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_losses_of_pairs_equal_the_slow_twin(name: str, pairs: int) -> None:
    video, audio = unit_pairs(pairs)
    slow = SLOW[name](video.tolist(), audio.tolist())
    assert LOSSES[name](video, audio).item() == pytest.approx(slow, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_differences_of_the_slow_twin(name: str) -> None:
    video, audio = unit_pairs()
    leaves = video.clone().requires_grad_(), audio.clone().requires_grad_()
    LOSSES[name](*leaves).backward()
    delta = 1e-6
    for modality, (clean, leaf) in enumerate(zip((video, audio), leaves, strict=True)):
        for i, j in ((0, 0), (2, 3), (4, 1)):
            values = []
            for sign in (1, -1):
                moved = clean.clone()
                moved[i, j] += sign * delta
                pair = (moved, audio) if modality == 0 else (video, moved)
                values.append(SLOW[name](pair[0].tolist(), pair[1].tolist()))
            assert leaf.grad is not None
            assert leaf.grad[i, j].item() == pytest.approx((values[0] - values[1]) / (2 * delta), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_pass_gradcheck(name: str) -> None:
    video, audio = unit_pairs(4, 3)
    assert torch.autograd.gradcheck(LOSSES[name], (video.requires_grad_(), audio.requires_grad_()))


def test_the_logit_scale_passes_gradcheck() -> None:
    video, audio = unit_pairs()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: info_nce(video, audio, value), (scale,))


def test_losses_of_perfect_pairs_and_of_equal_vectors() -> None:
    basis = torch.eye(6)
    assert info_nce(basis, basis, 100.0).item() < 1e-6
    same = torch.ones(6, 4) / 2
    assert info_nce(same, same, 10.0).item() == pytest.approx(math.log(6), rel=1e-6)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(11), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_in_half_precision(name: str) -> None:
    video, audio = (tensor.float() for tensor in unit_pairs(8))
    half = LOSSES[name](video.bfloat16(), audio.bfloat16())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(LOSSES[name](video, audio).item(), rel=0.02)


def test_sequence_vectors_have_the_mean_cosine_of_aligned_frames() -> None:
    frames = functional.normalize(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    vectors = sequence_vectors(frames)
    assert vectors.shape == (3, 20)
    for i in range(3):
        for j in range(3):
            cosines = [losses_slow.dot(frames[i, t].tolist(), frames[j, t].tolist()) for t in range(4)]
            assert (vectors[i] @ vectors[j]).item() == pytest.approx(sum(cosines) / 4, abs=1e-12)


def test_frame_vectors_list_clip_after_clip() -> None:
    frames = torch.arange(12.0).reshape(2, 3, 2)
    assert frame_vectors(frames).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_depend_on_the_order_of_pairs_or_on_which_modality_is_first(name: str) -> None:
    video, audio = unit_pairs(6)
    loss, order = LOSSES[name](video, audio).item(), [3, 0, 5, 1, 4, 2]
    assert LOSSES[name](video[order], audio[order]).item() == pytest.approx(loss, rel=1e-12)
    assert LOSSES[name](audio, video).item() == pytest.approx(loss, rel=1e-12)
    assert LOSSES[name](video, audio[order]).item() != pytest.approx(loss, rel=1e-3)


class Towers(nn.Module):
    """Two small towers with a `FeatureNorm`, as in the retriever."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.video = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), FeatureNorm(8), nn.Linear(8, 4))
        self.audio = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), FeatureNorm(8), nn.Linear(8, 4))
        self.double()

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        return functional.normalize(self.video(video), dim=-1), functional.normalize(self.audio(audio), dim=-1)


def batch_of(pairs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(pairs, 6, generator=generator, dtype=torch.float64),
        torch.randn(pairs, 5, generator=generator, dtype=torch.float64),
    )


def towers_step(rank: int, world: int, name: str) -> dict[str, Any]:
    """Loss, gradients and running statistics of this process's part of 8 pairs."""
    towers = Towers()
    rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
    video, audio = (tensor[rows] for tensor in batch_of(8))
    network = DistributedDataParallel(towers) if world > 1 else towers
    loss = LOSSES[name](*network(video, audio))
    loss.backward()
    gradients = {key: value.grad for key, value in towers.named_parameters()}
    return {"loss": loss.item(), "gradients": gradients, "buffers": dict(towers.named_buffers())}


def both_losses(rank: int, world: int) -> dict[str, dict[str, Any]]:
    return {name: towers_step(rank, world, name) for name in LOSSES}


def test_two_processes_with_four_pairs_equal_one_with_eight() -> None:
    single, processes = both_losses(0, 1), run_processes(both_losses, 2, 2)
    for name in LOSSES:
        mean_loss = sum(process[name]["loss"] for process in processes) / 2
        assert mean_loss == pytest.approx(single[name]["loss"], rel=1e-12)
        for process in processes:
            for kind in ("gradients", "buffers"):
                for key, expected in single[name][kind].items():
                    torch.testing.assert_close(
                        process[name][kind][key], expected, rtol=1e-9, atol=1e-12, msg=f"{name} {key}"
                    )
