"""A network sliced over processes (FSDP2, torch's `fully_shard`), and back; needs torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cmmixer.models.layers import Block

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Slices the parameters over the processes: every transformer block by itself, then what is left together.

    A scalar cannot be sliced: each process keeps it whole, and its gradient is averaged.

    Args:
        network: the same in every process.
        mesh: of processes; its `data_parallel` axis holds them all.
    """
    processes = mesh["data_parallel"]
    scalars = {parameter for parameter in network.parameters() if parameter.ndim == 0}
    for module in network.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=processes)
    fully_shard(network, mesh=processes, ignored_params=scalars)
    for scalar in scalars:
        scalar.data = scalar.data.to(processes.device_type)
        if scalar.requires_grad:
            scalar.register_hook(_averaged)  # type: ignore[no-untyped-call]
    return network


def _averaged(gradient: Tensor) -> Tensor:
    # Not dist.ReduceOp.AVG, which gloo does not have.
    total = gradient / dist.get_world_size()
    dist.all_reduce(total)
    return total


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sliced over the processes, in one piece. Every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
