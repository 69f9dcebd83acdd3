"""Shares runs on the Hugging Face Hub or as a folder: weights and metadata, without the training state.

run = cmmixer.load("runs/fine")
run.save_pretrained("fine-for-friends")        # weights.safetensors, metadata.json, README.md
run.push_to_hub("someone/fine")
cmmixer.from_pretrained("someone/fine")        # or --model hub:someone/fine@revision
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cmmixer.checkpoint import Metadata, load_metadata, load_weights, resolve
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.storage.files import atomic_folder, explain_full_disk, temporary_folder
from cmmixer.storage.folder import LocalFolder

FILES = ("metadata.json", "weights.safetensors", "README.md")


def save_pretrained(run: str | Path, folder: str | Path) -> Path:
    """Copies the newest checkpoint of a run without its training state and without paths of this machine.

    Args:
        run: a run or checkpoint.
        folder: new folder, which can be used wherever a run can.

    Returns:
        The folder.

    Raises:
        CheckpointError: there is no checkpoint or it is damaged, or the folder exists or cannot be written.
    """
    source, folder = resolve(run), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists already; choose a new folder")
    load_weights(source)  # checks their sha256
    metadata = _without_paths(load_metadata(source))
    with explain_full_disk(folder, CheckpointError), atomic_folder(folder) as draft:
        shutil.copyfile(source / "weights.safetensors", draft / "weights.safetensors")
        metadata.write(LocalFolder(draft))
        (draft / "README.md").write_text(_readme(metadata))
    return folder


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload of a CMMixer run",
) -> str:
    """Uploads to the Hub what `save_pretrained` saves.

    Args:
        run: a run or checkpoint.
        repo_id: `owner/name`; created if it does not exist.
        private: whether a new repository is private; default: the account's setting.
        token: token of the account; default: that of `hf auth login`.
        commit_message: message of the upload.

    Returns:
        URL of the repository.

    Raises:
        CheckpointError: there is no checkpoint, or the Hub refused.
        SettingsError: huggingface_hub is not installed.
    """
    api = _hub().HfApi(token=token)
    with temporary_folder("cmmixer-hub-") as parent:
        folder = save_pretrained(run, parent / "run")
        with _explain_errors(repo_id):
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(url)


def from_pretrained(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Returns the folder of a saved run: a local folder, or a download from the Hub in its cache.

    Args:
        name: a folder, or `owner/name` on the Hub.
        revision: branch, tag or commit on the Hub.
        token: token of the account; default: that of `hf auth login`.

    Raises:
        CheckpointError: it does not exist, access is denied, or there is no connection.
        SettingsError: huggingface_hub is not installed.
    """
    if Path(name).exists():
        return resolve(name)
    api = _hub().HfApi(token=token)
    with _explain_errors(str(name)):
        folder = api.snapshot_download(str(name), revision=revision, allow_patterns=list(FILES))
    return resolve(folder)


def load(argument: str, device: torch.device) -> ModelEncoder:
    """Loads the encoder of `--model hub:owner/name` or `hub:owner/name@revision`."""
    name, _, revision = argument.partition("@")
    return ModelEncoder.load(from_pretrained(name, revision=revision or None), device)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the Hugging Face Hub needs {error.name}, which is not installed; pip install 'cmmixer[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _explain_errors(repo_id: str) -> Iterator[None]:
    """Turns the Hub's errors, which are OSErrors and ValueErrors of several lines, into one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{repo_id}: the Hugging Face Hub says: {reason or type(error).__name__}") from error


def _without_paths(metadata: Metadata) -> Metadata:
    """Replaces absolute paths by their last part: folders of a machine say nothing about the run."""

    def last(value: Any) -> Any:
        return os.path.basename(value.rstrip(os.sep)) if isinstance(value, str) and os.path.isabs(value) else value

    return dataclasses.replace(
        metadata,
        settings={name: last(value) for name, value in metadata.settings.items()},
        data={name: last(value) for name, value in metadata.data.items()},
    )


def _readme(metadata: Metadata) -> str:
    kind = {"mae": "masked autoencoder (pretrain)", "retriever": "retriever (finetune)"}[metadata.kind]
    return (
        "---\nlibrary_name: cmmixer\ntags:\n- video\n- audio\n- retrieval\n---\n\n"
        f"A {kind} of [CMMixer](https://arxiv.org/abs/2308.13820), version {metadata.version or 'unknown'}.\n\n"
        f"Model id `{metadata.model_id}`, {metadata.step} steps, {metadata.clips_seen} clips seen. A clip is {metadata.clip.frames} frames of "
        f"{metadata.clip.height} x {metadata.clip.width} pixels in {metadata.clip.clip_seconds:g} s. `metadata.json` has the rest.\n"
    )
