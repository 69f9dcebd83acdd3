"""A step that is not finite is refused without the host looking, and found when it looks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cmmixer import checkpoint
from cmmixer.errors import NonFiniteError
from cmmixer.train.finetune import FinetuneTask, finetune
from cmmixer.train.loop import _Fit
from cmmixer.train.optim import StepGuard, step_size
from cmmixer.train.pretrain import pretrain
from tests.support.small_runs import random_clips
from tests.train.test_loop import finetune_settings, pretrain_settings


def test_a_refused_step_is_found_later_and_nothing_was_learnt_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, states, networks = FinetuneTask.losses, [], []

    def losses(self: FinetuneTask, network: Any, batch: Any, chance: Any) -> dict[str, torch.Tensor]:
        states.append({name: value.detach().clone() for name, value in self.network.named_parameters()})
        networks.append(self.network)
        given = sound(self, network, batch, chance)
        return {"loss": given["loss"] * math.inf} if len(states) == 3 else given

    monkeypatch.setattr(FinetuneTask, "losses", losses)
    # Nobody looks before step 6.
    with pytest.raises(
        NonFiniteError, match=r"^step 2 of 8 is not finite and was refused: loss inf, .*checkpoint: none"
    ):
        finetune(finetune_settings(tmp_path / "run", log_steps=6), dataset=random_clips(16))
    assert len(states) == 6
    before = states[2]
    assert not all(torch.equal(before[name], states[1][name]) for name in before)
    for name, value in networks[-1].named_parameters():
        assert torch.equal(value, before[name]), name
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.resolve(tmp_path / "run")


class _Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: a number taken out of a tensor, a shape that depends on values."""

    OPS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.OPS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_host_waits_for_nothing_inside_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    step, waits = _Fit._optimizer_step, _Waits()

    def watched(self: _Fit, batches: Any) -> Any:
        ready = iter([next(batches)])  # the loader draws a number on the host at the beginning of an epoch
        with waits:
            return step(self, ready)

    monkeypatch.setattr(_Fit, "_optimizer_step", watched)
    clips = random_clips(16)
    if stage == "pretrain":
        pretrain(pretrain_settings(tmp_path / "run", epochs=1, mixup_mode="image"), dataset=clips)
    else:
        finetune(finetune_settings(tmp_path / "run", epochs=1, mask_ratio=0.25), dataset=clips)
    assert waits.seen == []
    with _Waits() as control:
        float(torch.ones(()))
    assert control.seen == ["_local_scalar_dense"]


def test_an_optimiser_that_cannot_refuse_is_refused() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="only a fused optimiser can refuse"):
        StepGuard(torch.optim.AdamW([weight], fused=False), torch.device("cpu"))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    StepGuard(optimizer, torch.device("cpu"))
    weight.grad = torch.ones(2)
    optimizer.step()
    expected = copy.deepcopy(weight.detach())
    optimizer.found_inf.fill_(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight, expected)
    assert optimizer.state[weight]["step"] == 1


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [step_size(step, total_steps=100, warmup_steps=10, peak=2.0, floor=0.0) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


@pytest.mark.parametrize(("step", "expected"), [(10, 2.0), (55, 1.05), (100, 0.1), (140, 0.1)])
def test_cosine_goes_from_peak_to_floor(step: int, expected: float) -> None:
    assert step_size(step, total_steps=100, warmup_steps=10, peak=2.0, floor=0.1) == pytest.approx(expected)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert step_size(0, total_steps=10, warmup_steps=0.0, peak=3.0, floor=0.0) == pytest.approx(3.0)
