"""Several processes train one network: launched by torchrun, each with its own clips, joined by Lightning Fabric.

Strategy `ddp` keeps a whole copy of weights and optimiser state in every process; `fsdp` (FSDP2, torch's `fully_shard`)
keeps a slice of each in every process and gathers a block's weights while it computes. Both average gradients over the
processes, so that they compute the same step as one process with all clips.

A network sliced over processes (FSDP2, torch's `fully_shard`), and back; needs torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cmmixer.models.vit import Block

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from cmmixer.config.training import TrainingSettings
from cmmixer.errors import LostProcessError
from cmmixer.runtime import device_named


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


# What gloo, NCCL and torch's store say when a process at the other end is gone, and nothing else says.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket closed",
    "remote process exited",
    "recvValue failed",
    "failed to recv",
)


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started.

    Raises:
        SettingsError: a device that is not there.
        LostProcessError: the processes do not find one another.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=device_named(settings.device).type,
        devices=local,
        num_nodes=world // local,
        strategy=_strategy(settings.strategy, world) if world > 1 else "auto",
        precision=settings.precision,
    )
    with _explain_no_meeting(world):
        fabric.launch()
    return fabric


@contextmanager
def _explain_no_meeting(world: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as fault:
        if "connectFullMesh failed" not in str(fault) and not isinstance(fault, dist.DistNetworkError):
            raise
        told = str(fault).splitlines()[0][:200]
        raise LostProcessError(
            f"{world} processes were to meet, and did not: {told}; see that all are started and reach one another's addresses; "
            "for restarts by torchrun --max-restarts, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or they look for those that were killed"
        ) from fault


def _strategy(name: str, world: int) -> Strategy:
    if name == "fsdp":
        return ModelParallelStrategy(parallelize_fn=shard, data_parallel_size=world, tensor_parallel_size=1)
    # Buffers hold statistics over all processes already; sending them round again would be waste.
    return DDPStrategy(broadcast_buffers=False)


@contextmanager
def explain_lost_process(fabric: Fabric) -> Iterator[None]:
    """Turns what the libraries say when another process of the job has ended into one clear line.

    Raises:
        LostProcessError: another process is gone.
    """
    try:
        yield
    except (RuntimeError, OSError) as fault:
        if fabric.world_size == 1 or not any(words in str(fault) for words in _LOST):
            raise
        raise LostProcessError(
            f"process {fabric.global_rank} of {fabric.world_size} lost touch with another one, which was killed or failed; "
            "torchrun's summary names it; the same command goes on from the last checkpoint, on any number of processes that "
            "divides the clips of a step"
        ) from fault
