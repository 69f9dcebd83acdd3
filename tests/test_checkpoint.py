"""A checkpoint is whole or not there, strict, and says what is wrong with it in one line."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import preset
from cmmixer.errors import CheckpointError
from cmmixer.types import Statistics
from tests.support.small_runs import PICO

STATISTICS = Statistics((0.4, 0.5, 0.6), (0.2, 0.2, 0.3), -40.0, 12.0, clips=7)


def card(kind: str = "retriever", **options: Any) -> Card:
    given = {"embed_dim": 8} if kind == "retriever" else {}
    return Card(
        kind=kind,
        model=preset("nano").model,
        clip=PICO,
        statistics=STATISTICS,
        options={**given, **options},
        settings={"lr": 1e-3, "cutmix_minmax": [0.1, 0.2]},
        step=3,
    )


def save(run: Path, its: Card, step: int = 3, keep: int = 2) -> dict[str, torch.Tensor]:
    import dataclasses

    weights = checkpoint.build(its, seed=step).state_dict()
    its = dataclasses.replace(its, step=step)
    with checkpoint.written(run, its, weights, {"step": step}, keep=keep) as state:
        (state / "state.safetensors").write_bytes(safetensors.torch.save({"0.exp_avg": torch.ones(3)}))
    return weights


@pytest.mark.parametrize("kind", ["mae", "retriever"])
def test_what_is_saved_comes_back(tmp_path: Path, kind: str) -> None:
    weights = save(tmp_path, card(kind))
    loaded = checkpoint.load_model(tmp_path, kind)
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())
    back = checkpoint.load_card(tmp_path)
    assert (back.kind, back.model, back.clip, back.statistics) == (kind, preset("nano").model, PICO, STATISTICS)
    assert back.settings == {"lr": 1e-3, "cutmix_minmax": [0.1, 0.2]}
    assert checkpoint.load_progress(tmp_path) == {"step": 3, "files": ["state.safetensors"]}
    state = safetensors.torch.load_file(checkpoint.resolve(tmp_path) / "training" / "state.safetensors")
    assert torch.equal(state["0.exp_avg"], torch.ones(3))


def test_a_shared_tower_is_saved_and_loaded(tmp_path: Path) -> None:
    weights = save(tmp_path, card(shared_tower=True))
    loaded = checkpoint.load_retriever(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_networks_are_drawn_from_the_seed_and_leave_torch_s_own_chance_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (checkpoint.build(card(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    name = "encoders.video.embed.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_only_the_newest_stay_and_latest_names_the_last(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, card(), step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert checkpoint.resolve(tmp_path).name == "step-00000004"
    assert checkpoint.load_card(tmp_path / "checkpoints" / "step-00000003").step == 3


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, card(), 1)
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "state.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        CheckpointError, match="the disk is full; free some space and run the same command again, it continues"
    ):
        save(tmp_path, card(), 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert checkpoint.load_card(tmp_path).step == 1


def test_a_missing_file_of_the_optimiser_s_state_is_told(tmp_path: Path) -> None:
    save(tmp_path, card())
    (checkpoint.resolve(tmp_path) / "training" / "state.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"training: 1 of 1 files are not there, state\.safetensors the first; take"
    ):
        checkpoint.load_progress(tmp_path)


def test_nothing_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: got nothing, expected a run or checkpoint folder"):
        checkpoint.load_card(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"got a folder without card\.json or latest"):
        checkpoint.load_card(tmp_path)
    (tmp_path / "latest").write_text("step-00000009\n")
    with pytest.raises(CheckpointError, match="`latest` names step-00000009, which is not there"):
        checkpoint.load_card(tmp_path)


def test_altered_weights_are_noticed(tmp_path: Path) -> None:
    save(tmp_path, card())
    file = checkpoint.resolve(tmp_path) / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not what the card describes \(sha256 differs\); the file is damaged"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 1}', "[]", '{"format": 1, "kind": "mae", "model": {"dims": 3}}']
)
def test_a_damaged_card_is_one_line(tmp_path: Path, content: str) -> None:
    save(tmp_path, card())
    (checkpoint.resolve(tmp_path) / "card.json").write_text(content)
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load_card(tmp_path)
    assert "card.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path, card())
    file = checkpoint.resolve(tmp_path) / "card.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(CheckpointError, match="got format 2, expected 1; use the version that wrote it"):
        checkpoint.load_card(tmp_path)


def test_another_kind_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    save(tmp_path, card("mae"))
    with pytest.raises(
        CheckpointError,
        match=r"got a mae \(from `cmmixer pretrain`\), expected a retriever; run `cmmixer finetune` first",
    ):
        checkpoint.load_retriever(tmp_path)


def test_tensors_of_another_shape_are_named(tmp_path: Path) -> None:
    model = checkpoint.build(card())
    weights = dict(model.state_dict())
    weights["heads.video.project.weight"] = torch.zeros(9, 128)
    weights["extra"] = weights.pop("logit_scale")
    with pytest.raises(CheckpointError) as refused:
        checkpoint.fill(model, weights, "runs/x")
    assert str(refused.value) == (
        "runs/x: a checkpoint of another shape: logit_scale is missing; extra is not expected; "
        "heads.video.project.weight is (9, 128), expected (8, 128)"
    )
