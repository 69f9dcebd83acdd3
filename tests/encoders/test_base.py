"""The encoder interface: wrappers for checks and mixed precision, and encoders of other packages by a real entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from cmmixer.cli.main import main
from cmmixer.embedding.api import load
from cmmixer.encoders import base
from cmmixer.encoders.base import CheckedEncoder, Encoder, MixedPrecisionEncoder, load_plugin, split_name
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.models.retriever import Embedding
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, ColourEncoder, sound, video

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
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    video(folder / "red.mp4", [RED] * 2, sound=[RED] * 2)
    video(folder / "green.mp4", [GREEN] * 2, sound=[GREEN] * 2)
    video(folder / "blue.mp4", [BLUE] * 2, sound=[BLUE] * 2)
    return folder


def test_plugins_are_found_by_name() -> None:
    encoder = load_encoder("colours:warm", "cpu")
    assert isinstance(encoder, Encoder)
    assert (encoder.id, encoder.path, encoder.dim, encoder.clip) == (ColourEncoder("warm").id, "colours:warm", 4, CLIP)


def test_embed_with_a_plugin(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "videos.parquet"
    assert main(["embed", "--model", "colours:warm", "--data", str(videos), "--out", str(out), "--workers", "1"]) == 0
    table = pq.read_table(out)
    assert json.loads(table.schema.metadata[b"cmmixer"])["model_id"] == ColourEncoder("warm").id
    red = next(row for row in table.to_pylist() if row["path"].endswith("red.mp4"))
    assert max(range(4), key=lambda value: red["video"][value]) == 0
    assert load("colours:warm").encode_audio([videos / "blue.mp4"])[0].argmax() == 2


def test_an_index_remembers_the_plugin(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = str(tmp_path / "library")
    query = str(sound(tmp_path / "query.wav", [GREEN]))
    assert main(["index", "--model", "colours:warm", "--data", str(videos), "--index", library, "--workers", "1"]) == 0
    assert json.loads((tmp_path / "library" / "index.json").read_text())["model"] == "colours:warm"
    capsys.readouterr()
    assert main(["search", query, "--index", library, "--for", "video", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert hits[0]["path"] == str(videos / "green.mp4")
    assert hits[0]["score"] > 0.95 > 0.8 > hits[1]["score"]
    assert main(["search", query, "--index", library, "--for", "video", "--model", "colours:cold"]) == 2
    assert "got model" in capsys.readouterr().err


def test_evaluate_a_plugin(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "metrics.json"
    command = ["evaluate", "colours:warm", "--data", str(videos), "--num-workers", "0", "--bootstrap", "5"]
    assert main([*command, "--out", str(out)]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["model_id"] == ColourEncoder("warm").id
    assert metrics["video_to_audio"]["R@1"] == metrics["audio_to_video"]["R@1"] == 1.0
    assert metrics["candidates"] == 3


def test_a_folder_takes_precedence_over_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("colours:warm").mkdir()
    with pytest.raises(CheckpointError, match=r"colours:warm: got a folder without metadata.json or latest"):
        load_encoder("colours:warm")


def test_vectors_of_plugins_are_normalized() -> None:
    encoder = load_encoder("long:x", "cpu")
    vectors = encoder.embed_video(torch.full((2, CLIP.frames, 3, CLIP.height, CLIP.width), 200, dtype=torch.uint8))
    assert torch.allclose(vectors.clip_BE.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("colors:x", "--model colors:x: no such folder, and no encoder named 'colors' is installed; known: colours, "),
        (
            "nothing:x",
            "--model nothing:x: colour_plugin:nothing returned a str, expected a cmmixer.encoders.base.Encoder with id, ",
        ),
        ("needs-more:x", "--model needs-more:x needs a_library_that_is_not_here, which is not installed; pip install "),
    ],
)
def test_plugins_that_cannot_be_loaded(
    model: str, line: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError) as message:
        load_encoder(model, "cpu")
    assert str(message.value).startswith(line)
    assert main(["embed", "--model", model, "--data", str(videos), "--out", str(tmp_path / "x.parquet")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"cmmixer: {line}")


def test_plugins_with_wrong_shapes_are_refused() -> None:
    encoder = load_encoder("wrong:x", "cpu")
    with pytest.raises(SettingsError) as refused:
        encoder.embed_video(torch.zeros((2, CLIP.frames, 3, CLIP.height, CLIP.width), dtype=torch.uint8))
    assert str(refused.value) == (
        "--model wrong:x: embed_video returned vectors of shapes (2, 3) and (2, 2, 4), expected (2, 4) and (2, 2, 4); this is a "
        "bug in the encoder"
    )


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
def test_names_of_plugins_are_told_from_paths(model: str, parts: tuple[str, str] | None) -> None:
    assert split_name(model) == parts


def _pixels(batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (batch, CLIP.frames, 3, CLIP.height, CLIP.width), dtype=torch.uint8, generator=generator
    )


class LinearEncoder(ColourEncoder):
    """An encoder whose vectors come from a matrix product, which autocast computes in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(
            4, CLIP.frames * 3 * CLIP.height * CLIP.width, generator=torch.Generator().manual_seed(1)
        )
        self.dtypes: list[torch.dtype] = []

    def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
        clip_BE = torch.nn.functional.linear(pixels_BTCHW.flatten(1).float() / 255, self.weight)
        self.dtypes.append(clip_BE.dtype)
        clip_BE = torch.nn.functional.normalize(clip_BE, dim=-1)
        return Embedding(clip_BE, clip_BE[:, None].expand(-1, CLIP.frames, -1))


class TestMixedPrecision:
    def test_products_are_in_bfloat16_and_vectors_in_float32(self) -> None:
        exact = LinearEncoder()
        mixed = MixedPrecisionEncoder(exact, torch.device("cpu"))
        expected, got = exact.embed_video(_pixels()), mixed.embed_video(_pixels())
        assert exact.dtypes == [torch.float32, torch.bfloat16]
        assert got.clip_BE.dtype == got.frames_BTE.dtype == torch.float32
        assert 0 < float((got.clip_BE - expected.clip_BE).abs().max()) < 0.02
        # Rounding in bfloat16 takes vectors off the sphere; they are put back.
        torch.testing.assert_close(got.clip_BE.norm(dim=-1), torch.ones(2), atol=1e-6, rtol=0)
        torch.testing.assert_close(got.frames_BTE.norm(dim=-1), torch.ones(2, CLIP.frames), atol=1e-6, rtol=0)

    def test_it_keeps_what_identifies_the_encoder(self) -> None:
        encoder = ColourEncoder()
        mixed = MixedPrecisionEncoder(encoder, torch.device("cpu"))
        assert isinstance(mixed, Encoder)
        assert (mixed.id, mixed.path, mixed.dim, mixed.clip) == (encoder.id, encoder.path, 4, CLIP)

    def test_audio_too(self) -> None:
        windows = torch.full((3, CLIP.frames, CLIP.window_samples), 100, dtype=torch.int16)
        got = MixedPrecisionEncoder(ColourEncoder(), torch.device("cpu")).embed_audio(windows)
        torch.testing.assert_close(got.clip_BE.norm(dim=-1), torch.ones(3), atol=1e-6, rtol=0)


class TestCheckedEncoder:
    def test_it_has_the_name_it_was_loaded_by(self) -> None:
        checked = CheckedEncoder(ColourEncoder(path="somewhere"), "colours:warm")
        assert isinstance(checked, Encoder)
        assert checked.path == "colours:warm"
        assert checked.id == ColourEncoder().id

    @pytest.mark.parametrize(
        ("clip_shape", "frames_shape"),
        [((2, 4), (2, 3, 4)), ((1, 4), (2, 2, 4)), ((2, 4), (2, 4)), ((2, 5), (2, 2, 5))],
    )
    def test_wrong_shapes_of_audio_are_refused_too(
        self, clip_shape: tuple[int, ...], frames_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = ColourEncoder()
        vectors = Embedding(torch.ones(clip_shape), torch.ones(frames_shape))
        monkeypatch.setattr(encoder, "embed_audio", lambda windows_BTN: vectors)
        with pytest.raises(SettingsError) as refused:
            CheckedEncoder(encoder, "x:y").embed_audio(torch.zeros(2, 2, 10, dtype=torch.int16))
        assert str(refused.value) == (
            f"--model x:y: embed_audio returned vectors of shapes {clip_shape} and {frames_shape}, expected (2, 4) and "
            "(2, 2, 4); this is a bug in the encoder"
        )

    def test_half_precision_becomes_single(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = ColourEncoder()
        vectors = Embedding(torch.full((2, 4), 3.0).half(), torch.full((2, 2, 4), 3.0).half())
        monkeypatch.setattr(encoder, "embed_video", lambda pixels_BTCHW: vectors)
        got = CheckedEncoder(encoder, "x:y").embed_video(_pixels())
        assert got.clip_BE.dtype == torch.float32
        torch.testing.assert_close(got.clip_BE, torch.full((2, 4), 0.5))


def test_known_plugins_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "entry_points", lambda group: [])
    with pytest.raises(SettingsError) as refused:
        load_plugin("clap", "x", torch.device("cpu"))
    assert str(refused.value) == (
        "--model clap:x: no such folder, and no encoder named 'clap' is installed; known: none"
    )


def test_errors_inside_a_plugin_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value, extras = "x", "x:load", ["hf"]

        def __init__(self, error: Exception) -> None:
            self.error = error

        def load(self) -> None:
            raise self.error

    for error in (
        CheckpointError("hf:x: cannot be loaded"),
        ModuleNotFoundError("no", name="cmmixer.gone"),
        OSError("x"),
    ):
        monkeypatch.setattr(base, "entry_points", lambda group, error=error: [Point(error)])
        with pytest.raises(type(error)) as raised:
            load_plugin("x", "y", torch.device("cpu"))
        assert raised.value is error
    monkeypatch.setattr(base, "entry_points", lambda group: [Point(ModuleNotFoundError("no", name="timm"))])
    with pytest.raises(
        SettingsError, match=r"^--model x:y needs timm, which is not installed; pip install 'cmmixer\[hf\]'$"
    ):
        load_plugin("x", "y", torch.device("cpu"))
