"""Runs on the Hugging Face Hub, or in a folder to hand on: the network and its card, without what only training needs.

run = cmmixer.load("runs/fine")
run.save_pretrained("fine-for-friends")        # weights.safetensors, card.json, README.md
run.push_to_hub("someone/fine")
cmmixer.from_pretrained("someone/fine")        # or --model hub:someone/fine@revision
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cmmixer.checkpoint import Card, load_card, load_weights, resolve
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.storage.files import explain_full_disk, folder_written_whole, temporary_folder

FILES = ("card.json", "weights.safetensors", "README.md")


def save_pretrained(run: str | Path, folder: str | Path) -> Path:
    """Copies a run's newest checkpoint without its training state; paths of this machine stay behind.

    Args:
        run: a run or checkpoint.
        folder: new folder; any function that takes a run takes it.

    Returns:
        The folder.

    Raises:
        CheckpointError: nothing to save, a damaged checkpoint, or a folder that is there or cannot be written.
    """
    source, folder = resolve(run), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: is there already; choose a new folder")
    load_weights(source)  # checks them against the card
    card = _without_paths(load_card(source))
    with explain_full_disk(folder, CheckpointError), folder_written_whole(folder) as draft:
        shutil.copyfile(source / "weights.safetensors", draft / "weights.safetensors")
        (draft / "card.json").write_text(json.dumps(card.as_json(), indent=1) + "\n")
        (draft / "README.md").write_text(_readme(card))
    return folder


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload of a CMMixer run",
) -> str:
    """Uploads what `save_pretrained` saves.

    Args:
        run: a run or checkpoint.
        repo_id: `owner/name`; made where it is not there.
        private: of a new one; None takes the account's default.
        token: of the account; None takes that of `hf auth login`.
        commit_message: of the upload.

    Returns:
        Where it stands.

    Raises:
        CheckpointError: nothing to save, or the Hub refused.
        SettingsError: huggingface_hub is not installed.
    """
    api = _hub().HfApi(token=token)
    with temporary_folder("cmmixer-hub-") as parent:
        folder = save_pretrained(run, parent / "run")
        with _told_in_one_line(repo_id):
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(url)


def from_pretrained(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a saved run: a local one as it is, else downloaded from the Hub into its cache.

    Raises:
        CheckpointError: not there, not allowed, no connection.
        SettingsError: huggingface_hub is not installed.
    """
    if Path(name).exists():
        return resolve(name)
    with _told_in_one_line(str(name)):
        folder = _hub().HfApi(token=token).snapshot_download(str(name), revision=revision, allow_patterns=list(FILES))
    return resolve(folder)


def load(argument: str, device: torch.device) -> ModelEncoder:
    """`--model hub:owner/name` or `hub:owner/name@revision`."""
    name, _, revision = argument.partition("@")
    return ModelEncoder.load(from_pretrained(name, revision=revision or None), device)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as fault:
        raise SettingsError(
            f"the Hugging Face Hub needs {fault.name}, which is not installed; pip install 'cmmixer[hub]'"
        ) from fault
    return huggingface_hub


@contextmanager
def _told_in_one_line(repo_id: str) -> Iterator[None]:
    """The Hub's own errors are OSErrors and ValueErrors of several lines."""
    try:
        yield
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:300]
        raise CheckpointError(f"{repo_id}: the Hugging Face Hub says: {reason or type(fault).__name__}") from fault


def _without_paths(card: Card) -> Card:
    """Folders of the machine it was trained on say more about it than about the run."""

    def last(value: Any) -> Any:
        return os.path.basename(value.rstrip(os.sep)) if isinstance(value, str) and os.path.isabs(value) else value

    return dataclasses.replace(
        card,
        settings={name: last(value) for name, value in card.settings.items()},
        data={name: last(value) for name, value in card.data.items()},
    )


def _readme(card: Card) -> str:
    kind = {"mae": "masked autoencoder (pretrain)", "retriever": "retriever (finetune)"}[card.kind]
    return (
        "---\nlibrary_name: cmmixer\ntags:\n- video\n- audio\n- retrieval\n---\n\n"
        f"A {kind} of [CMMixer](https://arxiv.org/abs/2308.13820), version {card.version or 'unknown'}.\n\n"
        f"Model id `{card.model_id}`, {card.step} steps, {card.clips_seen} clips seen. A clip is {card.clip.frames} frames of "
        f"{card.clip.height} x {card.clip.width} pixels in {card.clip.clip_seconds:g} s. `card.json` says the rest.\n"
    )
