"""Encoders of other packages, through a real entry point: embed, index, search and evaluate take them by name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from cmmixer.cli.main import main
from cmmixer.embedding.api import load
from cmmixer.encoders.base import Encoder, split_name
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SettingsError
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, ColourEncoder, film, sound

PLUGIN = """
import torch
from tests.support.coloured_videos import ColourEncoder
from cmmixer.models.retriever import Embedding


def load(argument, device):
    assert isinstance(device, torch.device)
    return ColourEncoder(argument)


class Wrong(ColourEncoder):
    def embed_video(self, pixels_BTCHW):
        clip_BE, frames_BTE = super().embed_video(pixels_BTCHW)
        return Embedding(clip_BE[:, :3], frames_BTE)


class Long(ColourEncoder):
    def embed_video(self, pixels_BTCHW):
        clip_BE, frames_BTE = super().embed_video(pixels_BTCHW)
        return Embedding(7.0 * clip_BE, frames_BTE)


def wrong(argument, device):
    return Wrong()


def long(argument, device):
    return Long()


def nothing(argument, device):
    return argument


def needs_more(argument, device):
    import a_library_that_is_not_here
"""
POINTS = """[cmmixer.encoders]
colours = colour_plugin:load
wrong = colour_plugin:wrong
long = colour_plugin:long
nothing = colour_plugin:nothing
needs-more = colour_plugin:needs_more
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package that offers encoders."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "colour_plugin.py").write_text(PLUGIN)
    info = folder / "colour_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    film(folder / "red.mp4", [RED] * 2, sound=[RED] * 2)
    film(folder / "green.mp4", [GREEN] * 2, sound=[GREEN] * 2)
    film(folder / "blue.mp4", [BLUE] * 2, sound=[BLUE] * 2)
    return folder


def test_found_by_name() -> None:
    encoder = load_encoder("colours:warm", "cpu")
    assert isinstance(encoder, Encoder)
    assert (encoder.id, encoder.path, encoder.dim, encoder.clip) == (ColourEncoder("warm").id, "colours:warm", 4, CLIP)


def test_embed(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "films.parquet"
    assert main(["embed", "--model", "colours:warm", "--data", str(films), "--out", str(out), "--workers", "1"]) == 0
    table = pq.read_table(out)
    assert json.loads(table.schema.metadata[b"cmmixer"])["model_id"] == ColourEncoder("warm").id
    red = next(row for row in table.to_pylist() if row["path"].endswith("red.mp4"))
    assert max(range(4), key=lambda value: red["video"][value]) == 0
    assert load("colours:warm").embed_audio([films / "blue.mp4"])[0].argmax() == 2


def test_index_and_search_remember_the_name(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = str(tmp_path / "library")
    query = str(sound(tmp_path / "query.wav", [GREEN]))
    assert main(["index", "--model", "colours:warm", "--data", str(films), "--index", library, "--workers", "1"]) == 0
    assert json.loads((tmp_path / "library" / "index.json").read_text())["model"] == "colours:warm"
    capsys.readouterr()
    assert main(["search", query, "--index", library, "--for", "video", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert hits[0]["path"] == str(films / "green.mp4")
    assert hits[0]["score"] > 0.95 > 0.8 > hits[1]["score"]
    assert main(["search", query, "--index", library, "--for", "video", "--model", "colours:cold"]) == 2
    assert "got model" in capsys.readouterr().err


def test_evaluate(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "metrics.json"
    command = ["evaluate", "colours:warm", "--data", str(films), "--num-workers", "0", "--bootstrap", "5"]
    assert main([*command, "--out", str(out)]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["model_id"] == ColourEncoder("warm").id
    assert metrics["video_to_audio"]["R@1"] == metrics["audio_to_video"]["R@1"] == 1.0
    assert metrics["candidates"] == 3


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("colours:warm").mkdir()
    with pytest.raises(CheckpointError, match=r"colours:warm: got a folder without card.json or latest"):
        load_encoder("colours:warm")


def test_vectors_become_unit_length() -> None:
    encoder = load_encoder("long:x", "cpu")
    vectors = encoder.embed_video(torch.full((2, CLIP.frames, 3, CLIP.height, CLIP.width), 200, dtype=torch.uint8))
    assert torch.allclose(vectors.clip_BE.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("colors:x", "--model colors:x: no such folder, and no encoder named 'colors' is installed; known: colours, "),
        ("nothing:x", "--model nothing:x: colour_plugin:nothing gave a str, expected a cmmixer.encoders.Encoder: id, "),
        ("needs-more:x", "--model needs-more:x needs a_library_that_is_not_here, which is not installed; pip install "),
    ],
)
def test_encoders_that_cannot_be_had(
    model: str, line: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError) as told:
        load_encoder(model, "cpu")
    assert str(told.value).startswith(line)
    assert main(["embed", "--model", model, "--data", str(films), "--out", str(tmp_path / "x.parquet")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"cmmixer: {line}")


def test_other_shapes_than_promised_are_refused() -> None:
    encoder = load_encoder("wrong:x", "cpu")
    with pytest.raises(
        SettingsError, match=r"embed_video gave vectors of shapes \(2, 3\) and \(2, 2, 4\), expected \(2, 4\)"
    ):
        encoder.embed_video(torch.zeros((2, CLIP.frames, 3, CLIP.height, CLIP.width), dtype=torch.uint8))


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("hf:facebook/pe-av-small", ("hf", "facebook/pe-av-small")),
        ("runs/fine", None),
        ("/a:b/c", None),
        ("C:/runs/fine", None),
        ("a-b:", ("a-b", "")),
    ],
)
def test_what_is_a_name(model: str, parts: tuple[str, str] | None) -> None:
    assert split_name(model) == parts
