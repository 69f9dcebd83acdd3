"""The optimizer: AdamW, its learning rate schedule, gradient clipping, and the guard against steps that are not finite.

All of it works on whole parameters and on parameters that are sharded over processes.
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


def adamw(network: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Returns AdamW over the trainable parameters, with weight decay on matrices only, not on biases, gains and other vectors.

    It is fused: one kernel updates all parameters of a group and skips the steps that `StepGuard` refuses, without the host
    having to wait.
    """
    matrices, others = _matrices_and_others(network)
    # Scalars are never sharded (see `distributed.shard`), and a fused kernel takes either sharded or whole parameters.
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in others if parameter.ndim == 1], "weight_decay": 0.0},
        {"params": [parameter for parameter in others if parameter.ndim == 0], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), fused=True)


def learning_rate(step: float, *, total_steps: float, warmup_steps: float, peak_lr: float, min_lr: float) -> float:
    """Returns the learning rate of a step, counted from 0: linear warm-up, then half a cosine (arXiv 1608.03983).

    Warm-up: peak_lr * (step + 1) / warmup_steps. Then min_lr + (peak_lr - min_lr) * (1 + cos(pi * done)) / 2, where `done`
    runs from 0 to 1 over the steps after the warm-up.
    """
    if step < warmup_steps:
        return peak_lr * min(1.0, (step + 1) / warmup_steps)
    done = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return min_lr + (peak_lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def clip_gradients(network: nn.Module, max_norm: float) -> Tensor:
    """Scales all gradients together so that their 2-norm is at most `max_norm`; 0 does not clip.

    Returns:
        The norm before clipping, over all processes; a scalar on the device, which the host does not read.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    # Not by `distributed.full_tensor`: this module is imported where Lightning is not installed.
    norms = [get_total_norm(kind) for kind in (sharded, whole) if kind]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    clip_grads_with_norm_(parameters, max_norm or math.inf, norm)
    return norm


@dataclass(frozen=True)
class StepRecord:
    """A step before the optimizer takes it. Its tensors stay on the device.

    Attributes:
        step: number of the step, from 0.
        losses: scalars by name; `loss` is the one that is minimized.
        gradient_norm: scalar, before clipping.
        lr: learning rate.
        ids: ids of the clips of the step.
    """

    step: int
    losses: dict[str, Tensor]
    gradient_norm: Tensor
    lr: float
    ids: list[str]


class StepGuard:
    """Refuses steps that are not finite before they reach the weights, without the host waiting for the device.

    The verdict is a number on the device that the fused optimizer reads: its `found_inf`, which torch made for gradient
    scalers. After a refused step all later ones are refused too, so weights and moments stay as they were until the host
    checks, at every line of the log and before every checkpoint.

    Args:
        optimizer: a fused optimizer, which skips a step when its `found_inf` is not 0.
        device: the device it runs on.

    Raises:
        ValueError: the optimizer is not fused.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        if not optimizer.defaults.get("fused"):
            raise ValueError("got an optimizer that is not fused; only a fused one can refuse a step on the device")
        self._refused = torch.zeros((), device=device)
        self._records: list[StepRecord] = []
        optimizer.found_inf = self._refused  # type: ignore[attr-defined]

    def watch(self, record: StepRecord) -> None:
        """Refuses the step if its loss or gradient norm is not finite in any process; call it before `optimizer.step`."""
        finite = torch.isfinite(record.gradient_norm) & torch.isfinite(record.losses["loss"])
        self._refused.copy_(torch.maximum(self._refused, (~finite).to(self._refused.dtype)))
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._refused, dist.ReduceOp.MAX)
        self._records.append(record)

    def check(self, total_steps: int, last_checkpoint: str) -> None:
        """Waits for the device and raises if a step since the last check was refused.

        Args:
            total_steps: steps of the run, for the message.
            last_checkpoint: where the last checkpoint is, for the message.

        Raises:
            NonFiniteError: names the first refused step, its losses and clips.
        """
        records, self._records = self._records, []
        if not self._refused.item():
            return
        first = next((record for record in records if not _is_finite(record)), records[0])
        losses = ", ".join(f"{name} {value.item():.4g}" for name, value in first.losses.items())
        raise NonFiniteError(
            f"step {first.step} of {total_steps} is not finite and was refused: {losses}, gradient norm "
            f"{first.gradient_norm.item():.4g}, learning rate {first.lr:.3g}, clips {', '.join(first.ids[:3])} ...; "
            f"last checkpoint: {last_checkpoint}; try a smaller --lr or --precision 32-true"
        )


def state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Returns the optimizer state as tensors named `NUMBER.NAME`, each whole or sharded as its parameter is.

    NUMBER is the parameter's place in `ordered_parameters`.
    """
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, parameter in enumerate(ordered_parameters(network))
        for name, value in optimizer.state[parameter].items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads what `state_tensors` returned, sharded as the parameters are now; the parameter groups keep their settings."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    number_of = {parameter: number for number, parameter in enumerate(ordered_parameters(network))}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {place: state[number_of[parameter]] for place, parameter in enumerate(order) if number_of[parameter] in state}
    optimizer.load_state_dict({"state": own, "param_groups": optimizer.state_dict()["param_groups"]})


def ordered_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Returns the trainable parameters in the order of the files: matrices first, then all others, each as in the network."""
    matrices, others = _matrices_and_others(network)
    return matrices + others


def _matrices_and_others(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    return matrices, [parameter for parameter in trainable if parameter.ndim < 2]


def _is_finite(record: StepRecord) -> bool:
    return bool(torch.isfinite(record.gradient_norm) & torch.isfinite(record.losses["loss"]))
