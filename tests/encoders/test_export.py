"""Towers as ONNX: the same vectors as torch, from the same raw media, for any batch; and no file that gives others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import cmmixer
from cmmixer.cli.main import main
from cmmixer.config import ClipSettings, ModelSettings
from cmmixer.embedding.pipeline import embed_file
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.errors import CheckpointError, InternalError
from cmmixer.media.decode import read_clip
from cmmixer.types import Span
from tests.support.coloured_videos import BLUE, GREEN, RED, film
from tests.support.small_runs import untrained_run

CLIP = ClipSettings(frames=2, height=32, width=32, clip_seconds=1.0, window_seconds=0.5, sample_rate_hz=8000)
SMALL = ModelSettings(dim=48, depth=2, heads=3, decoder_dim=32, decoder_depth=1, decoder_heads=2, patch=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run") / "run", CLIP, model=SMALL)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "new" / "onnx"
    assert main(["export", "--model", str(run), "--format", "onnx", "--out", str(out)]) == 0
    return out


def test_what_is_written(run: Path, exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["audio.onnx", "export.json", "video.onnx"]
    told = json.loads((exported / "export.json").read_text())
    assert told["model_id"] == cmmixer.load(run, "cpu").encoder.id
    assert told["out"] == "onnx"
    assert told["towers"]["video"]["shape"] == ["B", 2, 3, 32, 32]
    assert told["towers"]["audio"]["shape"] == ["B", 2, 4000]
    assert told["towers"]["audio"]["outputs"] == {"clip": ["B", 16], "frames": ["B", 2, 16]}
    assert all(0 <= tower["most_difference"] < 1e-5 for tower in told["towers"].values())


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("sense", ["video", "audio"])
def test_the_same_vectors_for_any_batch(run: Path, exported: Path, sense: str, batch: int) -> None:
    generator = np.random.default_rng(batch)
    if sense == "video":
        media = generator.integers(0, 256, (batch, 2, 3, 32, 32)).astype(np.uint8)
    else:
        media = generator.integers(-3000, 3000, (batch, 2, 4000)).astype(np.int16)
    session = onnxruntime.InferenceSession(str(exported / f"{sense}.onnx"), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == ["clip", "frames"]
    clip, frames = session.run(None, {"pixels" if sense == "video" else "samples": media})
    model = ModelEncoder.load(run, torch.device("cpu")).model
    wanted = getattr(model, f"embed_{sense}")(torch.from_numpy(media))
    assert np.allclose(clip, wanted.clip_BE.numpy(), atol=1e-5)
    assert np.allclose(frames, wanted.frames_BTE.numpy(), atol=1e-5)
    assert np.ptp(wanted.clip_BE.numpy(), axis=1).min() > 0.1


def test_towers_that_see_frames_apart_give_the_same_vectors_too(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", CLIP, model=SMALL, frames_apart=True)
    cmmixer.export(cmmixer.ExportSettings(model=str(run), out=str(tmp_path / "onnx")))
    media = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 32, 32)).astype(np.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "video.onnx"), providers=["CPUExecutionProvider"])
    clip, frames = session.run(None, {"pixels": media})
    wanted = ModelEncoder.load(run, torch.device("cpu")).model.embed_video(torch.from_numpy(media))
    assert np.allclose(clip, wanted.clip_BE.numpy(), atol=1e-5)
    assert np.allclose(frames, wanted.frames_BTE.numpy(), atol=1e-5)
    swapped = session.run(["clip"], {"pixels": np.ascontiguousarray(media[:, ::-1])})[0]
    assert np.allclose(swapped, clip, atol=1e-5)


def test_a_real_film_gets_the_vectors_that_an_index_holds(run: Path, exported: Path, tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", [RED, GREEN, BLUE])
    moment = embed_file(path, cmmixer.load(run, "cpu").encoder)[0]
    clip = read_clip(path, Span(0.0, 1.0), CLIP, id="x", source="x")
    assert clip.frames is not None
    assert clip.sound is not None
    media = {"video": clip.frames.pixels_THWC.transpose(0, 3, 1, 2), "audio": clip.sound.samples_TN}
    for sense, array in media.items():
        session = onnxruntime.InferenceSession(str(exported / f"{sense}.onnx"), providers=["CPUExecutionProvider"])
        vector = session.run(["clip"], {session.get_inputs()[0].name: np.ascontiguousarray(array[None])})[0][0]
        # Samples may differ by one bit between a stretch and a window decoded alone.
        assert np.allclose(vector, getattr(moment, sense), atol=1e-4)


def test_a_file_that_gives_other_vectors_is_not_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmmixer.encoders.export.MOST_DIFFERENCE", 0.0)
    with pytest.raises(
        InternalError, match=r"video.onnx: ONNX Runtime .* differ from torch's by .*; nothing was written"
    ):
        cmmixer.export(cmmixer.ExportSettings(model=str(run), out=str(tmp_path / "onnx")))
    assert not list(tmp_path.iterdir())


def test_folders_that_are_there_and_runs_that_are_not(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is there already; choose a new folder"):
        cmmixer.export(cmmixer.ExportSettings(model=str(run), out=str(tmp_path)))
    assert main(["export", "--model", str(tmp_path / "no"), "--out", str(tmp_path / "onnx")]) == 2
    assert "expected a run or checkpoint folder" in capsys.readouterr().err
    assert main(["export", "--model", str(run), "--out", str(tmp_path / "x"), "--format", "tflite"]) == 2
    assert "--format: got 'tflite', expected one of onnx" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
