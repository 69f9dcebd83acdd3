"""Meta's PE-AV (Perception Encoder, audio and video) through transformers, as `--model hf:facebook/pe-av-small`.

It was trained on a great many films with their sound, so it searches well without any training of ours. Extra `hf`; its picture
tower is timm's, which needs a torchvision that fits the installed torch.

A moment is 5 s: 10 frames, and 10 windows of half a second that make up its whole sound. The model gives a vector for a
moment, none for a frame; each frame gets its moment's.

Letters: B moments, T frames, C = 3 channels, H x W pixels, N samples of a window, E = the model's hidden size.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmmixer.config import ClipSettings
from cmmixer.errors import CheckpointError
from cmmixer.media.mel import as_float
from cmmixer.models.retriever import Embedding

CLIP_SECONDS = 5.0
FRAMES = 10


class PeAvEncoder:
    """A `PeAudioVideoModel` as a `cmmixer.encoders.Encoder`.

    Args:
        model: the network.
        path: what `--model` finds it by.
        side: pixels of a frame's side.
        mean, std: per colour channel, of pixels in [0, 1].
        sample_rate_hz: of its sound.
        device: where it computes.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str,
        *,
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
        sample_rate_hz: int,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).eval()
        self.path = path
        self.device = device
        self.id = weights_id(model)
        self.dim = int(self.model.config.text_config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.clip = ClipSettings(
            frames=FRAMES,
            height=side,
            width=side,
            clip_seconds=CLIP_SECONDS,
            window_seconds=CLIP_SECONDS / FRAMES,
            sample_rate_hz=sample_rate_hz,
        )
        self._mean_C11 = torch.tensor(mean, device=device).reshape(3, 1, 1)
        self._std_C11 = torch.tensor(std, device=device).reshape(3, 1, 1)

    @torch.inference_mode()
    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """uint8 [B, T, 3, H, W] -> unit vectors."""
        pixels = (pixels_BTCHW.to(self.device).float() / 255.0 - self._mean_C11) / self._std_C11
        return self._embedding("video", pixel_values_videos=pixels.to(self._dtype).contiguous())

    @torch.inference_mode()
    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """int16 [B, T, N] -> unit vectors; the windows lie end to end."""
        sound_B1N = as_float(windows_BTN.to(self.device)).flatten(1).unsqueeze(1)
        return self._embedding("audio", input_values=sound_B1N.to(self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _embedding(self, sense: str, **media: Tensor) -> Embedding:
        """As the model's own `forward` does it; its `get_video_embeds` calls a method that is not there (transformers 5.24)."""
        half = self.model.get_submodule(f"{sense}_model")
        pooled = half.get_submodule(f"{sense}_encoder")(**media).pooler_output
        unit_BE = nn.functional.normalize(half.get_submodule(f"{sense}_head")(pooled).float(), dim=-1)
        return Embedding(unit_BE, unit_BE.unsqueeze(1).expand(-1, self.clip.frames, -1))


def load(argument: str, device: torch.device) -> PeAvEncoder:
    """`--model hf:NAME`: a PE-AV checkpoint of the Hugging Face Hub, or a folder that holds one.

    Raises:
        CheckpointError: it cannot be had, or is another model.
        ModuleNotFoundError: transformers, timm or torchvision is not installed.
    """
    importlib.import_module("timm")  # told by name before gigabytes are loaded
    return from_checkpoint(argument, device)


def from_checkpoint(argument: str, device: torch.device) -> PeAvEncoder:
    """The same, without asking for timm first.

    Raises:
        CheckpointError: it cannot be had, or is another model.
    """
    from transformers import AutoConfig, AutoProcessor, PeAudioVideoModel

    try:
        config = AutoConfig.from_pretrained(argument)
        if config.model_type != "pe_audio_video":
            raise CheckpointError(f"hf:{argument}: got a {config.model_type}, expected a pe_audio_video model")
        processor: Any = AutoProcessor.from_pretrained(argument)
        model: Any = PeAudioVideoModel.from_pretrained(argument)
    except (OSError, ValueError) as fault:
        raise CheckpointError(f"hf:{argument}: cannot be loaded ({' '.join(str(fault).split())[:300]})") from fault
    picture, sound = processor.video_processor, processor.feature_extractor
    return PeAvEncoder(
        model,
        f"hf:{argument}",
        side=_side(picture.size),
        mean=picture.image_mean,
        std=picture.image_std,
        sample_rate_hz=sound.sampling_rate,
        device=device,
    )


def weights_id(model: nn.Module) -> str:
    """sha256 over the names and values of a network's tensors, whatever files they came from."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _side(size: Any) -> int:
    """What processors call a size: {"height": 336, "width": 336} or {"shortest_edge": 336}."""
    return int(size.get("height") or size.get("shortest_edge"))
