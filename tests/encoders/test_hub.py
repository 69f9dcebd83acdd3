"""Sharing runs: saved, loaded and uploaded. A folder plays the Hub, behind huggingface_hub's interface."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import cmmixer
from cmmixer import checkpoint
from cmmixer.cli.main import main
from cmmixer.embedding.api import Model
from cmmixer.encoders import hub
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SettingsError
from tests.support.coloured_videos import RED, ColourEncoder, video
from tests.support.small_runs import NANO, untrained_run


class FolderHub:
    """Stands for `huggingface_hub.HfApi` and keeps repositories in a folder."""

    place: Path

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        if self.token == "wrong":
            raise huggingface_hub.errors.LocalTokenNotFoundError("a token is needed,\nlog in first")
        (self.place / repo_id).mkdir(parents=True, exist_ok=True)
        (self.place / "request.json").write_text(json.dumps({"private": private, "token": self.token}))
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
    """A run whose metadata names folders of the machine."""
    folder = untrained_run(tmp_path / "run", NANO)
    file = checkpoint.resolve(folder) / "metadata.json"
    metadata = checkpoint.load_metadata(folder)
    metadata = replace(
        metadata, settings={"data": "/home/me/videos/", "epochs": 3}, data={"path": "/home/me/videos", "clips": 7}
    )
    file.write_text(json.dumps(metadata.as_json()))
    return folder


@pytest.fixture
def folder_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub, "HfApi", FolderHub)
    monkeypatch.setattr(FolderHub, "place", tmp_path / "hub", raising=False)
    return tmp_path / "hub"


def _vectors(run: Any) -> torch.Tensor:
    pixels = torch.arange(NANO.frames * 3 * NANO.height * NANO.width).remainder(251).to(torch.uint8)
    return run.encoder.embed_video(pixels.reshape(1, NANO.frames, 3, NANO.height, NANO.width)).clip_BE


def test_saved_runs_load_with_the_same_vectors(run: Path, tmp_path: Path) -> None:
    before = cmmixer.load(run, "cpu")
    folder = before.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "metadata.json", "weights.safetensors"]
    after = cmmixer.from_pretrained(folder, device="cpu")
    assert after.encoder.id == before.encoder.id
    assert torch.equal(_vectors(before), _vectors(after))
    metadata = checkpoint.load_metadata(folder)
    assert metadata.settings == {"data": "videos", "epochs": 3}
    assert metadata.data == {"path": "videos", "clips": 7}
    assert "/home/me" not in "".join((folder / name).read_text() for name in ("metadata.json", "README.md"))
    assert f"Model id `{metadata.model_id}`" in (folder / "README.md").read_text()


def test_an_existing_folder_is_kept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="saved: exists already; choose a new folder"):
        cmmixer.load(run, "cpu").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "mine.txt").read_text() == "mine"


def test_a_damaged_run_is_not_saved(run: Path, tmp_path: Path) -> None:
    weights = checkpoint.resolve(run) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="sha256 differs"):
        hub.save_pretrained(run, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_upload_and_download(run: Path, folder_hub: Path, tmp_path: Path) -> None:
    before = cmmixer.load(run, "cpu")
    assert before.push_to_hub("someone/fine", private=True, token="secret") == "https://hub.invalid/someone/fine"
    assert json.loads((folder_hub / "request.json").read_text()) == {"private": True, "token": "secret"}
    assert torch.equal(_vectors(cmmixer.from_pretrained("someone/fine", device="cpu")), _vectors(before))
    encoder = load_encoder("hub:someone/fine@main", "cpu")
    assert (encoder.id, encoder.path) == (before.encoder.id, "hub:someone/fine@main")


def test_errors_of_the_hub_are_one_line(
    run: Path, folder_hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        CheckpointError, match="someone/fine: the Hugging Face Hub says: a token is needed, log in first"
    ):
        cmmixer.load(run, "cpu").push_to_hub("someone/fine", token="wrong")
    video(tmp_path / "videos" / "red.mp4", [RED])
    command = ["embed", "--model", "hub:no/where", "--data", str(tmp_path / "videos"), "--out", str(tmp_path / "x")]
    assert main(command) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "cmmixer: no/where: the Hugging Face Hub says: cannot find it, and there is no connection"
    )


def test_encoders_of_other_packages_are_not_saved(tmp_path: Path) -> None:
    run = Model(ColourEncoder())
    with pytest.raises(
        SettingsError, match="runs/colours: is an encoder of another package; only finetune runs are saved"
    ):
        run.save_pretrained(tmp_path / "saved")


def test_the_readme_says_what_the_run_is(run: Path, tmp_path: Path) -> None:
    text = (hub.save_pretrained(run, tmp_path / "saved") / "README.md").read_text()
    metadata = checkpoint.load_metadata(run)
    assert text.startswith(
        "---\nlibrary_name: cmmixer\ntags:\n- video\n- audio\n- retrieval\n---\n\nA retriever (finetune) of "
    )
    assert (
        f"{metadata.step} steps, {metadata.clips_seen} clips seen. A clip is 4 frames of 64 x 64 pixels in 4 s." in text
    )
    assert text.endswith("`metadata.json` has the rest.\n")


def test_training_state_is_left_out_and_weights_are_copied_bit_by_bit(run: Path, tmp_path: Path) -> None:
    source, saved = checkpoint.resolve(run), hub.save_pretrained(run, tmp_path / "saved")
    assert (saved / "weights.safetensors").read_bytes() == (source / "weights.safetensors").read_bytes()
    assert not (saved / "training.json").exists()
    assert hub.save_pretrained(saved, tmp_path / "again").is_dir()  # a saved run can be saved


@pytest.mark.parametrize(
    ("argument", "name", "revision"),
    [("someone/fine", "someone/fine", None), ("someone/fine@v1", "someone/fine", "v1"), ("a/b@", "a/b", None)],
)
def test_a_revision_follows_the_name(
    argument: str, name: str, revision: str | None, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[str, str | None]] = []

    def downloaded(name: str, *, revision: str | None = None) -> Path:
        requests.append((name, revision))
        return checkpoint.resolve(run)

    monkeypatch.setattr(hub, "from_pretrained", downloaded)
    assert hub.load(argument, torch.device("cpu")).id == checkpoint.load_metadata(run).model_id
    assert requests == [(name, revision)]


def test_a_local_folder_needs_no_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert hub.from_pretrained(run) == checkpoint.resolve(run)
    with pytest.raises(SettingsError) as refused:
        hub.from_pretrained("someone/fine")
    assert str(refused.value) == (
        "the Hugging Face Hub needs huggingface_hub, which is not installed; pip install 'cmmixer[hub]'"
    )


def test_an_unknown_revision_is_one_line(run: Path, folder_hub: Path) -> None:
    hub.push_to_hub(run, "someone/fine")
    with pytest.raises(
        CheckpointError, match=r"^someone/fine: the Hugging Face Hub says: cannot find it, and there is no"
    ):
        hub.from_pretrained("someone/fine", revision="v9")
