"""What an autoencoder sees of a film and gives back, as a sheet, as sounds, and in decibels.

Letters: B clips, T frames, C channels, H x W pixels, N samples of a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.config import ClipSettings, MixerSettings
from cmmixer.config.check import from_dict
from cmmixer.data.batches import collate
from cmmixer.evaluation.reconstruct import give_back, separate
from cmmixer.media.invert import sound_of_mel
from cmmixer.mixer import draw_share
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.strip import strip_grid
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
    def of(cls, clean_THW: Tensor, mixed_THW: Tensor, separated_THW: Tensor, share_THW: Tensor) -> Self:
        """Of one clip."""
        covered = share_THW < 0.5
        errors = (mixed_THW - clean_THW).abs(), (separated_THW - clean_THW).abs()
        return cls(*(float(error.mean()) for error in errors), *(float(error[covered].mean()) for error in errors))


class Separator:
    """A pre-trained autoencoder under the mixer and mask it was trained with.

    Args:
        run: of pretrain.
        device: where it computes.
        seed: of mixes and masks.
    """

    def __init__(self, run: str, device: torch.device, seed: int) -> None:
        self.card = checkpoint.load_card(run)
        network = checkpoint.load_model(run, "mae").to(device)
        assert isinstance(network, MaskedAutoencoder)
        self.network, self.device, self.seed = network, device, seed
        self.frontend = FrontEnd(self.card.clip, self.card.statistics).to(device)
        names = [field.name for field in dataclasses.fields(MixerSettings)]
        self.mixer = from_dict(MixerSettings, {name: self.card.settings[name] for name in names}, run)
        self.mask_ratio = float(self.card.settings["mask_ratio"])

    def draws(self, count: int) -> tuple[Tensor, Tensor]:
        """Share maps and the noise of masks for so many clips."""
        clip, patch = self.card.clip, self.card.model.patch
        generator = torch.Generator().manual_seed(self.seed)
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

    def decibels(self, batch: Batch, share: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mel pictures of the clean sound, of the mix taken as one, and of what comes back, [B, T, H, W] each."""
        video, audio = self.frontend.video(batch.video_BTCHW), self.frontend.audio(batch.audio_BTN)
        back = give_back(self.network, video, audio, share, mask_ratio=self.mask_ratio, noise_BL=noise)
        clean, mixed, separated = (
            each.mean(2) * self.card.statistics.mel_std + self.card.statistics.mel_mean
            for each in (audio, torch.lerp(video, audio, share), back.audio)
        )
        return clean, mixed, separated

    def distances(self, clips: Sequence[Clip]) -> list[Distances]:
        """Of every clip."""
        found = []
        shares, noises = self.draws(len(clips))
        for row, clip in enumerate(clips):
            batch = collate([clip]).to(self.device)
            clean, mixed, separated = self.decibels(batch, shares[row : row + 1], noises[row : row + 1])
            found.append(Distances.of(clean[0], mixed[0], separated[0], shares[row, :, 0]))
        return found

    def sheet(self, clip: Clip, row: int, count: int) -> Sheet:
        """Six strips, and the sound as it is, as its mel picture keeps it, mixed, and given back; draw `row` of `count`."""
        shares, noises = self.draws(count)
        share, noise = shares[row : row + 1], noises[row : row + 1]
        batch = collate([clip]).to(self.device)
        strips = separate(self.network, self.frontend, batch, share, self.mask_ratio, noise)
        mels = [each[0] for each in self.decibels(batch, share, noise)]
        distance = Distances.of(mels[0], mels[1], mels[2], share[0, :, 0])
        words = (
            f"The mix is {distance.mixed:.1f} dB from the clean mel picture on average, what comes back {distance.separated:.1f} dB; where the mix shows the "
            f"picture instead of the sound, {distance.mixed_covered:.1f} and {distance.separated_covered:.1f} dB."
        )
        heard = [each.cpu().numpy() for each in mels]
        rate = self.card.clip.sample_rate_hz
        names = ("as its mel picture keeps it", "the mix, taken for a mel picture", "given back")
        sounds = [Listen("the sound itself, at the frames' instants", wav(_as_windows(clip), rate))]
        sounds += [
            Listen(name, wav(_played(decibels, self.card.clip), rate))
            for name, decibels in zip(names, heard, strict=True)
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
