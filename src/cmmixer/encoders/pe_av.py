"""Meta's PE-AV (Perception Encoder, audio and video) from transformers, as `--model hf:facebook/pe-av-small`.

It was trained on very many videos with sound, so it searches well without further training. It needs the extra `hf`; its image
tower is from timm, which needs a torchvision that matches the installed torch.

A moment is 5 s long: 10 frames, and 10 audio windows of half a second that make up its whole sound. The model has one vector
for a moment and none for frames; each frame gets the vector of its moment.

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
    """A `PeAudioVideoModel` as an `Encoder`.

    Args:
        model: the network.
        path: what `--model` finds it by.
        side: height and width of a frame in pixels.
        mean, std: per color channel, of pixels in [0, 1].
        sample_rate_hz: sample rate of its audio.
        device: device to compute on.
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
        """Embeds frames, uint8 [B, T, 3, H, W]; see `Encoder`."""
        pixels = (pixels_BTCHW.to(self.device).float() / 255.0 - self._mean_C11) / self._std_C11
        return self._embedding("video", pixel_values_videos=pixels.to(self._dtype).contiguous())

    @torch.inference_mode()
    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """Embeds audio windows, int16 [B, T, N], which follow each other without gaps; see `Encoder`."""
        sound_B1N = as_float(windows_BTN.to(self.device)).flatten(1).unsqueeze(1)
        return self._embedding("audio", input_values=sound_B1N.to(self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _embedding(self, modality: str, **media: Tensor) -> Embedding:
        """Does what the model's `forward` does. Its `get_video_embeds` calls a method that does not exist (transformers 5.24)."""
        tower = self.model.get_submodule(f"{modality}_model")
        pooled = tower.get_submodule(f"{modality}_encoder")(**media).pooler_output
        unit_BE = nn.functional.normalize(tower.get_submodule(f"{modality}_head")(pooled).float(), dim=-1)
        return Embedding(unit_BE, unit_BE.unsqueeze(1).expand(-1, self.clip.frames, -1))


def load(argument: str, device: torch.device) -> PeAvEncoder:
    """Loads `--model hf:NAME`: a PE-AV checkpoint on the Hugging Face Hub or in a folder.

    Raises:
        CheckpointError: it cannot be loaded, or is another model.
        ModuleNotFoundError: transformers, timm or torchvision is not installed.
    """
    importlib.import_module("timm")  # if missing, fails before gigabytes are downloaded
    return from_checkpoint(argument, device)


def from_checkpoint(argument: str, device: torch.device) -> PeAvEncoder:
    """Loads a checkpoint as `load` does, without checking for timm first.

    Raises:
        CheckpointError: it cannot be loaded, or is another model.
    """
    from transformers import AutoConfig, AutoProcessor, PeAudioVideoModel

    try:
        config = AutoConfig.from_pretrained(argument)
        if config.model_type != "pe_audio_video":
            raise CheckpointError(f"hf:{argument}: got a {config.model_type}, expected a pe_audio_video model")
        processor: Any = AutoProcessor.from_pretrained(argument)
        model: Any = PeAudioVideoModel.from_pretrained(argument)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"hf:{argument}: cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    video, audio = processor.video_processor, processor.feature_extractor
    return PeAvEncoder(
        model,
        f"hf:{argument}",
        side=_side(video.size),
        mean=video.image_mean,
        std=video.image_std,
        sample_rate_hz=audio.sampling_rate,
        device=device,
    )


def weights_id(model: nn.Module) -> str:
    """Returns the sha256 of the names and values of a network's tensors, which does not depend on their files."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _side(size: Any) -> int:
    """Reads the size of a processor: {"height": 336, "width": 336} or {"shortest_edge": 336}."""
    return int(size.get("height") or size.get("shortest_edge"))
