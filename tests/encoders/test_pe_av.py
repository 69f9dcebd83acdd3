"""PE-AV with transformers' own class, tiny and with random weights: the adapter computes what the model's forward does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmmixer.cli.main import main
from cmmixer.encoders import pe_av
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.encoders.pe_av import PeAvEncoder, from_checkpoint, weights_id
from cmmixer.errors import CheckpointError, SettingsError
from tests.support.coloured_videos import BLUE, RED, video

transformers = pytest.importorskip("transformers", reason="PE-AV needs transformers (extra hf)")
HAS_TIMM = importlib.util.find_spec("timm") is not None and importlib.util.find_spec("torchvision") is not None
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}


def _vit() -> Any:
    return transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16,
        num_labels=24,
    )  # fmt: skip


def _timm() -> Any:
    # As the published checkpoints, but small: depth and width are timm's arguments.
    return transformers.TimmWrapperConfig(
        architecture="vit_pe_core_tiny_patch16_384",
        do_pooling=True,
        num_classes=24,
        model_args={"depth": 1, "img_size": 32},
    )


def _tiny(vision: Any) -> Any:
    text = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    tokens = {
        "vocab_size": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "sep_token_id": 1,
    }
    dac = {"encoder_hidden_size": 8, "downsampling_ratios": [2, 8, 10, 12], "codebook_dim": 8, "hidden_size": 16}
    audio_video = transformers.PeAudioVideoEncoderConfig(
        video_config=transformers.PeVideoEncoderConfig(vision_config=vision, **SMALL),
        audio_config=transformers.PeAudioEncoderConfig(dac_config=transformers.DacConfig(**dac), **SMALL),
        **SMALL,
    )
    config = transformers.PeAudioVideoConfig(
        text_config=transformers.ModernBertConfig(**text, **tokens), audio_video_config=audio_video
    )
    torch.manual_seed(0)
    return transformers.PeAudioVideoModel(config).eval()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(_vit, id="vit"),
        pytest.param(
            _timm,
            id="timm",
            marks=pytest.mark.skipif(
                not HAS_TIMM, reason="timm or torchvision is not here: beside a CPU-only torch it cannot be"
            ),
        ),
    ],
)
def model(request: pytest.FixtureRequest) -> Any:
    return _tiny(request.param())


def _encoder(model: Any) -> PeAvEncoder:
    half = [0.5, 0.5, 0.5]
    return PeAvEncoder(model, "hf:tiny", side=32, mean=half, std=half, sample_rate_hz=48000, device=torch.device("cpu"))


def test_vectors_equal_the_model_s_own_forward(model: Any) -> None:
    encoder = _encoder(model)
    assert isinstance(encoder, Encoder)
    assert (encoder.dim, encoder.clip.frames, encoder.clip.clip_seconds) == (32, 10, 5.0)
    assert encoder.clip.window_samples * encoder.clip.frames == 5 * 48000
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 10, 3, 32, 32), dtype=torch.uint8, generator=generator)
    windows = torch.randint(-9000, 9000, (2, 10, 24000), dtype=torch.int16, generator=generator)
    with torch.inference_mode():
        # The windows of a moment follow each other without gaps: 5 s of sound.
        sound = torch.cat([windows[:, number] for number in range(10)], dim=1).float() / 32768
        wanted = model(pixel_values_videos=pixels.float() / 127.5 - 1, input_values=sound[:, None])
    for got, vectors in (
        (encoder.embed_video(pixels), wanted.video_embeds),
        (encoder.embed_audio(windows), wanted.audio_embeds),
    ):
        assert torch.allclose(got.clip_BE, torch.nn.functional.normalize(vectors, dim=-1), atol=1e-5)
        assert torch.equal(got.frames_BTE, got.clip_BE[:, None].expand(-1, 10, -1))
    # Frames that are a view in another order of memory.
    turned = pixels.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert torch.allclose(encoder.embed_video(turned).clip_BE, encoder.embed_video(pixels).clip_BE, atol=1e-6)


def test_the_id_depends_on_the_weights(model: Any) -> None:
    before = weights_id(model)
    assert before == weights_id(model)
    weight = model.audio_model.audio_head.state_dict()
    tensor = next(iter(weight.values()))
    with torch.no_grad():
        tensor.view(-1)[0] += 1.0
        changed = weights_id(model)
        tensor.view(-1)[0] -= 1.0
    assert changed != before


def test_a_saved_checkpoint_searches_videos(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path / "tiny")
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        feature_extractor=SimpleNamespace(sampling_rate=48000),
    )
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda name: processor)
    if not HAS_TIMM:  # transformers takes any saved picture tower for timm's
        monkeypatch.setattr(transformers.PeAudioVideoModel, "from_pretrained", lambda name: model)
        monkeypatch.setattr("cmmixer.encoders.pe_av.load", from_checkpoint)
    name = f"hf:{tmp_path / 'tiny'}"
    assert load_encoder(name, "cpu").id == weights_id(model)
    for colour, path in ((RED, "red.mp4"), (BLUE, "blue.mp4")):
        video(tmp_path / "videos" / path, [colour] * 6)
    library = str(tmp_path / "library")
    data = str(tmp_path / "videos")
    assert main(["index", "--model", name, "--data", data, "--index", library, "--workers", "1"]) == 0
    capsys.readouterr()
    query = str(tmp_path / "videos" / "red.mp4")
    assert main(["search", query, "--index", library, "--for", "video", "--by", "video", "-k", "1"]) == 0
    assert "1.000" in capsys.readouterr().out


def test_other_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _vit().save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="got a vit, expected a pe_audio_video model"):
        from_checkpoint(str(tmp_path / "vit"), torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"hf:no/such/thing: cannot be loaded \("):
        from_checkpoint("no/such/thing", torch.device("cpu"))


@pytest.mark.skipif(HAS_TIMM, reason="timm is here")
def test_a_missing_library_is_named() -> None:
    with pytest.raises(
        SettingsError, match=r"--model hf:facebook/pe-av-small needs timm, .* pip install 'cmmixer\[hf\]'"
    ):
        load_encoder("hf:facebook/pe-av-small", "cpu")


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ({"height": 336, "width": 336}, 336),
        ({"shortest_edge": 224}, 224),
        ({"height": None, "shortest_edge": 448}, 448),
    ],
)
def test_the_size_of_a_frame_is_read_from_the_processor(size: dict[str, int | None], side: int) -> None:
    assert pe_av._side(size) == side


def test_a_missing_timm_is_noticed_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(pe_av, "from_checkpoint", lambda *arguments: pytest.fail("downloads the model"))
    with pytest.raises(ModuleNotFoundError, match="timm"):
        pe_av.load("facebook/pe-av-small", torch.device("cpu"))


def test_the_id_does_not_depend_on_the_order_of_tensors() -> None:
    one, other = torch.nn.Module(), torch.nn.Module()
    for module, names in ((one, ("a", "b")), (other, ("b", "a"))):
        for name in names:
            module.register_buffer(name, torch.full((2,), float(ord(name))))
    assert weights_id(one) == weights_id(other)
    other.register_buffer("c", torch.zeros(0))
    assert weights_id(one) != weights_id(other)
