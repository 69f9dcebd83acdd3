"""A step that is not finite is refused before it reaches the weights, and the host need not look for it.

The verdict is a number on the device that the fused optimiser reads (its `found_inf`, made for gradient scalers). Once a step
is refused all later ones are, so weights and moments stay what they were until somebody looks: at every line of the log and
before every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cmmixer.errors import NonFiniteError


@dataclass(frozen=True)
class Attempt:
    """A step as it was tried; its tensors stay on the device.

    Attributes:
        step: its number, from 0.
        losses: named scalars.
        gradient_norm: scalar.
        rate: the step size.
        ids: of the clips it saw.
    """

    step: int
    losses: dict[str, Tensor]
    gradient_norm: Tensor
    rate: float
    ids: list[str]


class StepGuard:
    """Watches the steps of one run.

    Args:
        optimizer: a fused one, which leaves everything as it is where its `found_inf` is not 0.
        device: where it computes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        if not optimizer.defaults.get("fused"):
            raise ValueError("only a fused optimiser can refuse a step on the device")
        self._refused = torch.zeros((), device=device)
        self._attempts: list[Attempt] = []
        optimizer.found_inf = self._refused  # type: ignore[attr-defined]

    def watch(self, attempt: Attempt) -> None:
        """Judges a step, over all processes, before the optimiser takes it; never waits for the device."""
        sound = torch.isfinite(attempt.gradient_norm) & torch.isfinite(attempt.losses["loss"])
        self._refused.copy_(torch.maximum(self._refused, (~sound).to(self._refused.dtype)))
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._refused, dist.ReduceOp.MAX)
        self._attempts.append(attempt)

    def look(self, total: int, kept: str) -> None:
        """Waits for the device and complains if a step since the last look was refused.

        Args:
            total: steps of the run.
            kept: where the last checkpoint is, for people.

        Raises:
            NonFiniteError: names the first such step, its figures and clips.
        """
        attempts, self._attempts = self._attempts, []
        if not self._refused.item():
            return
        bad = next((one for one in attempts if not _finite(one)), attempts[0])
        told = ", ".join(f"{name} {value.item():.4g}" for name, value in bad.losses.items())
        raise NonFiniteError(
            f"step {bad.step} of {total} is not finite and was refused: {told}, gradient norm {bad.gradient_norm.item():.4g}, "
            f"step size {bad.rate:.3g}, clips {', '.join(bad.ids[:3])} ...; last checkpoint: {kept}; "
            "try a smaller --lr or --precision 32-true"
        )


def _finite(attempt: Attempt) -> bool:
    return bool(torch.isfinite(attempt.gradient_norm) & torch.isfinite(attempt.losses["loss"]))
