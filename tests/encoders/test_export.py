"""Towers as ONNX: the same vectors as torch, from the same raw media, for any batch; a file with others is not written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import cmmixer
from cmmixer.cli.main import main
from cmmixer.config import ClipSettings, ModelSettings
from cmmixer.embedding.pipeline import embed_file
from cmmixer.encoders import export as export_module
from cmmixer.encoders.export import ExportReport
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.errors import CheckpointError, InternalError
from cmmixer.media.decode import read_clip
from cmmixer.storage.folder import LocalFolder
from cmmixer.types import Span
from tests.support.coloured_videos import BLUE, GREEN, RED, video
from tests.support.small_runs import untrained_run

CLIP = ClipSettings(frames=2, height=32, width=32, clip_seconds=1.0, window_seconds=0.5, sample_rate_hz=8000)
SMALL = ModelSettings(dim=48, depth=1, heads=3, decoder_dim=32, decoder_depth=1, decoder_heads=2, patch=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run") / "run", CLIP, model=SMALL)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "new" / "onnx"
    assert main(["export", "--model", str(run), "--format", "onnx", "--out", str(out)]) == 0
    return out


def test_the_files_and_their_description(run: Path, exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["audio.onnx", "export.json", "video.onnx"]
    described = json.loads((exported / "export.json").read_text())
    assert list(described)[:3] == ["format", "out", "model_id"]
    assert described["model_id"] == cmmixer.load(run, "cpu").encoder.id
    assert described["out"] == "onnx"
    assert described["towers"]["video"]["shape"] == ["B", 2, 3, 32, 32]
    assert described["towers"]["audio"]["shape"] == ["B", 2, 4000]
    assert described["towers"]["audio"]["outputs"] == {"clip": ["B", 16], "frames": ["B", 2, 16]}
    assert all(0 <= tower["max_difference"] < 1e-5 for tower in described["towers"].values())


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_vectors_equal_torch_s_for_any_batch(run: Path, exported: Path, modality: str, batch: int) -> None:
    generator = np.random.default_rng(batch)
    if modality == "video":
        media = generator.integers(0, 256, (batch, 2, 3, 32, 32)).astype(np.uint8)
    else:
        media = generator.integers(-3000, 3000, (batch, 2, 4000)).astype(np.int16)
    session = onnxruntime.InferenceSession(str(exported / f"{modality}.onnx"), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == ["clip", "frames"]
    clip, frames = session.run(None, {"pixels" if modality == "video" else "samples": media})
    model = ModelEncoder.load(run, torch.device("cpu")).model
    expected = getattr(model, f"embed_{modality}")(torch.from_numpy(media))
    assert np.allclose(clip, expected.clip_BE.numpy(), atol=1e-5)
    assert np.allclose(frames, expected.frames_BTE.numpy(), atol=1e-5)
    assert np.ptp(expected.clip_BE.numpy(), axis=1).min() > 0.1


def test_frame_level_towers_are_exported_too(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", CLIP, model=SMALL, frame_level=True)
    encoder = ModelEncoder.load(run, torch.device("cpu"))
    tower = export_module._Tower(encoder.model, "video")
    assert export_module._write(tower, encoder, tmp_path, np.random.default_rng(0)).max_difference < 1e-5
    media = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 32, 32)).astype(np.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "video.onnx"), providers=["CPUExecutionProvider"])
    clip, frames = session.run(None, {"pixels": media})
    expected = encoder.model.embed_video(torch.from_numpy(media))
    assert np.allclose(clip, expected.clip_BE.numpy(), atol=1e-5)
    assert np.allclose(frames, expected.frames_BTE.numpy(), atol=1e-5)
    swapped = session.run(["clip"], {"pixels": np.ascontiguousarray(media[:, ::-1])})[0]
    assert np.allclose(swapped, clip, atol=1e-5)


def test_a_real_video_gets_the_vectors_of_an_index(run: Path, exported: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "video.mp4", [RED, GREEN, BLUE])
    moment = embed_file(path, cmmixer.load(run, "cpu").encoder)[0]
    clip = read_clip(path, Span(0.0, 1.0), CLIP, id="x", source="x")
    assert clip.frames is not None
    assert clip.sound is not None
    media = {"video": clip.frames.pixels_THWC.transpose(0, 3, 1, 2), "audio": clip.sound.samples_TN}
    for modality, array in media.items():
        session = onnxruntime.InferenceSession(str(exported / f"{modality}.onnx"), providers=["CPUExecutionProvider"])
        vector = session.run(["clip"], {session.get_inputs()[0].name: np.ascontiguousarray(array[None])})[0][0]
        # Samples may differ by one bit between a stretch and a window decoded alone.
        assert np.allclose(vector, getattr(moment, modality), atol=1e-4)


class Program:
    """Stands for a second export, which would take seconds: saves the file of the first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def save(self, path: str, *, external_data: bool) -> None:
        assert not external_data
        shutil.copyfile(self.file, path)


def test_a_file_with_other_vectors_is_not_written(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: Program(exported / "video.onnx"))
    monkeypatch.setattr("cmmixer.encoders.export.MAX_DIFFERENCE", 0.0)
    with pytest.raises(
        InternalError,
        match=r"^video.onnx: the vectors of ONNX Runtime .* differ from torch's by .*, expected at most 0e\+00; nothing was written$",
    ):
        cmmixer.export(cmmixer.ExportSettings(model=str(run), out=str(tmp_path / "onnx")))
    assert not list(tmp_path.iterdir())


def test_existing_folders_and_missing_runs_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already; choose a new folder"):
        cmmixer.export(cmmixer.ExportSettings(model=str(run), out=str(tmp_path)))
    assert main(["export", "--model", str(tmp_path / "no"), "--out", str(tmp_path / "onnx")]) == 2
    assert "expected a run or checkpoint folder" in capsys.readouterr().err
    assert main(["export", "--model", str(run), "--out", str(tmp_path / "x"), "--format", "tflite"]) == 2
    assert "--format: got 'tflite', expected one of onnx" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_description_can_be_read_back(run: Path, exported: Path) -> None:
    report = ExportReport.read(LocalFolder(exported))
    assert report.clip == CLIP
    assert report.embed_dim == 16
    assert report.towers["video"].shape == ("B", 2, 3, 32, 32)
    assert report.towers["audio"].outputs == {"clip": ("B", 16), "frames": ("B", 2, 16)}
    assert report.towers["audio"].bytes == (exported / "audio.onnx").stat().st_size
    assert list(report.versions) == ["torch", "onnxscript", "onnxruntime"]
    assert report.to_text() == (exported / "export.json").read_text()
    lines = report.render().plain.splitlines()
    assert lines[0].startswith("onnx/video.onnx: pixels uint8 ['B', 2, 3, 32, 32], ")
    assert lines[1].startswith("onnx/audio.onnx: samples int16 ['B', 2, 4000], ")
    assert all(", max difference from torch " in line for line in lines)


@pytest.mark.parametrize(("modality", "dtype"), [("video", np.uint8), ("audio", np.int16)])
def test_the_clips_of_the_check_go_from_full_strength_to_nothing(modality: str, dtype: type) -> None:
    media = export_module._clips(modality, CLIP, 3, np.random.default_rng(0))
    assert media.dtype == dtype
    strength = [float(np.abs(clip.astype(np.float64)).max()) for clip in media]
    assert strength[0] > 1.8 * strength[1] > 0
    assert strength[2] == 0.0
    again = export_module._clips(modality, CLIP, 3, np.random.default_rng(0))
    assert np.array_equal(media, again)


def test_values_that_are_not_finite_differ_infinitely(
    run: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ModelEncoder.load(run, torch.device("cpu"))
    tower = export_module._Tower(encoder.model, "video").eval()
    media = export_module._clips("video", CLIP, 2, np.random.default_rng(0))
    assert export_module._difference(tower, exported / "video.onnx", media) < 1e-5
    broken = torch.full((2, 16), float("nan")), torch.zeros(2, 2, 16)
    monkeypatch.setattr(tower, "forward", lambda media: broken)
    assert export_module._difference(tower, exported / "video.onnx", media) == float("inf")
