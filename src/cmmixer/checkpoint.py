"""A checkpoint is a folder a person can look into, and it knows its parents.

    runs/x/                          a run
      latest                         name of the newest checkpoint
      log.jsonl                      one line per logged step
      checkpoints/step-00000400/     a checkpoint
        weights.safetensors          the network, nothing else; no pickle anywhere
        card.json                    what it is, how it was made, from what
        training/*.safetensors       the optimiser's state, to go on exactly: one file, or one of each process (`train.saving`)
        training.json                where training stood, and which files there must be

Every function takes a run's folder or a checkpoint's.
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
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cmmixer.config import ClipSettings, ModelSettings
from cmmixer.config.base import from_dict
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.models.classifier import Classifier
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.retriever import Retriever
from cmmixer.storage.files import explain_full_disk, folder_written_whole, write_atomically
from cmmixer.types import Statistics

FORMAT = 1
STATE = "training"
# What made each kind; `build` makes its network.
COMMANDS = {"mae": "pretrain", "retriever": "finetune", "classifier": "probe --mode finetune"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint is. Everything needed to build and use the network again stands here.

    Attributes:
        kind: `mae` (pretrain), `retriever` (finetune) or `classifier` (probe --mode finetune).
        model: sizes of the network.
        clip: geometry of a clip.
        statistics: what pictures and mel pictures are standardised with.
        options: the network's further arguments, by name.
        settings: the command's settings, by name.
        step: optimiser steps done.
        epoch: epochs done, with fraction.
        clips_seen: clips seen, over all processes.
        parent: model id of the checkpoint the network started from.
        data: what it was trained on: path, clips, sources, skipped.
        metrics: the newest training figures.
        model_id: sha256 of weights.safetensors; vectors of another id do not compare.
        version: of this package.
        torch_version: of torch.
        format: of this folder.
    """

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
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> Card:
        """The card out of its JSON.

        Raises:
            SettingsError: an unknown key.
            KeyError, TypeError: a missing or ill-typed one.
        """
        values = dict(values)
        for name, group in (("model", ModelSettings), ("clip", ClipSettings), ("statistics", Statistics)):
            values[name] = from_dict(group, values[name], f"{where}: {name}")
        # Options and settings stay as they are in JSON, lists included.
        unknown = sorted(set(values) - {entry.name for entry in dataclasses.fields(cls)})
        if unknown:
            raise SettingsError(f"{where}: unknown keys: {', '.join(unknown)}")
        return cls(**values)


def build(card: Card, seed: int = 0) -> nn.Module:
    """The network of a card, freshly initialised from `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if card.kind == "mae":
            return MaskedAutoencoder(card.model, card.clip, **card.options)
        if card.kind == "classifier":
            return Classifier(card.model, card.clip, card.statistics, **card.options)
        return Retriever(card.model, card.clip, card.statistics, **card.options)


def save(run: Path, card: Card, weights: dict[str, Tensor], *, keep: int) -> Path:
    """Writes a checkpoint of a network that nobody will train on: without an optimiser's state. See `written`.

    Returns:
        The checkpoint's folder.
    """
    with written(run, card, weights, {}, keep=keep):
        return run / "checkpoints" / folder_name(card)


@contextmanager
def written(
    run: Path, card: Card, weights: dict[str, Tensor], progress: dict[str, Any], *, keep: int
) -> Iterator[Path]:
    """Writes a checkpoint whole, points `latest` at it, and removes the oldest beyond `keep`.

    Args:
        run: the run's folder.
        card: what the checkpoint is.
        weights: of the network.
        progress: where training stands.
        keep: how many checkpoints stay.

    Yields:
        A folder for files of the optimiser's state.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was there before stays valid.
    """
    folder = run / "checkpoints" / folder_name(card)
    payload = safetensors.torch.save(contiguous(weights))
    card = dataclasses.replace(card, model_id=hashlib.sha256(payload).hexdigest(), torch_version=str(torch.__version__))
    with explain_full_disk(run, CheckpointError), folder_written_whole(folder) as temporary:
        (temporary / "weights.safetensors").write_bytes(payload)
        (temporary / STATE).mkdir()
        yield temporary / STATE
        files = sorted(file.name for file in (temporary / STATE).iterdir())
        (temporary / "training.json").write_text(json.dumps({**progress, "files": files}, indent=1))
        (temporary / "card.json").write_text(json.dumps(card.as_json(), indent=1))
    with explain_full_disk(run, CheckpointError):
        write_atomically(run / "latest", folder.name + "\n")
    for old in sorted(folder.parent.glob("step-*"))[:-keep]:
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def folder_name(card: Card) -> str:
    """A checkpoint's name in its run."""
    return f"step-{card.step:08d}"


def resolve(path: str | Path) -> Path:
    """The checkpoint's folder, given a run or a checkpoint.

    Raises:
        CheckpointError: there is neither.
    """
    path = Path(path)
    if (path / "card.json").is_file():
        return path
    if (path / "latest").is_file():
        folder = path / "checkpoints" / (path / "latest").read_text().strip()
        if (folder / "card.json").is_file():
            return folder
        raise CheckpointError(
            f"{path}: `latest` names {folder.name}, which is not there; give one of {path}/checkpoints/"
        )
    what = "a folder without card.json or latest" if path.is_dir() else "nothing" if not path.exists() else "a file"
    raise CheckpointError(
        f"{path}: got {what}, expected a run or checkpoint folder as `cmmixer pretrain` or `finetune` writes it"
    )


def load_card(path: str | Path, *kinds: str) -> Card:
    """The card of a run or checkpoint, of one of `kinds` where some are given.

    Raises:
        CheckpointError: it is missing, damaged, of a newer format, or of another kind.
    """
    card = _read_card(path)
    if kinds and card.kind not in kinds:
        raise CheckpointError(
            f"{path}: got a {card.kind} (from `cmmixer {COMMANDS[card.kind]}`), expected a {' or a '.join(kinds)}; "
            f"run `cmmixer {COMMANDS[kinds[-1]]}` first"
        )
    return card


def _read_card(path: str | Path) -> Card:
    file = resolve(path) / "card.json"
    try:
        values = json.loads(file.read_text())
        if values.get("format") != FORMAT:
            raise CheckpointError(
                f"{file}: got format {values.get('format')}, expected {FORMAT}; use the version that wrote it"
            )
        return Card.from_json(values, str(file))
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        if isinstance(fault, CheckpointError):
            raise
        raise CheckpointError(f"{file}: the card is damaged ({fault}); take another checkpoint of the run") from fault


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The network's tensors by name, checked against the card's sha256.

    Raises:
        CheckpointError: missing, truncated or altered.
    """
    folder = resolve(path)
    payload = _read(folder / "weights.safetensors")
    if hashlib.sha256(payload).hexdigest() != load_card(folder).model_id:
        raise CheckpointError(
            f"{folder}/weights.safetensors: not what the card describes (sha256 differs); the file is damaged"
        )
    return _tensors(folder / "weights.safetensors", payload)


def load_progress(path: str | Path) -> dict[str, Any]:
    """Where training stood; files of the optimiser's state that it names are there.

    Raises:
        CheckpointError: missing or damaged.
    """
    folder = resolve(path)
    try:
        progress: dict[str, Any] = json.loads((folder / "training.json").read_text())
        missing = [name for name in progress["files"] if not (folder / STATE / name).is_file()]
    except KeyError as fault:
        raise CheckpointError(
            f"{folder}: of an older version, or nobody was to train on; start a new run from its weights with --init, or --overwrite"
        ) from fault
    except (OSError, ValueError, TypeError) as fault:
        raise CheckpointError(
            f"{folder}/training.json: cannot be read ({fault}); training cannot go on from here"
        ) from fault
    if missing:
        raise CheckpointError(
            f"{folder}/{STATE}: {len(missing)} of {len(progress['files'])} files are not there, {missing[0]} the first; "
            "take another checkpoint of the run"
        )
    return progress


def load_model(path: str | Path, kind: str | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """The network of a run or checkpoint, in evaluation mode.

    Raises:
        CheckpointError: missing, damaged, of another kind than `kind`, or its tensors do not fit its card.
    """
    card = load_card(path, *([] if kind is None else [kind]))
    model = build(card)
    fill(model, load_weights(path), str(path))
    return model.to(device).eval()


def load_retriever(path: str | Path, device: str | torch.device = "cpu") -> Retriever:
    """The retriever of a finetune run, in evaluation mode; errors as `load_model`."""
    model = load_model(path, "retriever", device)
    assert isinstance(model, Retriever)
    return model


def fill(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Puts tensors into a network, strictly.

    Raises:
        CheckpointError: a tensor is missing, too many, or of another shape; the first few are named.
    """
    own = model.state_dict()
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is not expected" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{where}: a checkpoint of another shape: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(weights, strict=True)


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, each in memory of its own."""
    # Cloned, because safetensors refuses tensors that share memory, as those of a shared tower do.
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise CheckpointError(
            f"{file}: cannot be read ({fault.strerror}); take another checkpoint of the run"
        ) from fault


def _tensors(file: Path, payload: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(payload)
    except safetensors.SafetensorError as fault:
        raise CheckpointError(
            f"{file}: not a whole safetensors file ({fault}); take another checkpoint of the run"
        ) from fault
