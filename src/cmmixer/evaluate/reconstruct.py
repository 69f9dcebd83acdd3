"""What the masked autoencoder sees and gives back, as pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmmixer.models.frontend import FrontEnd
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.strip import patchify, to_strip, unpatchify
from cmmixer.types import Batch

ROWS = ("frames", "mel", "mixed", "masked", "picture given back", "sound given back")


@dataclass(frozen=True)
class Separation:
    """One clip on its way through the autoencoder, as strips float [3, H, T*W] in [0, 1], low mel bands at the bottom.

    Attributes:
        strips: in the order of `ROWS`.
    """

    strips: tuple[Tensor, ...]

    def sheet(self) -> Tensor:
        """The strips below one another, uint8 [6*H, T*W, 3]."""
        sheet = torch.cat(self.strips, dim=1).permute(1, 2, 0)
        return (sheet.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


@torch.no_grad()
def separate(
    network: MaskedAutoencoder, frontend: FrontEnd, batch: Batch, share_BT1HW: Tensor, mask_ratio: float, noise_BL: Tensor
) -> Separation:
    """Runs the batch's first clip through the autoencoder.

    Reconstructed patches stand where the encoder saw nothing; with `norm_pix` they are given the clean patch's mean and
    spread back, since only the pattern was learnt.
    """
    video, audio = frontend.video(batch.video_BTCHW[:1]), frontend.audio(batch.audio_BTN[:1])
    share, patch = share_BT1HW[:1], network.patch
    output = network(video, audio, share, mask_ratio=mask_ratio, noise_BL=noise_BL[:1])
    mixed = torch.lerp(video, audio, share)
    mask = output.mask.unsqueeze(-1)

    def strip(pictures: Tensor) -> Tensor:
        return to_strip(pictures)

    grid = (video.shape[3] // patch, video.shape[1] * video.shape[4] // patch)
    clean = {"video": patchify(strip(video), patch), "audio": patchify(strip(audio), patch)}
    given = {"video": output.prediction_video, "audio": output.prediction_audio}
    back = {}
    for name, target in clean.items():
        patches = given[name]
        if network.norm_pix:
            patches = patches * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
        back[name] = unpatchify(patches, patch, grid)
    masked = unpatchify(patchify(strip(mixed), patch) * (1 - mask), patch, grid)
    picture = _picture_scale(frontend)
    sound = _Levels(strip(audio))
    rows = (
        picture(strip(video)),
        sound(strip(audio)),
        picture(strip(mixed)),
        picture(masked),
        picture(back["video"]),
        sound(back["audio"]),
    )
    return Separation(tuple(row[0] for row in rows))


class _Levels:
    """Stretches mel pictures to [0, 1] by the clean one's range and turns low bands down."""

    def __init__(self, clean: Tensor) -> None:
        self.low, self.high = clean.min(), clean.max()

    def __call__(self, strip: Tensor) -> Tensor:
        return ((strip - self.low) / (self.high - self.low).clamp(min=1e-6)).clamp(0, 1).flip(-2)


def _picture_scale(frontend: FrontEnd):  # type: ignore[no-untyped-def]
    """Undoes the standardisation of pictures."""
    statistics = frontend.statistics
    mean = torch.tensor(statistics.picture_mean)[:, None, None]
    std = torch.tensor(statistics.picture_std)[:, None, None]

    def scale(strip: Tensor) -> Tensor:
        return (strip * std.to(strip) + mean.to(strip)).clamp(0, 1)

    return scale
