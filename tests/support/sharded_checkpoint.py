"""Jobs of processes that write a checkpoint in shards, read one, or reach a limit while they write.

python -m tests.support.sharded_checkpoint WORLD {write|read|limited} RUN [WORLD {write|read|limited} RUN ...]
"""

from __future__ import annotations

import dataclasses
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import preset
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import CheckpointError
from cmmixer.train.distributed import full_tensor, make_fabric
from cmmixer.train.optim import adamw, load_state_tensors, ordered_parameters, state_tensors
from cmmixer.train.resume import read_optimizer_state, write_checkpoint
from cmmixer.types import Statistics
from tests.support.gloo_processes import fork_job
from tests.support.small_runs import PICO

METADATA = Metadata(
    kind="retriever",
    model=preset("nano").model,
    clip=PICO,
    statistics=Statistics((0.4, 0.5, 0.6), (0.2, 0.2, 0.3), -40.0, 12.0, clips=7),
    options={"embed_dim": 6},  # which five processes cannot divide evenly
    settings={},
)


def known(number: int, name: str, shape: torch.Size) -> Tensor:
    """The state of a parameter in the files of these tests."""
    if name == "step":
        return torch.tensor(float(number + 1))
    count = torch.arange(shape.numel(), dtype=torch.float32).reshape(shape)
    return (count + number) / (3.0 if name == "exp_avg" else 7.0)


def trained(fabric: Fabric) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network as it is trained, and an optimizer after one step."""
    network = checkpoint.build(METADATA)
    fabric.setup_module(network)
    settings = TrainingSettings(out="nowhere")
    optimizer = adamw(network, settings)
    for parameter in ordered_parameters(network):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return network, optimizer


def write(fabric: Fabric, run: Path, step: int) -> None:
    """Writes the known state, of which each process has its shards."""
    network, optimizer = trained(fabric)
    for number, parameter in enumerate(ordered_parameters(network)):
        for name, value in optimizer.state[parameter].items():
            value.copy_(_shard_like(known(number, name, value.shape), value))
    write_checkpoint(fabric, run, _at(step), network, optimizer, {"step": step}, keep=2)


def read(fabric: Fabric, run: Path) -> None:
    """Reads the state into an optimizer and checks that it is the known one."""
    network, optimizer = trained(fabric)
    load_state_tensors(optimizer, network, read_optimizer_state(run, network))
    state = state_tensors(optimizer, network)
    assert len(state) == 3 * len(ordered_parameters(network))
    for key, value in state.items():
        number, name = key.split(".")
        assert torch.equal(full_tensor(value).cpu(), known(int(number), name, value.shape)), key


def limited(fabric: Fabric, run: Path) -> None:
    """Writes a checkpoint while the second process may write only small files, and prints the error."""
    if fabric.global_rank == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        write(fabric, run, 9)
    except CheckpointError as error:
        print(f"process {fabric.global_rank}: {error}", flush=True)
    fabric.barrier()


def _shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def _at(step: int) -> Metadata:
    return dataclasses.replace(METADATA, step=step)


def run_step(action: str, run: Path) -> None:
    """Runs one step in this process, which is alone or one of a job."""
    fabric = make_fabric(TrainingSettings(out="nowhere", strategy="fsdp", device="cpu"))
    if action == "write":
        write(fabric, run, 3)
    elif action == "read":
        read(fabric, run)
    else:
        limited(fabric, run)
    if fabric.is_global_zero:
        print(f"{fabric.world_size} {action} {run.name}", flush=True)


if __name__ == "__main__":
    jobs = iter(sys.argv[1:])
    for world in jobs:
        fork_job(int(world), partial(run_step, next(jobs), Path(next(jobs))))
