"""Training runs: opening a run's folder once, checking that a command may resume it, and writing its checkpoints.

The first process gathers the weights tensor by tensor into one file, since everybody who uses the network wants them that
way. The optimizer state is twice as large and only training reads it. Processes that hold shards of it (`--strategy fsdp`)
write one file each, without gathering. The shards carry their offsets, so any number of processes reads what any other
number wrote (`torch.distributed.checkpoint` in its safetensors form; no pickle). Several machines must share the file
system of `--out`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
from cmmixer.checkpoint import COMMANDS, Metadata, contiguous_copies
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.storage.files import LOCK, explain_full_disk, lock_file, remove_leftovers, write_atomically
from cmmixer.train.distributed import full_tensor
from cmmixer.train.optim import ordered_parameters, state_tensors

# Settings that may change when a run resumes: they do not change what is computed, except for the rounding of sums.
FREE_SETTINGS = (
    "out",
    "batch_size",  # `Run.batch_size` keeps the clips of a step
    "num_workers",
    "keep_gb",
    "save_minutes",
    "save_steps",
    "keep",
    "log_steps",
    "image_epochs",
    "overwrite",
    "file_seconds",
    "device",
    "strategy",
    "compile",
    "grad_checkpointing",
)


@dataclass
class Run:
    """The folder of a training run, locked and read once by the command that starts or resumes it.

    Attributes:
        settings: settings of the command.
        world_size: number of processes.
        clips: number of clips in the data set.
        checkpoint: folder of the newest checkpoint when the run was opened; None in a new run.
        metadata: metadata of the newest checkpoint; None before the first one.
        progress: training progress of that checkpoint; empty in a new run.
    """

    settings: TrainingSettings
    world_size: int
    clips: int
    checkpoint: Path | None = None
    metadata: Metadata | None = None
    progress: dict[str, Any] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, settings: TrainingSettings, fabric: Fabric, *, clips: int, kind: str) -> Iterator[Run]:
        """Opens the run's folder, new or not; the first process locks it until the end.

        Args:
            settings: settings of the command.
            fabric: the processes.
            clips: number of clips in the data set.
            kind: kind of network that the command trains, see `Metadata.kind`.

        Raises:
            SettingsError: the run is new and has fewer clips than one step needs; nothing was written.
            CheckpointError: another training writes to the folder, the folder cannot be written, the run in it cannot be read,
                or it is a run of another command.
        """
        run = cls(settings, fabric.world_size, clips)
        if not run._has_checkpoint():
            run._check_enough_clips()
        with ExitStack() as stack:
            if fabric.is_global_zero:
                stack.enter_context(lock_run_folder(run.folder))
            if run._has_checkpoint():
                run._read(kind)
            yield run

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.settings.out)

    @property
    def is_new(self) -> bool:
        """Whether the command starts a new run instead of resuming one."""
        return self.checkpoint is None

    @property
    def step(self) -> int:
        """Optimizer steps done when the run was opened."""
        return int(self.progress.get("step", 0))

    def batch_size(self) -> int:
        """Returns the clips per process and batch: `--batch_size`, or what keeps the global batch that the run was started with.

        The same command may resume a run on another number of processes. The batch over all processes stays as large as it was,
        so the steps stay the same.

        Raises:
            CheckpointError: the global batch cannot be divided among the processes, or the data set has another size.
        """
        settings, world = self.settings, self.world_size
        if self.metadata is None:
            return settings.batch_size
        started_with = self.metadata.settings.get("batch_size")
        batch, clips, requested = self.progress["clips_per_batch"], self.progress["clips"], settings.batch_size * world
        if clips != self.clips:
            raise CheckpointError(
                f"{self.folder}: the run there has {clips} clips in batches of {batch}, this command has {self.clips} in batches of "
                f"{requested}; resume with the same data, or --overwrite"
            )
        if requested == batch:
            return settings.batch_size
        if settings.batch_size != started_with:
            raise CheckpointError(
                f"{self.folder}: the run there has batches of {batch} clips, --batch_size {settings.batch_size} on {world} processes "
                f"makes {requested}; leave --batch_size at {started_with}, which keeps its batches on any number of processes, or "
                "--overwrite"
            )
        if batch % world:
            raise CheckpointError(
                f"{self.folder}: the run there has batches of {batch} clips, which {world} processes cannot share evenly; "
                f"resume with a number of processes that divides {batch}"
            )
        return int(batch) // world

    def check_settings(self) -> None:
        """Refuses to resume under settings that would make it a different run; see `FREE_SETTINGS`.

        Raises:
            CheckpointError: names up to four settings that differ.
        """
        if self.metadata is None:
            return
        requested = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        # A setting that was added after the run started had the effect of its default.
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self.settings)}
        existing = {name: self.metadata.settings.get(name, defaults[name]) for name in requested}
        different = [
            f"{name} {existing[name]!r} there, {value!r} here"
            for name, value in requested.items()
            if name not in FREE_SETTINGS and existing[name] != value
        ]
        if different:
            raise CheckpointError(
                f"{self.folder}: holds a run of other settings: {'; '.join(different[:4])}; use the same, another --out, or "
                "--overwrite"
            )

    def create_folder(self) -> None:
        """Creates the folder of a new run and removes what an overwritten run left in it; only the first process calls it.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        folder = self.folder
        with explain_full_disk(folder, CheckpointError):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            (folder / "latest").unlink(missing_ok=True)
            for name in ("checkpoints", "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
            (folder / "log.jsonl").unlink(missing_ok=True)
            write_atomically(folder / "settings.json", json.dumps(dataclasses.asdict(self.settings), indent=1))

    def remove_leftovers(self) -> None:
        """Removes partial files that a killed process left; only the first process calls it."""
        for folder in (self.folder, self.folder / "checkpoints"):
            remove_leftovers(folder)

    def save(
        self,
        fabric: Fabric,
        metadata: Metadata,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: dict[str, Any],
    ) -> None:
        """Writes a checkpoint, see `write_checkpoint`, and takes over its metadata."""
        self.metadata = write_checkpoint(
            fabric, self.folder, metadata, network, optimizer, progress, keep=self.settings.keep
        )

    def _has_checkpoint(self) -> bool:
        # torchrun --max-restarts repeats the same command after a failure. That is no request to overwrite again.
        overwrite = self.settings.overwrite and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        return not overwrite and (self.folder / "latest").exists()

    def _check_enough_clips(self) -> None:
        settings, world = self.settings, self.world_size
        needed = settings.batch_size * world * settings.accum_iter
        if self.clips < needed:
            remedy = (
                "give fewer processes or more videos" if self.clips < world else "give a smaller batch or more videos"
            )
            raise SettingsError(
                f"--batch_size: {settings.batch_size} x {world} processes x {settings.accum_iter} accumulated need {needed} clips for "
                f"one step, and there are {self.clips}; {remedy}"
            )

    def _read(self, kind: str) -> None:
        self.checkpoint = checkpoint.resolve(self.folder)
        self.metadata = checkpoint.load_metadata(self.checkpoint)
        if self.metadata.kind != kind:
            raise CheckpointError(
                f"{self.folder}: holds a run of `cmmixer {COMMANDS[self.metadata.kind]}`, expected one of `cmmixer {COMMANDS[kind]}`; "
                "give another --out, or --overwrite"
            )
        self.progress = checkpoint.load_progress(self.checkpoint)
        if not {"step", "clips", "clips_per_batch"} <= self.progress.keys():
            raise CheckpointError(
                f"{self.checkpoint}: has no training progress to resume from; start a new run from its weights with --init, or "
                "--overwrite"
            )


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Locks the folder of a run, new or not. Two trainings that wrote to the same folder would corrupt both runs.

    Raises:
        CheckpointError: another training writes to the folder, or it cannot be written.
    """
    message = f"{folder}: another training writes to it; wait for it, end it, or choose another --out"
    with ExitStack() as stack:
        with explain_full_disk(folder, CheckpointError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(folder / LOCK, CheckpointError(message)))
        yield


def write_checkpoint(
    fabric: Fabric,
    run: Path,
    metadata: Metadata,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    *,
    keep: int,
) -> Metadata:
    """Writes a checkpoint; every process must call it. The files are described in `cmmixer.checkpoint`.

    Args:
        fabric: the processes.
        run: the run's folder, which all processes share.
        metadata: what the checkpoint is.
        network, optimizer: as they are trained, whole or sharded.
        progress: the training progress.
        keep: how many checkpoints to keep.

    Returns:
        The metadata as written, with its `model_id`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; older checkpoints stay valid.
    """
    weights = {}
    for name, tensor in network.state_dict().items():
        gathered = full_tensor(tensor)
        if fabric.is_global_zero:
            weights[name] = gathered.cpu()
    state = state_tensors(optimizer, network)
    with ExitStack() as stack:
        folder = None
        if fabric.is_global_zero:
            folder, metadata = stack.enter_context(checkpoint.create(run, metadata, weights, progress, keep=keep))
        if any(isinstance(tensor, DTensor) for tensor in state.values()):
            # `save` returns once all processes have written, so the first one cannot finish a checkpoint with a file missing.
            _write_shards(state, Path(fabric.broadcast(str(folder))), run)
        elif folder is not None:
            (folder / "state.safetensors").write_bytes(safetensors.torch.save(contiguous_copies(state)))
    fabric.barrier()
    written: Metadata = fabric.broadcast(metadata)
    return written


def read_optimizer_state(
    path: str | Path, network: nn.Module, progress: dict[str, Any] | None = None
) -> dict[str, Tensor]:
    """Reads the optimizer state of a run or checkpoint; every process reads its own shards, without communication.

    Args:
        path: folder of a run or checkpoint.
        network: the network as it is trained, whole or sharded.
        progress: the checkpoint's training progress, if the caller has read it already.

    Returns:
        Tensors named as by `state_tensors`, each sharded as its parameter is.

    Raises:
        CheckpointError: the state is missing or damaged.
    """
    folder = checkpoint.resolve(path)
    if not (progress or checkpoint.load_progress(folder))["files"]:
        return {}
    folder /= checkpoint.STATE
    try:
        stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        tensors = {}
        parameters = ordered_parameters(network)
        for name, entry in stored.items():
            assert isinstance(entry, TensorStorageMetadata)  # safetensors files hold nothing else
            parameter = parameters[int(name.split(".", 1)[0])]
            same_shape = parameter.shape == entry.size
            tensors[name] = torch.zeros_like(parameter) if same_shape else torch.zeros(entry.size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (CheckpointException, safetensors.SafetensorError, OSError, ValueError, IndexError) as error:
        reason = str(_cause(error)).splitlines()[0]
        raise CheckpointError(f"{folder}: cannot be read ({reason}); take another checkpoint of the run") from error
    return tensors


def _write_shards(tensors: dict[str, Tensor], folder: Path, run: Path) -> None:
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        # Raised in every process, whichever of them could not write.
        with explain_full_disk(run, CheckpointError):
            raise _cause(error) from error


def _cause(error: BaseException) -> BaseException:
    """Returns the first error of the operating system in torch's summary of all processes, else the first error."""
    if not isinstance(error, CheckpointException):
        return error
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
