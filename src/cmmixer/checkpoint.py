"""Checkpoints: folders with the weights, metadata and optimizer state of a training run.

    runs/x/                          a run
      latest                         name of the newest checkpoint
      log.jsonl                      one line per logged step
      checkpoints/step-00000400/     a checkpoint
        weights.safetensors          the network's tensors
        metadata.json                what the network is, how it was trained, and from which parent
        training/*.safetensors       optimizer state for resuming: one file, or one per process (`train.resume`)
        training.json                the training progress, and the names of the files in training/

Nothing is pickled. Every function takes the folder of a run or of a checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cmmixer.config import ClipSettings, ModelSettings
from cmmixer.errors import CheckpointError
from cmmixer.models.classifier import Classifier
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.retriever import Retriever
from cmmixer.storage.files import atomic_folder, explain_full_disk, write_atomically
from cmmixer.storage.folder import LocalFolder
from cmmixer.storage.metadata import FolderMetadata, MetadataFile
from cmmixer.types import Statistics

WEIGHTS, PROGRESS, STATE = "weights.safetensors", "training.json", "training"
# The command that trains each kind of network.
COMMANDS = {"mae": "pretrain", "retriever": "finetune", "classifier": "probe --mode finetune"}

_OLD_METADATA = "card.json"  # format 1


@dataclass(frozen=True, kw_only=True)
class Metadata(FolderMetadata):
    """What a checkpoint is: everything needed to build and use its network again.

    Attributes:
        kind: `mae` (pretrain), `retriever` (finetune) or `classifier` (probe --mode finetune).
        model: sizes of the network.
        clip: geometry of a clip.
        statistics: means and standard deviations that frames and mel spectrograms are normalized with.
        options: further arguments of the network, by name.
        settings: settings of the command, by name.
        step: optimizer steps done.
        epoch: epochs done, with a fraction.
        clips_seen: clips seen, over all processes.
        parent: model id of the checkpoint that training started from.
        data: the training data: path, number of clips, sources and skipped files.
        metrics: losses of the last step.
        model_id: sha256 of weights.safetensors. Vectors of different ids cannot be compared.
        version: version of this package.
        torch_version: version of torch.
    """

    FILE: ClassVar = MetadataFile(
        what="checkpoint",
        name="metadata.json",
        format=2,
        error=CheckpointError,
        make="give a run or checkpoint folder as `cmmixer pretrain` or `finetune` writes it",
        remake="train it again",
        repair="take another checkpoint of the run",
    )

    kind: str
    model: ModelSettings
    clip: ClipSettings
    statistics: Statistics
    options: dict[str, Any]
    settings: dict[str, Any]
    step: int = 0
    epoch: float = 0.0
    clips_seen: int = 0
    parent: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    model_id: str = ""
    version: str = ""
    torch_version: str = ""


def build(metadata: Metadata, seed: int = 0) -> nn.Module:
    """Builds the network that the metadata describes, initialized from `seed`; torch's global generator is not advanced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if metadata.kind == "mae":
            return MaskedAutoencoder(metadata.model, metadata.clip, **metadata.options)
        if metadata.kind == "classifier":
            return Classifier(metadata.model, metadata.clip, metadata.statistics, **metadata.options)
        return Retriever(metadata.model, metadata.clip, metadata.statistics, **metadata.options)


def load_model(path: str | Path, kind: str | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """Loads the network of a run or checkpoint, in evaluation mode.

    Raises:
        CheckpointError: it is missing, damaged, of another kind than `kind`, or its tensors do not match its metadata.
    """
    metadata = load_metadata(path, *([] if kind is None else [kind]))
    model = build(metadata)
    load_tensors(model, load_weights(path, metadata), str(path))
    return model.to(device).eval()


def load_retriever(path: str | Path, device: str | torch.device = "cpu") -> Retriever:
    """Loads the retriever of a finetune run, in evaluation mode; raises what `load_model` raises."""
    model = load_model(path, "retriever", device)
    assert isinstance(model, Retriever)
    return model


def load_metadata(path: str | Path, *kinds: str) -> Metadata:
    """Reads the metadata of a run or checkpoint.

    Args:
        path: folder of a run or checkpoint.
        kinds: the kinds that are accepted; none accepts all.

    Raises:
        CheckpointError: it is missing, damaged, of another format, or of another kind.
    """
    metadata = Metadata.read(LocalFolder(resolve(path)))
    if kinds and metadata.kind not in kinds:
        raise CheckpointError(
            f"{path}: got a {metadata.kind} (from `cmmixer {COMMANDS[metadata.kind]}`), expected a {' or a '.join(kinds)}; "
            f"run `cmmixer {COMMANDS[kinds[-1]]}` first"
        )
    return metadata


def load_weights(path: str | Path, metadata: Metadata | None = None) -> dict[str, Tensor]:
    """Reads the network's tensors by name and checks them against the sha256 in the metadata.

    Args:
        path: folder of a run or checkpoint.
        metadata: its metadata, if the caller has read it already.

    Raises:
        CheckpointError: the file is missing, truncated or altered.
    """
    folder = resolve(path)
    file = folder / WEIGHTS
    payload = _read_bytes(file)
    model_id = (metadata or load_metadata(folder)).model_id
    if hashlib.sha256(payload).hexdigest() != model_id:
        raise CheckpointError(
            f"{file}: the sha256 differs from the one in {Metadata.FILE.name}; the file is damaged, take another checkpoint of the run"
        )
    try:
        return safetensors.torch.load(payload)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{file}: not a whole safetensors file ({error}); take another checkpoint of the run"
        ) from error


def load_progress(path: str | Path) -> dict[str, Any]:
    """Reads the training progress and checks that the files of the optimizer state exist.

    Raises:
        CheckpointError: the progress is missing or damaged, or a file of the optimizer state is missing.
    """
    folder = resolve(path)
    try:
        progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text())
        missing = [name for name in progress["files"] if not (folder / STATE / name).is_file()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder}/{PROGRESS}: cannot be read ({error!r}), so training cannot resume from here; take another checkpoint of the "
            "run, or --overwrite"
        ) from error
    if missing:
        raise CheckpointError(
            f"{folder}/{STATE}: {len(missing)} of {len(progress['files'])} files are missing, {missing[0]} is the first; "
            "take another checkpoint of the run"
        )
    return progress


def load_tensors(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Loads tensors into a network; names and shapes must match exactly.

    Args:
        model: the network.
        weights: its tensors by name.
        where: the checkpoint, for error messages.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the first three are named.
    """
    own = model.state_dict()
    errors = [f"{name} is missing" for name in own if name not in weights]
    errors += [f"{name} is not expected" for name in weights if name not in own]
    errors += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if errors:
        more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise CheckpointError(f"{where}: a checkpoint of another shape: {'; '.join(errors[:3])}{more}")
    model.load_state_dict(weights, strict=True)


def resolve(path: str | Path) -> Path:
    """Returns the folder of the checkpoint: `path` itself, or the newest checkpoint of the run `path`.

    Raises:
        CheckpointError: `path` is neither, or was written by an older version.
    """
    path = Path(path)
    if (path / Metadata.FILE.name).is_file():
        return path
    if (path / "latest").is_file():
        folder = path / "checkpoints" / (path / "latest").read_text().strip()
        if (folder / Metadata.FILE.name).is_file():
            return folder
        _refuse_old(folder)
        raise CheckpointError(
            f"{path}: `latest` names {folder.name}, which does not exist; give one of {path}/checkpoints/"
        )
    _refuse_old(path)
    what = (
        f"a folder without {Metadata.FILE.name} or latest"
        if path.is_dir()
        else "nothing"
        if not path.exists()
        else "a file"
    )
    raise CheckpointError(
        f"{path}: got {what}, expected a run or checkpoint folder as `cmmixer pretrain` or `finetune` writes it"
    )


def save(run: Path, metadata: Metadata, weights: dict[str, Tensor], *, keep: int) -> Path:
    """Writes a checkpoint without optimizer state, from which no training can resume; see `create`.

    Returns:
        The checkpoint's folder.
    """
    with create(run, metadata, weights, {}, keep=keep):
        return run / "checkpoints" / folder_name(metadata)


@contextmanager
def create(
    run: Path, metadata: Metadata, weights: dict[str, Tensor], progress: dict[str, Any], *, keep: int
) -> Iterator[tuple[Path, Metadata]]:
    """Creates a checkpoint atomically, points `latest` at it, and removes the oldest ones beyond `keep`.

    Args:
        run: the run's folder.
        metadata: what the checkpoint is; `model_id` and `torch_version` are filled in.
        weights: tensors of the network.
        progress: the training progress.
        keep: how many checkpoints to keep.

    Yields:
        A folder to write the files of the optimizer state to, and the metadata as written.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; older checkpoints stay valid.
    """
    folder = run / "checkpoints" / folder_name(metadata)
    payload = safetensors.torch.save(contiguous_copies(weights))
    metadata = dataclasses.replace(
        metadata, model_id=hashlib.sha256(payload).hexdigest(), torch_version=str(torch.__version__)
    )
    with explain_full_disk(run, CheckpointError), atomic_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(payload)
        (temporary / STATE).mkdir()
        yield temporary / STATE, metadata
        files = sorted(file.name for file in (temporary / STATE).iterdir())
        (temporary / PROGRESS).write_text(json.dumps({**progress, "files": files}, indent=1))
        (temporary / Metadata.FILE.name).write_text(metadata.to_text())
    with explain_full_disk(run, CheckpointError):
        write_atomically(run / "latest", folder.name + "\n")
    for old in sorted(folder.parent.glob("step-*"))[:-keep]:
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def folder_name(metadata: Metadata) -> str:
    """Returns the name of a checkpoint's folder in its run."""
    return f"step-{metadata.step:08d}"


def contiguous_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors to the CPU, contiguous, each into its own memory, as safetensors requires."""
    # Cloned, because safetensors refuses tensors that share memory, as those of a shared tower do.
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}


def _refuse_old(folder: Path) -> None:
    if (folder / _OLD_METADATA).is_file():
        raise CheckpointError(
            f"{folder}: got {_OLD_METADATA}, expected {Metadata.FILE.name}; an older version of cmmixer wrote it; train it again"
        )


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror}); take another checkpoint of the run"
        ) from error
