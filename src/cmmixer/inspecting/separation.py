"""What an autoencoder sees of a film and gives back, as a sheet, as sounds, and in decibels.

Letters: B clips, T frames, C channels, H x W pixels, N samples of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer.config import ClipSettings
from cmmixer.data.loading import collate
from cmmixer.evaluation.reconstruct import Separator, give_back
from cmmixer.media.invert import sound_of_mel
from cmmixer.report.plots import StripRow, strip_picture
from cmmixer.report.sheets import Listen, Sheet, wav
from cmmixer.types import Batch, Clip


@dataclass(frozen=True)
class Distances:
    """Mean absolute difference to the clean mel picture, in decibels.

    Attributes:
        mixed: of the mix, taken for a mel picture.
        separated: of what comes back.
        mixed_covered, separated_covered: the same where the mix holds more of the picture than of the sound, where alone the
            sound has to be inferred; not a number where a clip has no such place.
    """

    mixed: float
    separated: float
    mixed_covered: float
    separated_covered: float

    @classmethod
    def of(cls, mels: Sequence[Tensor], share_THW: Tensor) -> Self:
        """Of one clip's mel pictures [T, H, W]: clean, mixed, separated."""
        clean_THW, mixed_THW, separated_THW = mels
        covered = share_THW < 0.5
        errors = (mixed_THW - clean_THW).abs(), (separated_THW - clean_THW).abs()
        return cls(*(float(error.mean()) for error in errors), *(float(error[covered].mean()) for error in errors))


def mel_decibels(separator: Separator, batch: Batch, share: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mel pictures of the clean sound, of the mix taken as one, and of what comes back, [B, T, H, W] each."""
    video, audio = separator.frontend.video(batch.video_BTCHW), separator.frontend.audio(batch.audio_BTN)
    back = give_back(separator.network, video, audio, share, mask_ratio=separator.mask_ratio, noise_BL=noise)
    statistics = separator.card.statistics
    clean, mixed, separated = (
        each.mean(2) * statistics.mel_std + statistics.mel_mean
        for each in (audio, torch.lerp(video, audio, share), back.audio)
    )
    return clean, mixed, separated


def distances_of(separator: Separator, clip: Clip, share: Tensor, noise: Tensor) -> Distances:
    """Of one clip under one draw."""
    mels = mel_decibels(separator, collate([clip]).to(separator.device), share, noise)
    return Distances.of([mel[0] for mel in mels], share[0, :, 0])


def separation_sheet(separator: Separator, clip: Clip, share: Tensor, noise: Tensor) -> Sheet:
    """Six strips, and the sound as it is, as its mel picture keeps it, mixed, and given back."""
    batch = collate([clip]).to(separator.device)
    strips = separator.separation(batch, share, noise)
    mels = [each[0] for each in mel_decibels(separator, batch, share, noise)]
    distance = Distances.of(mels, share[0, :, 0])
    words = (
        f"The mix is {distance.mixed:.1f} dB from the clean mel picture on average, what comes back {distance.separated:.1f} dB; where the mix shows the "
        f"picture instead of the sound, {distance.mixed_covered:.1f} and {distance.separated_covered:.1f} dB."
    )
    geometry = separator.card.clip
    rate = geometry.sample_rate_hz
    names = ("as its mel picture keeps it", "the mix, taken for a mel picture", "given back")
    sounds = [Listen("the sound itself, at the frames' instants", wav(_as_windows(clip), rate))]
    sounds += [
        Listen(name, wav(_played(decibels.cpu().numpy(), geometry), rate))
        for name, decibels in zip(names, mels, strict=True)
    ]
    rows = [StripRow(caption, pictures.numpy()) for caption, pictures in strips.rows().items()]
    return Sheet(
        clip.id, words, strip_picture(rows), "Frames, mel pictures, mix, masked mix, and both given back.", sounds
    )


def _as_windows(clip: Clip) -> NDArray[np.int16]:
    assert clip.sound is not None
    return clip.sound.samples_TN.reshape(-1)


def _played(decibels_THW: NDArray[np.floating], clip: ClipSettings) -> NDArray[np.float32]:
    """The windows' sounds one after the other."""
    return sound_of_mel(decibels_THW, clip).reshape(-1)
