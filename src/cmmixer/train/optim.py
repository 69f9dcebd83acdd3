"""The optimiser: AdamW with weight decay on matrices only, for whole parameters and for those sliced over processes.

A step that is not finite is refused before it reaches the weights, and the host need not look for it.

The verdict is a number on the device that the fused optimiser reads (its `found_inf`, made for gradient scalers). Once a step
is refused all later ones are, so weights and moments stay what they were until somebody looks: at every line of the log and
before every checkpoint.

Step size over the run: linear warm-up from 0, then half a cosine (arXiv 1608.03983) down to the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cmmixer.config.training import TrainingSettings
from cmmixer.errors import NonFiniteError
from cmmixer.train.distributed import whole


def adamw(network: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the network's trainable parameters; biases, gains and other vectors do not decay.

    Fused: one kernel for all parameters of a group, and a step that `StepGuard` refuses is not taken, without the host
    having to look.
    """
    matrices, rest = _matrices_and_rest(network)
    # A scalar is never sliced (see `processes.shard`), and a fused kernel takes sliced or whole parameters only.
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim == 0], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=0.0, betas=(settings.beta1, settings.beta2), fused=True)


def clip_gradients(network: nn.Module, longest: float) -> Tensor:
    """Shortens the gradient of all parameters together to `longest`, by its 2-norm; 0 leaves it as it is.

    Returns:
        The norm before, over all processes; a scalar on the device, which the host does not look at.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sliced = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    rest = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [whole(get_total_norm(kind)) for kind in (sliced, rest) if kind]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    clip_grads_with_norm_(parameters, longest or math.inf, norm)
    return norm


def state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `number.name`, each whole or sliced as its parameter is.

    Numbers are those of `numbered`.
    """
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, parameter in enumerate(numbered(network))
        for name, value in optimizer.state[parameter].items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts back what `state_tensors` gave, sliced as the parameters now are; parameter groups are the present run's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    number_of = {parameter: number for number, parameter in enumerate(numbered(network))}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {place: state[number_of[parameter]] for place, parameter in enumerate(order) if number_of[parameter] in state}
    optimizer.load_state_dict({"state": own, "param_groups": optimizer.state_dict()["param_groups"]})


def numbered(network: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters in the order that files count them: matrices first, then all others, as the network names them."""
    matrices, rest = _matrices_and_rest(network)
    return matrices + rest


def _matrices_and_rest(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [p for p in trainable if p.ndim >= 2], [p for p in trainable if p.ndim < 2]


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


def step_size(step: float, *, total_steps: float, warmup_steps: float, peak: float, floor: float) -> float:
    """The step size of step `step`, counted from 0.

    Warm-up: peak * (step + 1) / warmup. Then floor + (peak - floor) * (1 + cos(pi * part)) / 2, where `part` runs from 0
    to 1 over the steps after the warm-up.
    """
    if step < warmup_steps:
        return peak * min(1.0, (step + 1) / warmup_steps)
    part = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))
