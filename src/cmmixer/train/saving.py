"""A run's checkpoints, written and read by however many processes there are.

Weights lie in one file, since whoever uses the network wants them so; the first process puts them together tensor by tensor.
The optimiser's state, twice as large, is wanted by training alone: processes that hold slices of it (`--strategy fsdp`) write a
file each, and nothing is gathered. Slices carry their places, so that any number of processes reads what any other wrote
(`torch.distributed.checkpoint`, in its safetensors form: no pickle). Several machines need one file system for `--out`.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from cmmixer import checkpoint
from cmmixer.atomic import explain_full_disk
from cmmixer.checkpoint import Card, contiguous
from cmmixer.errors import CheckpointError
from cmmixer.train.optim import numbered, state_tensors
from cmmixer.train.slices import whole


def write_checkpoint(
    fabric: Fabric,
    run: Path,
    card: Card,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    *,
    keep: int,
) -> None:
    """Writes a checkpoint; every process must call it. What it holds and where: see `checkpoint`.

    Args:
        fabric: the processes.
        run: the run's folder, which all of them reach.
        card: what the checkpoint is.
        network, optimizer: as they are trained, whole or sliced.
        progress: where training stands.
        keep: how many checkpoints stay.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was there before stays valid.
    """
    weights = {}
    for name, tensor in network.state_dict().items():
        gathered = whole(tensor)
        if fabric.is_global_zero:
            weights[name] = gathered.cpu()
    state = state_tensors(optimizer, network)
    with ExitStack() as stack:
        folder = None
        if fabric.is_global_zero:
            folder = stack.enter_context(checkpoint.written(run, card, weights, progress, keep=keep))
        if any(isinstance(tensor, DTensor) for tensor in state.values()):
            # Writing ends with an agreement of all processes: nobody's file is missing when the first goes on.
            _write_slices(state, Path(fabric.broadcast(str(folder))), run)
        elif folder is not None:
            (folder / "state.safetensors").write_bytes(safetensors.torch.save(contiguous(state)))
    fabric.barrier()


def read_state(run: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state of a run or checkpoint, named as `state_tensors` does, each tensor sliced as its parameter is.

    Every process reads what it holds, and nothing is sent.

    Raises:
        CheckpointError: missing or damaged.
    """
    folder = checkpoint.resolve(run) / checkpoint.STATE
    if not checkpoint.load_progress(run)["files"]:
        return {}
    try:
        stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        tensors = {}
        parameters = numbered(network)
        for name, entry in stored.items():
            assert isinstance(entry, TensorStorageMetadata)  # safetensors hold nothing else
            parameter = parameters[int(name.split(".", 1)[0])]
            alike = parameter.shape == entry.size
            tensors[name] = torch.zeros_like(parameter) if alike else torch.zeros(entry.size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (CheckpointException, safetensors.SafetensorError, OSError, ValueError, IndexError) as fault:
        told = str(_cause(fault)).splitlines()[0]
        raise CheckpointError(f"{folder}: cannot be read ({told}); take another checkpoint of the run") from fault
    return tensors


def _write_slices(tensors: dict[str, Tensor], folder: Path, run: Path) -> None:
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as fault:
        # In every process, whichever could not write.
        with explain_full_disk(run, CheckpointError):
            raise _cause(fault) from fault


def _cause(fault: BaseException) -> BaseException:
    """What a process met, out of torch's account of all of them; of several, what the system said first."""
    if not isinstance(fault, CheckpointException):
        return fault
    met = [error for error, _ in fault.failures.values()]
    return next((error for error in met if isinstance(error, OSError)), met[0])
