"""Training one network on several processes: launched by torchrun, each with its own clips, joined by Lightning Fabric.

Strategy `ddp` keeps all weights and the whole optimizer state in every process. Strategy `fsdp` (FSDP2, torch's
`fully_shard`) keeps a shard of each in every process and gathers the weights of a block while it computes. Both average
the gradients over the processes, so they compute the same step as one process with all clips.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cmmixer.config.training import TrainingSettings
from cmmixer.errors import LostProcessError
from cmmixer.models.vit import Block
from cmmixer.runtime import select_device

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# What gloo, NCCL and torch's store say when a process at the other end is gone. They raise no error class of their own.
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
    """Returns the launched Fabric of this process, which is alone or one of those that torchrun started.

    Raises:
        SettingsError: the device does not exist.
        LostProcessError: the processes cannot connect.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=select_device(settings.device).type,
        devices=local,
        num_nodes=world // local,
        strategy=_strategy(settings.strategy, world) if world > 1 else "auto",
        precision=settings.precision,
    )
    with _explain_failed_connection(world):
        fabric.launch()
    return fabric


def _strategy(name: str, world: int) -> Strategy:
    if name == "fsdp":
        return ModelParallelStrategy(parallelize_fn=shard, data_parallel_size=world, tensor_parallel_size=1)
    # Buffers hold statistics over all processes already, so broadcasting them would be a waste.
    return DDPStrategy(broadcast_buffers=False)


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shards the parameters over the processes: each transformer block by itself, then the remaining ones together.

    A scalar cannot be sharded. Each process keeps it whole, and its gradient is averaged.

    Args:
        network: the same network in every process.
        mesh: mesh of the processes, with all of them along its axis `data_parallel`.

    Returns:
        The network.
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
            scalar.register_hook(_average)  # type: ignore[no-untyped-call]
    return network


def full_tensor(tensor: Tensor) -> Tensor:
    """Gathers a tensor that may be sharded over the processes; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def explain_lost_process(fabric: Fabric) -> Iterator[None]:
    """Turns the libraries' errors about another process that has ended into one clear line.

    Raises:
        LostProcessError: another process of the job was killed or failed.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if fabric.world_size == 1 or not any(words in str(error) for words in _LOST):
            raise
        raise LostProcessError(
            f"process {fabric.global_rank} of {fabric.world_size} lost touch with another one, which was killed or failed; "
            "torchrun's summary names it; the same command resumes from the last checkpoint, on any number of processes that "
            "divides the clips of a step"
        ) from error


@contextmanager
def _explain_failed_connection(world: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "connectFullMesh failed" not in str(error) and not isinstance(error, dist.DistNetworkError):
            raise
        reason = str(error).splitlines()[0][:200]
        raise LostProcessError(
            f"{world} processes could not connect: {reason}; check that all of them are started and can reach one another's addresses; "
            "with torchrun --max-restarts, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or they look for those that were killed"
        ) from error


def _average(gradient: Tensor) -> Tensor:
    # Not dist.ReduceOp.AVG, which gloo does not support.
    total = gradient / dist.get_world_size()
    dist.all_reduce(total)
    return total
