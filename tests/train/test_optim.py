"""The optimizer: its groups and steps, the schedule, clipping, and steps that are refused without the host waiting."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cmmixer import checkpoint
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import CheckpointError, NonFiniteError
from cmmixer.train.finetune import FinetuneTask, finetune
from cmmixer.train.loop import _Trainer
from cmmixer.train.optim import (
    StepGuard,
    StepRecord,
    adamw,
    clip_gradients,
    learning_rate,
    load_state_tensors,
    ordered_parameters,
    state_tensors,
)
from cmmixer.train.pretrain import pretrain
from tests.support.small_runs import random_clips
from tests.support.training_runs import finetune_settings, pretrain_settings


class Small(nn.Module):
    """Two matrices, two vectors, a scalar, and a frozen vector."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.first = nn.Linear(3, 4)
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.second = nn.Linear(4, 2)


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def set_gradients(network: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_only_matrices_decay() -> None:
    network = small()
    optimizer = adamw(network, TrainingSettings(weight_decay=0.3, beta1=0.8, beta2=0.9))
    groups = [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    assert groups == [(2, 0.3), (2, 0.0), (1, 0.0)]
    assert all(group["betas"] == (0.8, 0.9) and group["fused"] for group in optimizer.param_groups)
    listed = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert listed == set(ordered_parameters(network)) == {p for p in network.parameters() if p.requires_grad}


def test_group_without_parameters_is_left_out() -> None:
    optimizer = adamw(nn.Linear(2, 2, bias=False), TrainingSettings())
    assert len(optimizer.param_groups) == 1


def test_steps_are_those_of_the_formula() -> None:
    """AdamW, algorithm 2 of arXiv 1711.05101, with the decay multiplied by the learning rate."""
    network = small()
    optimizer = adamw(network, TrainingSettings(weight_decay=0.1, beta1=0.9, beta2=0.95))
    lr, expected = 0.01, {}
    for name, parameter in network.named_parameters():
        expected[name] = (
            parameter.detach().double().clone(),
            torch.zeros(parameter.shape),
            torch.zeros(parameter.shape),
        )
    for step in (1, 2, 3):
        set_gradients(network, seed=step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                weight, first, second = expected[name]
                gradient = parameter.grad.double()
                weight = weight * (1 - lr * (0.1 if parameter.ndim >= 2 else 0.0))
                first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
                weight = weight - lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
                expected[name] = weight, first, second
        optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name][0], rtol=1e-5, atol=1e-6)


def test_parameters_are_ordered_matrices_first() -> None:
    network = small()
    first, second = network.first, network.second
    expected = [first.weight, second.weight, network.scale, first.bias, second.bias]
    assert all(one is other for one, other in zip(ordered_parameters(network), expected, strict=True))


def test_state_is_loaded_into_another_optimizer() -> None:
    network = small()
    optimizer = adamw(network, TrainingSettings())
    assert state_tensors(optimizer, network) == {}
    for step in (1, 2):
        set_gradients(network, seed=step)
        optimizer.step()
    state = {name: value.clone() for name, value in state_tensors(optimizer, network).items()}
    assert sorted(state) == sorted(
        f"{number}.{key}" for number in range(5) for key in ("step", "exp_avg", "exp_avg_sq")
    )
    assert float(state["4.step"]) == 2.0
    twin = copy.deepcopy(network)
    other = adamw(twin, TrainingSettings(weight_decay=0.7))
    load_state_tensors(other, twin, state)
    assert other.param_groups[0]["weight_decay"] == 0.7  # settings are those of the new optimizer
    loaded = state_tensors(other, twin)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("max_norm", [0.5, 100.0, 0.0])
def test_gradients_are_scaled_together(max_norm: float) -> None:
    network = small()
    set_gradients(network)
    before = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in before))
    assert 0.5 < norm < 100.0
    assert float(clip_gradients(network, max_norm)) == pytest.approx(norm, rel=1e-6)
    after = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    scale = max_norm / norm if max_norm == 0.5 else 1.0
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one * scale, rtol=1e-5, atol=1e-7)


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [learning_rate(step, total_steps=100, warmup_steps=10, peak_lr=2.0, min_lr=0.0) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


@pytest.mark.parametrize(("step", "expected"), [(10, 2.0), (55, 1.05), (100, 0.1), (140, 0.1)])
def test_cosine_falls_from_the_peak_to_the_minimum(step: int, expected: float) -> None:
    rate = learning_rate(step, total_steps=100, warmup_steps=10, peak_lr=2.0, min_lr=0.1)
    assert rate == pytest.approx(expected)


def test_schedule_without_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, total_steps=10, warmup_steps=0.0, peak_lr=3.0, min_lr=0.0) == pytest.approx(3.0)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0.5, 10), (20, 10), (10, 10)])
def test_short_schedules_stay_within_the_peak(warmup_steps: float, total_steps: int) -> None:
    rates = [
        learning_rate(step, total_steps=total_steps, warmup_steps=warmup_steps, peak_lr=1.0, min_lr=0.0)
        for step in range(total_steps)
    ]
    assert all(0.0 < rate <= 1.0 for rate in rates)


def record(step: int, loss: float = 1.0, gradient_norm: float = 2.0) -> StepRecord:
    losses = {"loss": torch.tensor(loss), "loss_video": torch.tensor(0.25)}
    return StepRecord(step, losses, torch.tensor(gradient_norm), 1e-3, ["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("loss", "gradient_norm"), [(math.nan, 2.0), (math.inf, 2.0), (1.0, math.inf), (1.0, math.nan)]
)
def test_non_finite_steps_change_nothing_until_the_check(loss: float, gradient_norm: float) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard = StepGuard(optimizer, torch.device("cpu"))
    weight.grad = torch.ones(2)
    guard.watch(record(6))
    optimizer.step()
    expected = weight.detach().clone()
    assert not torch.equal(expected, torch.ones(2))
    guard.watch(record(7, loss, gradient_norm))
    optimizer.step()
    guard.watch(record(8))  # finite, but after a refused step
    optimizer.step()
    assert torch.equal(weight, expected)
    assert optimizer.state[weight]["step"] == 1
    with pytest.raises(NonFiniteError) as refused:
        guard.check(50, "step 5 in runs/x")
    assert str(refused.value) == (
        f"step 7 of 50 is not finite and was refused: loss {loss:.4g}, loss_video 0.25, gradient norm {gradient_norm:.4g}, "
        "learning rate 0.001, clips a, b, c ...; last checkpoint: step 5 in runs/x; try a smaller --lr or --precision 32-true"
    )


def test_check_passes_finite_steps() -> None:
    guard = StepGuard(torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True), torch.device("cpu"))
    guard.check(2, "none yet")
    for step in range(2):
        guard.watch(record(step))
    guard.check(2, "none yet")


def test_optimizer_that_is_not_fused_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(
        ValueError, match=r"^got an optimizer that is not fused; only a fused one can refuse a step on the"
    ):
        StepGuard(torch.optim.AdamW([weight], fused=False), torch.device("cpu"))


def test_refused_step_is_found_at_the_next_log_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, states, networks = FinetuneTask.losses, [], []

    def losses(self: FinetuneTask, network: Any, batch: Any, rng: Any) -> dict[str, torch.Tensor]:
        states.append({name: value.detach().clone() for name, value in self.network.named_parameters()})
        networks.append(self.network)
        values = original(self, network, batch, rng)
        return {"loss": values["loss"] * math.inf} if len(states) == 3 else values

    monkeypatch.setattr(FinetuneTask, "losses", losses)
    # The first line of the log is that of step 6.
    with pytest.raises(
        NonFiniteError, match=r"^step 2 of 8 is not finite and was refused: loss inf, .*checkpoint: none yet;"
    ):
        finetune(finetune_settings(tmp_path / "run", log_steps=6), dataset=random_clips(16))
    assert len(states) == 6
    before = states[2]
    assert not all(torch.equal(before[name], states[1][name]) for name in before)
    for name, value in networks[-1].named_parameters():
        assert torch.equal(value, before[name]), name
    with pytest.raises(CheckpointError):
        checkpoint.resolve(tmp_path / "run")


class _Waits(TorchDispatchMode):
    """Records operations that make the host wait for a device: a number taken from a tensor, a shape that depends on values."""

    OPS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.OPS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_host_waits_for_nothing_inside_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    optimizer_step, waits = _Trainer._optimizer_step, _Waits()

    def watched(self: _Trainer, batches: Any) -> Any:
        ready = iter([next(batches)])  # the loader draws a number on the host at the beginning of an epoch
        with waits:
            return optimizer_step(self, ready)

    monkeypatch.setattr(_Trainer, "_optimizer_step", watched)
    clips = random_clips(8)
    if stage == "pretrain":
        pretrain(pretrain_settings(tmp_path / "run", epochs=1, mixup_mode="image"), dataset=clips)
    else:
        finetune(finetune_settings(tmp_path / "run", epochs=1, mask_ratio=0.25), dataset=clips)
    assert waits.names == []
    with _Waits() as control:
        float(torch.ones(()))
    assert control.names == ["_local_scalar_dense"]
