"""What the masked autoencoder sees and reconstructs, as images.

Letters: T frames, H x W pixels, L tokens, P numbers of a patch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.config import MixerSettings
from cmmixer.config.base import from_dict
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.mae import NORM_PIX_EPS, MaskedAutoencoder
from cmmixer.models.mixer import blend, draw_mixing_mask
from cmmixer.models.patches import keep_count, strip_grid, unpatchify
from cmmixer.types import Batch


@dataclass(frozen=True)
class Separation:
    """The images of one clip on its way through the autoencoder; each float [T, H, W, 3] in [0, 1].

    Mel spectrograms have the lowest band at the bottom, as people draw them.

    Attributes:
        frames, mel: the inputs.
        mixed: their mix. The mel spectrograms in it are upside down, as in the network: row 0 is the lowest band.
        masked: the part of the mix that the encoder sees; masked patches are grey.
        video, audio: the reconstructions, each from the head of its modality; grey where the encoder saw the mix, since no
            reconstruction is learned there.
    """

    frames: Tensor
    mel: Tensor
    mixed: Tensor
    masked: Tensor
    video: Tensor
    audio: Tensor

    def rows(self) -> dict[str, Tensor]:
        """Returns the images with their captions."""
        return {
            "frames": self.frames,
            "mel spectrograms": self.mel,
            "mixed (mel spectrograms upside down, as in the network)": self.mixed,
            "what the encoder sees": self.masked,
            "frames reconstructed where masked": self.video,
            "mel spectrograms reconstructed where masked": self.audio,
        }

    def sheet(self) -> Tensor:
        """Returns all images below one another, uint8 [6*H, T*W, 3]."""
        strips = [row.permute(1, 0, 2, 3).flatten(1, 2) for row in self.rows().values()]
        return (torch.cat(strips) * 255).round().to(torch.uint8)


@torch.no_grad()
def separate(
    network: MaskedAutoencoder,
    frontend: FrontEnd,
    batch: Batch,
    mixing_mask_BT1HW: Tensor,
    mask_ratio: float,
    noise_BL: Tensor,
) -> Separation:
    """Runs the first clip of a batch through the autoencoder; the arguments are those of its forward pass.

    With `norm_pix` the autoencoder learns only normalized patches; the mean and standard deviation are then those of the
    clean patches.
    """
    video, audio = frontend.video(batch.video_BTCHW[:1]), frontend.audio(batch.audio_BTN[:1])
    mixing_mask = mixing_mask_BT1HW[:1]
    output = network(video, audio, mixing_mask, mask_ratio=mask_ratio, noise_BL=noise_BL[:1])
    mixed = blend(video, audio, mixing_mask)
    hidden_BL1 = output.mask.unsqueeze(2)
    frames, height, width = video.shape[1], video.shape[3], video.shape[4]

    def image(patches_BLP: Tensor) -> Tensor:
        return unpatchify(patches_BLP, frames, height, width, network.patch, network.interleave)

    def reconstructed(prediction_BLP: Tensor, clean: Tensor) -> Tensor:
        return image(_unnormalize(network, prediction_BLP, network.patchify(clean)) * hidden_BL1)

    colors, levels = _Colors(frontend), _Levels(audio)
    return Separation(
        frames=colors(video),
        mel=levels(audio),
        mixed=colors(mixed),
        masked=colors(image(network.patchify(mixed) * (1.0 - hidden_BL1))),
        video=colors(reconstructed(output.prediction_video, video)),
        audio=levels(reconstructed(output.prediction_audio, audio)),
    )


class Separator:
    """A pre-trained autoencoder with the mixer and the mask ratio of its training.

    Args:
        run: run of pretrain.
        device: device to compute on.

    Raises:
        CheckpointError: missing, damaged, or not an autoencoder.
    """

    def __init__(self, run: str | Path, device: torch.device | str = "cpu") -> None:
        self.metadata = checkpoint.load_metadata(run)
        network = checkpoint.load_model(run, "mae").to(device)
        assert isinstance(network, MaskedAutoencoder)
        self.network, self.device = network, device
        self.frontend = FrontEnd(self.metadata.clip, self.metadata.statistics).to(device)
        names = [field.name for field in dataclasses.fields(MixerSettings)]
        self.mixer = from_dict(MixerSettings, {name: self.metadata.settings[name] for name in names}, str(run))
        self.mask_ratio = float(self.metadata.settings["mask_ratio"])

    def draws(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws mixing masks [B, T, 1, H, W] and the noise of the token masks [B, L] for `count` clips."""
        clip, patch = self.metadata.clip, self.metadata.model.patch
        generator = torch.Generator().manual_seed(seed)
        mixing_mask = draw_mixing_mask(
            self.mixer,
            batch=count,
            frames=clip.frames,
            height=clip.height,
            width=clip.width,
            patch=patch,
            generator=generator,
        )
        noise = torch.rand(count, strip_grid(clip.height, clip.width, clip.frames, patch).tokens, generator=generator)
        return mixing_mask.to(self.device), noise.to(self.device)

    def separation(self, batch: Batch, mixing_mask_BT1HW: Tensor, noise_BL: Tensor) -> Separation:
        """Runs the first clip of a batch through the autoencoder; see `separate`."""
        return separate(self.network, self.frontend, batch, mixing_mask_BT1HW, self.mask_ratio, noise_BL)


class Reconstruction(NamedTuple):
    """The reconstructions of both clean strips, normalized, [B, T, 3, H, W]."""

    video: Tensor
    audio: Tensor


@torch.no_grad()
def reconstruct(
    network: MaskedAutoencoder,
    video_BTCHW: Tensor,
    audio_BTCHW: Tensor,
    mixing_mask_BT1HW: Tensor,
    *,
    mask_ratio: float,
    noise_BL: Tensor,
) -> Reconstruction:
    """Reconstructs both whole strips from their mix.

    The autoencoder learned to reconstruct masked patches only. So the mix passes through it several times, each time with
    the next tokens in the order of the noise visible, until every patch was masked. A patch is the mean over the passes in
    which it was masked. With `norm_pix` its mean and standard deviation are those of the clean patch.

    Args:
        network: the autoencoder, in evaluation mode.
        video_BTCHW, audio_BTCHW, mixing_mask_BT1HW: inputs of its forward pass.
        mask_ratio: mask ratio of the training; at least a half is masked, so that two passes are enough.
        noise_BL: gives the order of the tokens.
    """
    batch, frames, _, height, width = video_BTCHW.shape
    tokens = noise_BL.shape[1]
    ratio = max(mask_ratio, 0.5)
    keep = keep_count(tokens, ratio)
    rank_BL = noise_BL.argsort(dim=1, stable=True).argsort(dim=1)
    clean = network.patchify(video_BTCHW), network.patchify(audio_BTCHW)
    totals = [torch.zeros_like(patches) for patches in clean]
    hidden_BL1 = torch.zeros(batch, tokens, 1, device=video_BTCHW.device)
    for first in range(0, tokens, keep):
        noise = ((rank_BL - first) % tokens).to(torch.float32)
        output = network(video_BTCHW, audio_BTCHW, mixing_mask_BT1HW, mask_ratio=ratio, noise_BL=noise)
        mask_BL1 = output.mask.unsqueeze(2)
        hidden_BL1 += mask_BL1
        for total, prediction, patches in zip(
            totals, (output.prediction_video, output.prediction_audio), clean, strict=True
        ):
            total += mask_BL1 * _unnormalize(network, prediction, patches)
    return Reconstruction(
        *(unpatchify(total / hidden_BL1, frames, height, width, network.patch, network.interleave) for total in totals)
    )


def _unnormalize(network: MaskedAutoencoder, prediction_BLP: Tensor, clean_BLP: Tensor) -> Tensor:
    if not network.norm_pix:
        return prediction_BLP
    variance, mean = torch.var_mean(clean_BLP, dim=2, correction=0, keepdim=True)
    return prediction_BLP * (variance + NORM_PIX_EPS).sqrt() + mean


class _Colors:
    """Undoes the normalization of frames."""

    def __init__(self, frontend: FrontEnd) -> None:
        self.scale, self.shift = frontend.frame_scale, frontend.frame_shift

    def __call__(self, frames_BTCHW: Tensor) -> Tensor:
        colors = (frames_BTCHW[0] - self.shift) / self.scale
        return colors.clamp(0, 1).permute(0, 2, 3, 1).cpu()


class _Levels:
    """Scales mel spectrograms to [0, 1] by the range of the clean one, and turns low bands to the bottom."""

    def __init__(self, clean: Tensor) -> None:
        self.low, self.high = clean.min(), clean.max()

    def __call__(self, frames_BTCHW: Tensor) -> Tensor:
        levels = (frames_BTCHW[0] - self.low) / (self.high - self.low).clamp(min=1e-6)
        return levels.clamp(0, 1).flip(2).permute(0, 2, 3, 1).cpu()
