"""The optimiser: AdamW with weight decay on matrices only, for whole parameters and for those sliced over processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cmmixer.config.training import TrainingSettings
from cmmixer.train.slices import whole


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
