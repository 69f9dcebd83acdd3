"""Beginning a run, and going on with one: what must be the same, and what may differ.

A run's checkpoints, written and read by however many processes there are.

Weights lie in one file, since whoever uses the network wants them so; the first process puts them together tensor by tensor.
The optimiser's state, twice as large, is wanted by training alone: processes that hold slices of it (`--strategy fsdp`) write a
file each, and nothing is gathered. Slices carry their places, so that any number of processes reads what any other wrote
(`torch.distributed.checkpoint`, in its safetensors form: no pickle). Several machines need one file system for `--out`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from cmmixer.checkpoint import Card, contiguous
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.storage.files import explain_full_disk, only_writer, remove_leftovers, write_atomically
from cmmixer.train.distributed import whole
from cmmixer.train.optim import numbered, state_tensors

# Settings that may change between the parts of a run without changing what is computed, but for the rounding of sums.
FREE_SETTINGS = (
    "out",
    "batch_size",  # `clips_per_process` sees to the clips of a step
    "num_workers",
    "keep_gb",
    "save_minutes",
    "save_steps",
    "keep",
    "log_steps",
    "picture_epochs",
    "overwrite",
    "file_seconds",
    "device",
    "strategy",
    "compile",
    "grad_checkpointing",
)


def goes_on(settings: TrainingSettings) -> bool:
    """Is there a run in the folder that this command continues?"""
    # torchrun --max-restarts starts the same command again after a failure; that is no wish to begin anew.
    anew = settings.overwrite and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    return not anew and (Path(settings.out) / "latest").exists()


def clips_per_process(settings: TrainingSettings, world: int, clips: int) -> int:
    """How many clips of a batch each process takes: --batch_size, or what makes the batch that the run began with.

    A run may go on, by the same command, on another number of processes than it had; a batch over all processes stays as large
    as it was, so that steps stay what they were.

    Args:
        settings: of the command.
        world: processes now.
        clips: in the data set.

    Raises:
        SettingsError: fewer clips than one step needs.
        CheckpointError: the run's batches cannot be shared out among so many processes, or its data set was another.
    """
    if goes_on(settings):
        return _as_it_was(settings, world, clips)
    needed = settings.batch_size * world * settings.accum_iter
    if clips < needed:
        remedy = "give fewer processes or more films" if clips < world else "give a smaller batch or more films"
        raise SettingsError(
            f"--batch_size: {settings.batch_size} x {world} processes x {settings.accum_iter} accumulated need {needed} clips for "
            f"one step, and there are {clips}; {remedy}"
        )
    return settings.batch_size


def _as_it_was(settings: TrainingSettings, world: int, clips: int) -> int:
    began = checkpoint.load_card(settings.out).settings.get("batch_size")
    where = checkpoint.load_progress(settings.out)
    batch, asked = where["clips_per_batch"], settings.batch_size * world
    if where["clips"] != clips:
        raise CheckpointError(
            f"{settings.out}: the run there has {where['clips']} clips in batches of {batch}, this command {clips} in {asked}; "
            "continue with the same data, or --overwrite"
        )
    if asked == batch:
        return settings.batch_size
    if settings.batch_size != began:
        raise CheckpointError(
            f"{settings.out}: the run there has batches of {batch} clips, --batch_size {settings.batch_size} on {world} processes "
            f"makes {asked}; leave --batch_size at {began} and its batches are shared out anew, or --overwrite"
        )
    if batch % world:
        raise CheckpointError(
            f"{settings.out}: the run there has batches of {batch} clips, which {world} processes cannot share evenly; "
            f"go on with a number of processes that divides {batch}"
        )
    return int(batch) // world


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Holds the folder of a run, new or not: two trainings that write to one would spoil both.

    Raises:
        CheckpointError: another training writes there, or the folder cannot be written.
    """
    told = f"{folder}: another training writes to it; wait for it, end it, or choose another --out"
    with ExitStack() as held:
        with explain_full_disk(folder, CheckpointError):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_writer(folder, CheckpointError(told)))
        yield


def start_run_folder(folder: Path, settings: TrainingSettings) -> None:
    """Makes the folder of a new run, without what an overwritten one left there.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    with explain_full_disk(folder, CheckpointError):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        (folder / "latest").unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "log.jsonl").unlink(missing_ok=True)
        write_atomically(folder / "settings.json", json.dumps(dataclasses.asdict(settings), indent=1))


def refuse_other_settings(folder: Path, there: Card, here: Card, settings: TrainingSettings) -> None:
    """Refuses to continue a run under settings that would make it another run.

    Raises:
        CheckpointError: names what differs.
    """
    asked = json.loads(json.dumps(dataclasses.asdict(settings)))
    # A setting that came after the run began had the effect of its default.
    defaults = {entry.name: entry.default for entry in dataclasses.fields(settings)}
    began = {name: there.settings.get(name, defaults[name]) for name in asked}
    differ = [
        f"{name} {began[name]!r} there, {value!r} here"
        for name, value in asked.items()
        if name not in FREE_SETTINGS and began[name] != value
    ]
    if there.kind != here.kind:
        differ.insert(0, f"a {there.kind} there, a {here.kind} here")
    if differ:
        raise CheckpointError(
            f"{folder}: holds a run of other settings: {'; '.join(differ[:4])}; use the same, another --out, or --overwrite"
        )


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
