"""What `--model` loads: finetune runs, on the right device, packed for a CPU or in mixed precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cmmixer import checkpoint
from cmmixer.encoders.base import Encoder, MixedPrecisionEncoder
from cmmixer.encoders.loading import ModelEncoder, load_encoder
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.models.onednn import HAS_ONEDNN, PackedLinear
from tests.support.small_runs import PICO, untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run") / "run", PICO)


def _media(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (batch, PICO.frames, 3, PICO.height, PICO.width), dtype=torch.uint8, generator=generator
    )
    windows = torch.randint(
        -9000, 9000, (batch, PICO.frames, PICO.window_samples), dtype=torch.int16, generator=generator
    )
    return pixels, windows


def test_an_encoder_of_a_run_or_of_its_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    folder = checkpoint.resolve(run)
    for path in (run, folder, "run"):
        encoder = load_encoder(path, "cpu")
        assert isinstance(encoder, ModelEncoder)
        assert isinstance(encoder, Encoder)
        assert encoder.id == checkpoint.load_metadata(run).model_id
        assert encoder.path == str(folder)
        assert (encoder.dim, encoder.clip, encoder.device) == (16, PICO, torch.device("cpu"))


def test_vectors_are_those_of_the_network(run: Path) -> None:
    encoder, network = load_encoder(run, "cpu"), checkpoint.load_retriever(run)
    pixels, windows = _media()
    with torch.inference_mode():
        expected = network.embed_video(pixels), network.embed_audio(windows)
    for got, vectors in zip((encoder.embed_video(pixels), encoder.embed_audio(windows)), expected, strict=True):
        torch.testing.assert_close(got.clip_BE, vectors.clip_BE, atol=2e-6, rtol=0)
        torch.testing.assert_close(got.frames_BTE, vectors.frames_BTE, atol=2e-6, rtol=0)
        assert got.clip_BE.shape == (3, 16)
        assert got.frames_BTE.shape == (3, PICO.frames, 16)
        assert not got.clip_BE.requires_grad


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_linear_layers_are_packed_on_a_cpu_and_only_by_load_encoder(run: Path) -> None:
    packed = load_encoder(run, "cpu")
    assert isinstance(packed, ModelEncoder)
    assert any(isinstance(module, PackedLinear) for module in packed.model.modules())
    plain = ModelEncoder.load(run, torch.device("cpu"))
    assert not any(isinstance(module, PackedLinear) for module in plain.model.modules())
    assert packed.dim == plain.dim == 16


def test_mixed_precision_wraps_the_plain_network(run: Path) -> None:
    mixed = load_encoder(run, "cpu", "bf16-mixed")
    assert isinstance(mixed, MixedPrecisionEncoder)
    assert isinstance(mixed.encoder, ModelEncoder)
    assert not any(isinstance(module, PackedLinear) for module in mixed.encoder.model.modules())
    pixels, _ = _media()
    got, expected = mixed.embed_video(pixels).clip_BE, load_encoder(run, "cpu").embed_video(pixels).clip_BE
    assert got.dtype == torch.float32
    assert float((got * expected).sum(-1).min()) > 0.999


def test_loading_errors_are_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CheckpointError, match=r"none: got nothing, expected a run or checkpoint folder as `cmmixer pretr"
    ):
        load_encoder(tmp_path / "none", "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"^--device: got cuda, but torch sees no CUDA device; use --device cpu$"):
        load_encoder(run, "cuda")
