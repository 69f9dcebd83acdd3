"""Checkpoints: whole or absent, read strictly, and refused with one line that says what is wrong."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import preset
from cmmixer.errors import CheckpointError
from cmmixer.models.classifier import Classifier
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.retriever import Retriever
from cmmixer.types import Statistics
from tests.support.small_runs import PICO

STATISTICS = Statistics((0.4, 0.5, 0.6), (0.2, 0.2, 0.3), -40.0, 12.0, clips=7)
OPTIONS: dict[str, dict[str, Any]] = {
    "mae": {},
    "retriever": {"embed_dim": 8},
    "classifier": {"modalities": ["video", "audio"], "classes": ["dog", "cat"]},
}


def metadata(kind: str = "retriever", **options: Any) -> Metadata:
    return Metadata(
        kind=kind,
        model=preset("nano").model,
        clip=PICO,
        statistics=STATISTICS,
        options={**OPTIONS[kind], **options},
        settings={"lr": 1e-3, "cutmix_minmax": [0.1, 0.2]},
        step=3,
    )


def save(run: Path, its: Metadata, step: int = 3, keep: int = 2) -> dict[str, torch.Tensor]:
    weights = checkpoint.build(its, seed=step).state_dict()
    its = dataclasses.replace(its, step=step)
    with checkpoint.create(run, its, weights, {"step": step}, keep=keep) as (state, _):
        (state / "state.safetensors").write_bytes(safetensors.torch.save({"0.exp_avg": torch.ones(3)}))
    return weights


def metadata_file(run: Path) -> Path:
    return checkpoint.resolve(run) / "metadata.json"


def error_of(function: Any, *arguments: Any) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(CheckpointError) as refused:
        function(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["mae", "retriever", "classifier"])
def test_saved_network_is_loaded(tmp_path: Path, kind: str) -> None:
    weights = save(tmp_path, metadata(kind))
    loaded = checkpoint.load_model(tmp_path, kind)
    assert type(loaded) is {"mae": MaskedAutoencoder, "retriever": Retriever, "classifier": Classifier}[kind]
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())
    state = safetensors.torch.load_file(checkpoint.resolve(tmp_path) / "training" / "state.safetensors")
    assert torch.equal(state["0.exp_avg"], torch.ones(3))


def test_metadata_round_trip(tmp_path: Path) -> None:
    its = dataclasses.replace(
        metadata(shared_tower=True),
        epoch=1.5,
        clips_seen=96,
        parent="0" * 64,
        data={"clips": 7, "path": "videos"},
        metrics={"loss": 0.25},
        version="1.0",
    )
    save(tmp_path, its)
    loaded = checkpoint.load_metadata(tmp_path)
    payload = (checkpoint.resolve(tmp_path) / "weights.safetensors").read_bytes()
    filled = {"model_id": hashlib.sha256(payload).hexdigest(), "torch_version": str(torch.__version__)}
    assert loaded == dataclasses.replace(its, **filled)
    assert loaded.settings == {"lr": 1e-3, "cutmix_minmax": [0.1, 0.2]}


def test_metadata_file_has_plain_keys(tmp_path: Path) -> None:
    save(tmp_path, metadata())
    values = json.loads(metadata_file(tmp_path).read_text())
    assert list(values) == ["format", *(field.name for field in dataclasses.fields(Metadata))]
    assert values["format"] == 2
    assert values["statistics"] == {
        "frame_mean": [0.4, 0.5, 0.6],
        "frame_std": [0.2, 0.2, 0.3],
        "mel_mean": -40.0,
        "mel_std": 12.0,
        "clips": 7,
    }
    assert values["options"] == {"embed_dim": 8}


def test_checkpoint_folder_holds_three_files_and_the_training_state(tmp_path: Path) -> None:
    save(tmp_path, metadata())
    folder = checkpoint.resolve(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["metadata.json", "training", "training.json", "weights.safetensors"]
    assert (tmp_path / "latest").read_text() == "step-00000003\n"
    assert checkpoint.load_progress(tmp_path) == {"step": 3, "files": ["state.safetensors"]}


def test_save_writes_no_training_state(tmp_path: Path) -> None:
    its = metadata("mae")
    folder = checkpoint.save(tmp_path, its, checkpoint.build(its).state_dict(), keep=1)
    assert folder == tmp_path / "checkpoints" / "step-00000003"
    assert list((folder / "training").iterdir()) == []
    assert checkpoint.load_progress(folder) == {"files": []}


def test_shared_tower_is_saved_and_loaded(tmp_path: Path) -> None:
    weights = save(tmp_path, metadata(shared_tower=True))
    loaded = checkpoint.load_retriever(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_networks_are_drawn_from_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (checkpoint.build(metadata(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    name = "encoders.video.embed.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_oldest_checkpoints_are_removed_and_latest_names_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, metadata(), step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert checkpoint.resolve(tmp_path).name == "step-00000004"
    assert checkpoint.load_metadata(tmp_path / "checkpoints" / "step-00000003").step == 3


def test_checkpoint_of_an_earlier_step_is_kept_though_later_ones_exist(tmp_path: Path) -> None:
    for step in (3, 4, 1):
        save(tmp_path, metadata(), step, keep=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000004"]
    assert checkpoint.resolve(tmp_path).name == "step-00000001"


def test_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, metadata(), 1)
    original = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "state.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert error_of(save, tmp_path, metadata(), 2) == (
        f"{tmp_path}: the disk is full; free some space and run the same command again, it continues"
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert checkpoint.load_metadata(tmp_path).step == 1


def test_contiguous_copies_share_no_memory() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).requires_grad_()
    copies = checkpoint.contiguous_copies({"one": tensor.T, "same": tensor.T})
    assert all(copy.is_contiguous() and not copy.requires_grad for copy in copies.values())
    assert torch.equal(copies["one"], tensor.T)
    assert len({copy.data_ptr() for copy in copies.values()} | {tensor.data_ptr()}) == 3


def test_missing_state_file_is_named(tmp_path: Path) -> None:
    save(tmp_path, metadata())
    folder = checkpoint.resolve(tmp_path)
    (folder / "training" / "state.safetensors").unlink()
    assert error_of(checkpoint.load_progress, tmp_path) == (
        f"{folder}/training: 1 of 1 files are missing, state.safetensors is the first; take another checkpoint of the run"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError(2, 'No such file or directory')"),
        ("{", "JSONDecodeError("),
        ("[]", "TypeError("),
        ('{"step": 3}', "KeyError('files')"),
    ],
)
def test_damaged_training_progress_is_one_line(tmp_path: Path, content: str | None, reason: str) -> None:
    save(tmp_path, metadata())
    file = checkpoint.resolve(tmp_path) / "training.json"
    file.unlink() if content is None else file.write_text(content)
    message = error_of(checkpoint.load_progress, tmp_path)
    assert message.startswith(f"{file}: cannot be read ({reason}")
    assert message.endswith(
        "), so training cannot resume from here; take another checkpoint of the run, or --overwrite"
    )


def test_paths_that_are_no_run_are_refused(tmp_path: Path) -> None:
    expected = "expected a run or checkpoint folder as `cmmixer pretrain` or `finetune` writes it"
    nothing, file = tmp_path / "nowhere", tmp_path / "file"
    file.touch()
    assert error_of(checkpoint.resolve, nothing) == f"{nothing}: got nothing, {expected}"
    assert error_of(checkpoint.resolve, file) == f"{file}: got a file, {expected}"
    assert error_of(checkpoint.resolve, tmp_path) == (
        f"{tmp_path}: got a folder without metadata.json or latest, {expected}"
    )
    (tmp_path / "latest").write_text("step-00000009\n")
    assert error_of(checkpoint.load_metadata, tmp_path) == (
        f"{tmp_path}: `latest` names step-00000009, which does not exist; give one of {tmp_path}/checkpoints/"
    )


@pytest.mark.parametrize("given", ["run", "checkpoint"])
def test_checkpoint_of_an_older_version_is_refused(tmp_path: Path, given: str) -> None:
    save(tmp_path, metadata())
    folder = checkpoint.resolve(tmp_path)
    metadata_file(tmp_path).rename(folder / "card.json")
    message = error_of(checkpoint.load_model, tmp_path if given == "run" else folder)
    assert (
        message
        == f"{folder}: got card.json, expected metadata.json; an older version of cmmixer wrote it; train it again"
    )


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (1, "got format 1 of an older version of cmmixer, expected 2; train it again"),
        (3, "got format 3 of a newer version of cmmixer, expected 2; use that version"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, found: int, message: str) -> None:
    save(tmp_path, metadata())
    file = metadata_file(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": found}))
    assert error_of(checkpoint.load_metadata, tmp_path) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON: "),
        ("{", "not JSON: "),
        ("[]", "got a JSON list, expected an object"),
        ('{"format": 2}', "missing keys: kind, model, clip, statistics, options, settings"),
        ('{"format": 2, "kind": "mae", "model": {"dims": 3}}', "unknown keys: model.dims"),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path: Path, content: str, reason: str) -> None:
    save(tmp_path, metadata())
    file = metadata_file(tmp_path)
    file.write_text(content)
    message = error_of(checkpoint.load_metadata, tmp_path)
    assert message.startswith(f"{file}: damaged ({reason}")
    assert "take another checkpoint of the run" in message


def test_other_kinds_are_refused_with_the_command_to_run(tmp_path: Path) -> None:
    save(tmp_path, metadata("mae"))
    assert error_of(checkpoint.load_retriever, tmp_path) == (
        f"{tmp_path}: got a mae (from `cmmixer pretrain`), expected a retriever; run `cmmixer finetune` first"
    )
    assert error_of(checkpoint.load_metadata, tmp_path, "classifier", "retriever") == (
        f"{tmp_path}: got a mae (from `cmmixer pretrain`), expected a classifier or a retriever; run `cmmixer finetune` first"
    )
    assert checkpoint.load_metadata(tmp_path, "retriever", "mae").kind == "mae"


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path, metadata())
    file = checkpoint.resolve(tmp_path) / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    expected = f"{file}: the sha256 differs from the one in metadata.json; the file is damaged, take another checkpoint of the run"
    assert error_of(checkpoint.load_model, tmp_path) == expected
    assert error_of(checkpoint.load_weights, tmp_path) == expected
    file.unlink()
    assert error_of(checkpoint.load_weights, tmp_path) == (
        f"{file}: cannot be read (No such file or directory); take another checkpoint of the run"
    )


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    save(tmp_path, metadata())
    file, content = checkpoint.resolve(tmp_path) / "weights.safetensors", b"not tensors"
    file.write_bytes(content)
    same_id = dataclasses.replace(metadata(), model_id=hashlib.sha256(content).hexdigest())
    message = error_of(checkpoint.load_weights, tmp_path, same_id)
    assert message.startswith(f"{file}: not a whole safetensors file (")
    assert message.endswith("); take another checkpoint of the run")


def test_tensors_of_another_shape_are_named() -> None:
    model = checkpoint.build(metadata())
    weights = dict(model.state_dict())
    weights["heads.video.project.weight"] = torch.zeros(9, 128)
    weights["extra"] = weights.pop("logit_scale")
    assert error_of(checkpoint.load_tensors, model, weights, "runs/x") == (
        "runs/x: a checkpoint of another shape: logit_scale is missing; extra is not expected; "
        "heads.video.project.weight is (9, 128), expected (8, 128)"
    )


def test_only_three_wrong_tensors_are_named() -> None:
    model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in "abcde"})
    assert error_of(checkpoint.load_tensors, model, {}, "runs/x") == (
        "runs/x: a checkpoint of another shape: a.weight is missing; b.weight is missing; c.weight is missing and 2 more"
    )
    checkpoint.load_tensors(model, {name: torch.full((1, 1), 2.0) for name in model.state_dict()}, "runs/x")
    assert all(float(value) == 2.0 for value in model.state_dict().values())
