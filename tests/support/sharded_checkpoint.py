"""One process of a job that writes a checkpoint in slices, reads one, or meets a limit while it writes.

python -m tests.support.sharded_checkpoint write|read|limited RUN
"""

from __future__ import annotations

import dataclasses
import resource
import signal
import sys
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import preset
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import CheckpointError
from cmmixer.train.distributed import make_fabric, whole
from cmmixer.train.optim import adamw, load_state_tensors, numbered, state_tensors
from cmmixer.train.resume import read_state, write_checkpoint
from cmmixer.types import Statistics
from tests.support.small_runs import PICO

CARD = Card(
    kind="retriever",
    model=preset("nano").model,
    clip=PICO,
    statistics=Statistics((0.4, 0.5, 0.6), (0.2, 0.2, 0.3), -40.0, 12.0, clips=7),
    options={"embed_dim": 6},  # of which five processes cannot have equal parts
    settings={},
)


def known(number: int, name: str, shape: torch.Size) -> Tensor:
    """What the state of a parameter is in the files of these tests."""
    if name == "step":
        return torch.tensor(float(number + 1))
    count = torch.arange(shape.numel(), dtype=torch.float32).reshape(shape)
    return (count + number) / (3.0 if name == "exp_avg" else 7.0)


def trained(fabric: Fabric) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network of the card, as training has it, and an optimiser that has made a step."""
    network = checkpoint.build(CARD)
    fabric.setup_module(network)
    settings = TrainingSettings(out="nowhere")
    optimizer = adamw(network, settings)
    for parameter in numbered(network):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return network, optimizer


def write(fabric: Fabric, run: Path, step: int) -> None:
    """Writes the known state; each process has put its slices there."""
    network, optimizer = trained(fabric)
    for number, parameter in enumerate(numbered(network)):
        for name, value in optimizer.state[parameter].items():
            value.copy_(_as_sliced(known(number, name, value.shape), value))
    write_checkpoint(fabric, run, _at(step), network, optimizer, {"step": step}, keep=2)


def read(fabric: Fabric, run: Path) -> None:
    """Puts the state that is there into an optimiser, and finds the known one."""
    network, optimizer = trained(fabric)
    load_state_tensors(optimizer, network, read_state(run, network))
    state = state_tensors(optimizer, network)
    assert len(state) == 3 * len(numbered(network))
    for key, value in state.items():
        number, name = key.split(".")
        assert torch.equal(whole(value).cpu(), known(int(number), name, value.shape)), key


def limited(fabric: Fabric, run: Path) -> None:
    """The second process may not write as much as it wants to."""
    if fabric.global_rank == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        write(fabric, run, 9)
    except CheckpointError as error:
        print(f"process {fabric.global_rank}: {error}", flush=True)
    fabric.barrier()


def _as_sliced(tensor: Tensor, like: Tensor) -> Tensor:
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def _at(step: int) -> Card:
    return dataclasses.replace(CARD, step=step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    job = make_fabric(TrainingSettings(out="nowhere", strategy="fsdp", device="cpu"))
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        write(job, place, 3)
    elif what == "read":
        read(job, place)
    else:
        limited(job, place)
