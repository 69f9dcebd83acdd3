"""Runs that are handed on: saved, loaded, uploaded. The Hub itself is played by a folder, at huggingface_hub's face."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import cmmixer
from cmmixer import checkpoint
from cmmixer.cli.main import main
from cmmixer.encoders import hub
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SettingsError
from tests.support.coloured_videos import RED, ColourEncoder, film
from tests.support.small_runs import NANO, untrained_run


class FolderHub:
    """What `huggingface_hub.HfApi` is asked for, kept in a folder."""

    place: Path

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        if self.token == "wrong":
            raise huggingface_hub.errors.LocalTokenNotFoundError("a token is needed,\nlog in first")
        (self.place / repo_id).mkdir(parents=True, exist_ok=True)
        (self.place / "asked.json").write_text(json.dumps({"private": private, "token": self.token}))
        return f"https://hub.invalid/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.place / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if revision not in (None, "main") or not (self.place / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find it,\nand there is no connection")
        assert set(allow_patterns) == set(hub.FILES)
        return str(self.place / repo_id)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose card names folders of the machine."""
    folder = untrained_run(tmp_path / "run", NANO)
    file = checkpoint.resolve(folder) / "card.json"
    card = checkpoint.load_card(folder)
    card = replace(card, settings={"data": "/home/me/films/", "epochs": 3}, data={"path": "/home/me/films", "clips": 7})
    file.write_text(json.dumps(card.as_json()))
    return folder


@pytest.fixture
def folder_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub, "HfApi", FolderHub)
    monkeypatch.setattr(FolderHub, "place", tmp_path / "hub", raising=False)
    return tmp_path / "hub"


def _vectors(run: Any) -> torch.Tensor:
    pixels = torch.arange(NANO.frames * 3 * NANO.height * NANO.width).remainder(251).to(torch.uint8)
    return run.encoder.embed_video(pixels.reshape(1, NANO.frames, 3, NANO.height, NANO.width)).clip_BE


def test_saved_and_loaded(run: Path, tmp_path: Path) -> None:
    before = cmmixer.load(run, "cpu")
    folder = before.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "card.json", "weights.safetensors"]
    after = cmmixer.from_pretrained(folder, device="cpu")
    assert after.encoder.id == before.encoder.id
    assert torch.equal(_vectors(before), _vectors(after))
    card = checkpoint.load_card(folder)
    assert card.settings == {"data": "films", "epochs": 3}
    assert card.data == {"path": "films", "clips": 7}
    assert "/home/me" not in "".join((folder / name).read_text() for name in ("card.json", "README.md"))
    assert f"Model id `{card.model_id}`" in (folder / "README.md").read_text()


def test_a_folder_that_is_there_is_kept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="saved: is there already; choose a new folder"):
        cmmixer.load(run, "cpu").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "mine.txt").read_text() == "mine"


def test_a_damaged_run_is_not_handed_on(run: Path, tmp_path: Path) -> None:
    weights = checkpoint.resolve(run) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="sha256 differs"):
        hub.save_pretrained(run, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_uploaded_and_downloaded(run: Path, folder_hub: Path, tmp_path: Path) -> None:
    before = cmmixer.load(run, "cpu")
    assert before.push_to_hub("someone/fine", private=True, token="secret") == "https://hub.invalid/someone/fine"
    assert json.loads((folder_hub / "asked.json").read_text()) == {"private": True, "token": "secret"}
    assert torch.equal(_vectors(cmmixer.from_pretrained("someone/fine", device="cpu")), _vectors(before))
    encoder = load_encoder("hub:someone/fine@main", "cpu")
    assert (encoder.id, encoder.path) == (before.encoder.id, "hub:someone/fine@main")


def test_what_the_hub_refuses_is_one_line(
    run: Path, folder_hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        CheckpointError, match="someone/fine: the Hugging Face Hub says: a token is needed, log in first"
    ):
        cmmixer.load(run, "cpu").push_to_hub("someone/fine", token="wrong")
    film(tmp_path / "films" / "red.mp4", [RED])
    command = ["embed", "--model", "hub:no/where", "--data", str(tmp_path / "films"), "--out", str(tmp_path / "x")]
    assert main(command) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "cmmixer: no/where: the Hugging Face Hub says: cannot find it, and there is no connection"
    )


def test_encoders_of_others_are_not_handed_on(tmp_path: Path) -> None:
    run = cmmixer.embedding.LoadedRun(ColourEncoder())
    with pytest.raises(
        SettingsError, match="runs/colours: is an encoder of another package; only finetune runs are saved"
    ):
        run.save_pretrained(tmp_path / "saved")
