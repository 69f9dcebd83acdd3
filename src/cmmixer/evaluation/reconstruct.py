"""What the masked autoencoder sees and gives back, as pictures.

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
from cmmixer.models.mixer import draw_share
from cmmixer.models.patches import keep_count, patches_to_pictures, strip_grid
from cmmixer.types import Batch


@dataclass(frozen=True)
class Separation:
    """One clip on its way through the autoencoder; every row float [T, H, W, 3] in [0, 1].

    Mel pictures have their lowest band at the bottom, as people draw them.

    Attributes:
        frames, mel: what went in.
        mixed: after the mixer.
        masked: what the encoder sees of it; dropped patches are grey. Sound stands on its head in both mixed rows, as the
            network gets it: row 0 of a mel picture is the lowest band.
        video, audio: what comes back, each modality from its own head; grey where the encoder saw the mix, since nothing is
            asked of it there.
    """

    frames: Tensor
    mel: Tensor
    mixed: Tensor
    masked: Tensor
    video: Tensor
    audio: Tensor

    def rows(self) -> dict[str, Tensor]:
        """The rows by the words that stand beside them."""
        return {
            "frames": self.frames,
            "mel pictures of the sound": self.mel,
            "mixed (sounds upside down, as the network gets them)": self.mixed,
            "what the encoder sees": self.masked,
            "picture given back where it saw nothing": self.video,
            "sound given back where it saw nothing": self.audio,
        }

    def sheet(self) -> Tensor:
        """All rows below one another, uint8 [6*H, T*W, 3]."""
        strips = [row.permute(1, 0, 2, 3).flatten(1, 2) for row in self.rows().values()]
        return (torch.cat(strips) * 255).round().to(torch.uint8)


@torch.no_grad()
def separate(
    network: MaskedAutoencoder,
    frontend: FrontEnd,
    batch: Batch,
    share_BT1HW: Tensor,
    mask_ratio: float,
    noise_BL: Tensor,
) -> Separation:
    """Runs the batch's first clip through the autoencoder; the arguments are those of its forward pass.

    With `norm_pix` only the pattern of a patch is learnt, so the clean patch lends its mean and spread.
    """
    video, audio, share = frontend.video(batch.video_BTCHW[:1]), frontend.audio(batch.audio_BTN[:1]), share_BT1HW[:1]
    output = network(video, audio, share, mask_ratio=mask_ratio, noise_BL=noise_BL[:1])
    mixed = torch.lerp(video, audio, share)
    frames, height, width = video.shape[1], video.shape[3], video.shape[4]

    def pictures(patches_BLP: Tensor) -> Tensor:
        return patches_to_pictures(patches_BLP, frames, height, width, network.patch, network.interleave)

    def back(prediction_BLP: Tensor, clean: Tensor) -> Tensor:
        return pictures(_unstandardised(network, prediction_BLP, network.patches(clean)) * hidden)

    hidden = output.mask.unsqueeze(2)
    colours, levels = _Colours(frontend), _Levels(audio)
    return Separation(
        frames=colours(video),
        mel=levels(audio),
        mixed=colours(mixed),
        masked=colours(pictures(network.patches(mixed) * (1.0 - hidden))),
        video=colours(back(output.prediction_video, video)),
        audio=levels(back(output.prediction_audio, audio)),
    )


class Separator:
    """A pre-trained autoencoder under the mixer and the mask it was trained with.

    Args:
        run: of pretrain.
        device: where it computes.

    Raises:
        CheckpointError: missing, damaged, or not an autoencoder.
    """

    def __init__(self, run: str | Path, device: torch.device | str = "cpu") -> None:
        self.card = checkpoint.load_card(run)
        network = checkpoint.load_model(run, "mae").to(device)
        assert isinstance(network, MaskedAutoencoder)
        self.network, self.device = network, device
        self.frontend = FrontEnd(self.card.clip, self.card.statistics).to(device)
        names = [field.name for field in dataclasses.fields(MixerSettings)]
        self.mixer = from_dict(MixerSettings, {name: self.card.settings[name] for name in names}, str(run))
        self.mask_ratio = float(self.card.settings["mask_ratio"])

    def draws(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Share maps [B, T, 1, H, W] and the noise of masks [B, L] for so many clips."""
        clip, patch = self.card.clip, self.card.model.patch
        generator = torch.Generator().manual_seed(seed)
        share = draw_share(
            self.mixer,
            batch=count,
            frames=clip.frames,
            height=clip.height,
            width=clip.width,
            patch=patch,
            generator=generator,
        )
        noise = torch.rand(count, strip_grid(clip.height, clip.width, clip.frames, patch).tokens, generator=generator)
        return share.to(self.device), noise.to(self.device)

    def separation(self, batch: Batch, share_BT1HW: Tensor, noise_BL: Tensor) -> Separation:
        """The batch's first clip on its way; see `separate`."""
        return separate(self.network, self.frontend, batch, share_BT1HW, self.mask_ratio, noise_BL)


class GivenBack(NamedTuple):
    """Both clean strips as the autoencoder gives them back, standardised, [B, T, 3, H, W]."""

    video: Tensor
    audio: Tensor


@torch.no_grad()
def give_back(
    network: MaskedAutoencoder,
    video_BTCHW: Tensor,
    audio_BTCHW: Tensor,
    share_BT1HW: Tensor,
    *,
    mask_ratio: float,
    noise_BL: Tensor,
) -> GivenBack:
    """The whole of both strips from a mix: every patch by the passes in which it was hidden.

    The autoencoder was asked for hidden patches only, so the mix goes through it several times, each time with the next
    tokens of the noise's order visible, until every patch was hidden; then each patch is the mean over those passes. With
    `norm_pix` the clean patch lends its mean and spread.

    Args:
        network: in evaluation mode.
        video_BTCHW, audio_BTCHW, share_BT1HW: as its forward pass takes them.
        mask_ratio: of training; below a half, a half is hidden, so that two passes suffice.
        noise_BL: orders the tokens.
    """
    batch, frames, _, height, width = video_BTCHW.shape
    tokens = noise_BL.shape[1]
    ratio = max(mask_ratio, 0.5)
    keep = keep_count(tokens, ratio)
    rank_BL = noise_BL.argsort(dim=1, stable=True).argsort(dim=1)
    clean = network.patches(video_BTCHW), network.patches(audio_BTCHW)
    totals = [torch.zeros_like(each) for each in clean]
    hidden_BL1 = torch.zeros(batch, tokens, 1, device=video_BTCHW.device)
    for first in range(0, tokens, keep):
        noise = ((rank_BL - first) % tokens).to(torch.float32)
        output = network(video_BTCHW, audio_BTCHW, share_BT1HW, mask_ratio=ratio, noise_BL=noise)
        mask_BL1 = output.mask.unsqueeze(2)
        hidden_BL1 += mask_BL1
        for total, prediction, patches in zip(
            totals, (output.prediction_video, output.prediction_audio), clean, strict=True
        ):
            total += mask_BL1 * _unstandardised(network, prediction, patches)
    return GivenBack(
        *(
            patches_to_pictures(total / hidden_BL1, frames, height, width, network.patch, network.interleave)
            for total in totals
        )
    )


def _unstandardised(network: MaskedAutoencoder, prediction_BLP: Tensor, clean_BLP: Tensor) -> Tensor:
    if not network.norm_pix:
        return prediction_BLP
    variance, mean = torch.var_mean(clean_BLP, dim=2, correction=0, keepdim=True)
    return prediction_BLP * (variance + NORM_PIX_EPS).sqrt() + mean


class _Colours:
    """Undoes the standardisation of frames."""

    def __init__(self, frontend: FrontEnd) -> None:
        self.scale, self.shift = frontend.picture_scale, frontend.picture_shift

    def __call__(self, pictures_BTCHW: Tensor) -> Tensor:
        colours = (pictures_BTCHW[0] - self.shift) / self.scale
        return colours.clamp(0, 1).permute(0, 2, 3, 1).cpu()


class _Levels:
    """Stretches mel pictures over [0, 1] by the clean one's range, low bands down."""

    def __init__(self, clean: Tensor) -> None:
        self.low, self.high = clean.min(), clean.max()

    def __call__(self, pictures_BTCHW: Tensor) -> Tensor:
        levels = (pictures_BTCHW[0] - self.low) / (self.high - self.low).clamp(min=1e-6)
        return levels.clamp(0, 1).flip(2).permute(0, 2, 3, 1).cpu()
