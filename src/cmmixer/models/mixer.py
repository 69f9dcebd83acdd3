"""The cross-modal mixer (arXiv 2308.13820): blends a frame with the mel spectrogram of its audio.

    mixed = (1 - mixing_mask) * video + mixing_mask * audio

The mode says what one draw covers: `pixel` one pixel, `patch` one patch of the encoder's grid, `image` one frame, `video`
one clip. Modes `pixel` and `patch` flip a coin for each cell. Modes `image` and `video` draw the base modality with a fair
coin and bring the other one in, by cutmix (arXiv 1905.04899) as a rectangle of area 1 - lambda, or by mixup
(arXiv 1710.09412) with the constant weight 1 - lambda; lambda ~ Beta(alpha, alpha).

Drawing is separate from applying. A draw covers the clips of all processes, and each process applies its own rows of it.

Letters: B clips, T frames, C channels, H x W pixels, D draws per clip (T in mode image, 1 in mode video), p patch side,
R x K cells of a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor

from cmmixer.config.training import MixerSettings
from cmmixer.errors import SettingsError


class Mixed(NamedTuple):
    """The result of `mix`.

    Attributes:
        mixed: [B, T, C, H, W], the mixed images.
        mixing_mask: [B, T, 1, H, W] float32 in [0, 1], the share of the audio in each pixel.
    """

    mixed: Tensor
    mixing_mask: Tensor


def mix(
    video: Tensor,
    audio: Tensor,
    mode: str = "image",
    *,
    generator: Generator,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    cutmix_minmax: tuple[float, float] | None = None,
    mixup_prob: float = 1.0,
    mixup_switch_prob: float = 0.5,
    mix_rate: float = 0.5,
    patch: int = 16,
) -> Mixed:
    """Mixes the frames of clips with the mel spectrograms of their audio.

    Args:
        video, audio: [B, T, C, H, W], floating point, of the same shape, dtype and device.
        mode: what one draw covers: pixel, patch, image or video.
        generator: the only source of randomness. It may live on another device than the inputs.
        mixup_alpha, cutmix_alpha, cutmix_minmax, mixup_prob, mixup_switch_prob, mix_rate: see
            `cmmixer.config.MixerSettings`.
        patch: side of a patch in pixels, for mode patch.

    Raises:
        SettingsError: an unknown mode or a setting out of range.
        ValueError: the inputs differ in shape or dtype, or are not floating point [B, T, C, H, W].
    """
    settings = MixerSettings(
        mixup_mode=mode,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        cutmix_minmax=cutmix_minmax,
        mixup_prob=mixup_prob,
        mixup_switch_prob=mixup_switch_prob,
        mix_rate=mix_rate,
    )
    if video.shape != audio.shape or video.dtype != audio.dtype:
        raise ValueError(
            f"mix: video is {video.dtype} {tuple(video.shape)}, audio is {audio.dtype} {tuple(audio.shape)}; "
            "expected the same shape and dtype"
        )
    if video.ndim != 5 or not video.is_floating_point():
        raise ValueError(f"mix: got {video.dtype} {tuple(video.shape)}, expected floating point [B, T, C, H, W]")
    batch, frames, _, height, width = video.shape
    mixing_mask = draw_mixing_mask(
        settings,
        batch=batch,
        frames=frames,
        height=height,
        width=width,
        patch=patch,
        generator=generator,
        device=video.device,
    )
    return Mixed(blend(video, audio, mixing_mask), mixing_mask)


def blend(video: Tensor, audio: Tensor, mixing_mask: Tensor) -> Tensor:
    """The formula of the mixer: (1 - mixing_mask) * video + mixing_mask * audio.

    Where the mask is exactly 0 or 1 the result is exactly the video's or the audio's value.

    Args:
        video, audio: floating point, of the same shape and dtype.
        mixing_mask: in [0, 1], broadcast over `video`; [B, T, 1, H, W] for inputs [B, T, C, H, W].
    """
    return torch.lerp(video, audio, mixing_mask.to(video.dtype))


def draw_mixing_mask(
    settings: MixerSettings,
    *,
    batch: int,
    frames: int,
    height: int,
    width: int,
    patch: int,
    generator: Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws a mixing mask, [B, T, 1, H, W] float32, on `device` or else on the generator's.

    Raises:
        SettingsError: as `draw`.
    """
    drawn = draw(settings, batch=batch, frames=frames, height=height, width=width, patch=patch, generator=generator)
    return drawn.to(generator.device if device is None else device).mixing_mask()


def draw(
    settings: MixerSettings, *, batch: int, frames: int, height: int, width: int, patch: int, generator: Generator
) -> CellDraw | RegionDraw:
    """Draws how `batch` clips will be mixed, on the generator's device.

    Args:
        settings: mode and distributions.
        batch, frames, height, width: B, T, H, W of the frames.
        patch: side of a patch of the encoder's grid; used in mode patch only.
        generator: the only source of randomness.

    Raises:
        SettingsError: mode patch, and the frames are not a whole number of patches.
    """
    if settings.mixup_mode in ("image", "video"):
        return _draw_regions(settings, batch, frames, height, width, generator)
    cell = patch if settings.mixup_mode == "patch" else 1
    return _draw_cells(settings, batch, frames, height, width, cell, generator)


class _Draw:
    """Base of both kinds of draw: slicing, moving to a device, and the mixing mask."""

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        tensors = {name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **tensors)  # type: ignore[type-var]

    def rows(self, rows: slice) -> Self:
        """Returns the draw of some of the clips."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Self:
        """Returns the draw on another device. In modes image and video this copies a few numbers per frame, not masks."""
        return self._map(lambda tensor: tensor.to(device))

    def mixing_mask(self) -> Tensor:
        """Returns the share of the audio in each pixel, [B, T, 1, H, W] float32."""
        raise NotImplementedError


@dataclass(frozen=True)
class CellDraw(_Draw):
    """A draw of mode pixel (cell = 1) or patch: each cell comes from one modality, by its own coin.

    Attributes:
        mixed_B: bool; False leaves the clip unmixed.
        audio_base_B: bool; an unmixed clip is all audio, or else all video.
        audio_cells_BTRK: bool; the cells taken from the audio.
        cell: side of a cell in pixels.
    """

    mixed_B: Tensor
    audio_base_B: Tensor
    audio_cells_BTRK: Tensor
    cell: int

    def mixing_mask(self) -> Tensor:
        chosen_BTRK = torch.where(_as5d(self.mixed_B)[..., 0], self.audio_cells_BTRK, _as5d(self.audio_base_B)[..., 0])
        mask_BTRK = chosen_BTRK.to(torch.float32)
        if self.cell > 1:
            mask_BTRK = mask_BTRK.repeat_interleave(self.cell, dim=-2).repeat_interleave(self.cell, dim=-1)
        return mask_BTRK.unsqueeze(2)


@dataclass(frozen=True)
class RegionDraw(_Draw):
    """A draw of mode image (D = T) or video (D = 1): a base modality, and a rectangle or a constant weight of the other.

    Attributes:
        mixed_B: bool; False leaves the clip unmixed.
        audio_base_BD: bool; the audio is the base and the video is brought in. An unmixed clip is all of its first base.
        cutmix_BD: bool; cutmix with a rectangle, or else mixup with a constant weight.
        lambda_BD: float64, the share of the base in the frame; for cutmix that of the rectangle after clipping.
        top_BD, bottom_BD, left_BD, right_BD: int64, the rectangle in pixels, half open.
        frames, height, width: T, H, W of the mixing mask.
    """

    mixed_B: Tensor
    audio_base_BD: Tensor
    cutmix_BD: Tensor
    lambda_BD: Tensor
    top_BD: Tensor
    bottom_BD: Tensor
    left_BD: Tensor
    right_BD: Tensor
    frames: int
    height: int
    width: int

    def mixing_mask(self) -> Tensor:
        row_H1 = torch.arange(self.height, device=self.top_BD.device).unsqueeze(1)
        col_W = torch.arange(self.width, device=self.top_BD.device)
        inside_rows = (row_H1 >= _as5d(self.top_BD)) & (row_H1 < _as5d(self.bottom_BD))
        inside_cols = (col_W >= _as5d(self.left_BD)) & (col_W < _as5d(self.right_BD))
        constant = _as5d(1.0 - self.lambda_BD).to(torch.float32)
        other = torch.where(_as5d(self.cutmix_BD), (inside_rows & inside_cols).to(torch.float32), constant)
        # An unmixed clip is one modality from its first frame to its last.
        mixed, clip_base = _as5d(self.mixed_B), _as5d(self.audio_base_BD[:, :1])
        audio_base = torch.where(mixed, _as5d(self.audio_base_BD), clip_base)
        other = torch.where(mixed, other, 0.0)
        mixing_mask = torch.where(audio_base, 1.0 - other, other)
        return mixing_mask.expand(-1, self.frames, -1, -1, -1)


def _as5d(values: Tensor) -> Tensor:
    """[B] or [B, D] -> [B, D or 1, 1, 1, 1], to broadcast over [B, T, 1, H, W]."""
    return values.reshape(values.shape[0], -1, 1, 1, 1)


def _draw_cells(
    settings: MixerSettings, batch: int, frames: int, height: int, width: int, cell: int, generator: Generator
) -> CellDraw:
    if height % cell or width % cell:
        raise SettingsError(f"mode 'patch': {height} x {width} pixels are not a whole number of patches of side {cell}")
    mixed_B = _coin(settings.mixup_prob, (batch,), generator)
    audio_base_B = _coin(0.5, (batch,), generator)
    cells = _coin(settings.mix_rate, (batch, frames, height // cell, width // cell), generator)
    return CellDraw(mixed_B, audio_base_B, cells, cell)


def _draw_regions(
    settings: MixerSettings, batch: int, frames: int, height: int, width: int, generator: Generator
) -> RegionDraw:
    shape = (batch, frames if settings.mixup_mode == "image" else 1)
    mixed_B = _coin(settings.mixup_prob, (batch,), generator)
    audio_base_BD = _coin(0.5, shape, generator)
    switch = settings.mixup_switch_prob if settings.uses_mixup else 1.0
    cutmix_BD = _coin(switch if settings.uses_cutmix else 0.0, shape, generator)
    lambda_BD = torch.ones(shape, dtype=torch.float64, device=generator.device)
    if settings.uses_mixup:
        lambda_BD = beta_symmetric(settings.mixup_alpha, shape, generator)
    top = bottom = left = right = torch.zeros(shape, dtype=torch.int64, device=generator.device)
    if settings.cutmix_minmax is not None:
        top, bottom = _inner_spans(height, *settings.cutmix_minmax, shape, generator)
        left, right = _inner_spans(width, *settings.cutmix_minmax, shape, generator)
    elif settings.uses_cutmix:
        side = (1.0 - beta_symmetric(settings.cutmix_alpha, shape, generator)).sqrt()
        top, bottom = _clipped_spans(height, (side * height).round().long(), generator)
        left, right = _clipped_spans(width, (side * width).round().long(), generator)
    true_lambda = 1.0 - ((bottom - top) * (right - left)).double() / (height * width)
    lambda_BD = torch.where(cutmix_BD, true_lambda, lambda_BD)
    return RegionDraw(mixed_B, audio_base_BD, cutmix_BD, lambda_BD, top, bottom, left, right, frames, height, width)


def beta_symmetric(alpha: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), exactly for every alpha > 0; float64, on the generator's device.

    X / (X + Y) with X, Y ~ Gamma(alpha), computed as a sigmoid of log X - log Y. Gamma(alpha) = Gamma(alpha + 1) *
    U^(1 / alpha) keeps the logarithms finite where a small alpha would make both underflow (Devroye 1986, IX.3.5).
    """
    device = generator.device
    shapes = torch.full((2, *shape), alpha + 1.0, dtype=torch.float64, device=device)
    log_gamma = torch._standard_gamma(shapes, generator=generator).log()
    # 1 - u lies in (0, 1], so its logarithm is finite.
    log_uniform = torch.log1p(-_uniform((2, *shape), generator))
    log_x, log_y = log_gamma + log_uniform / alpha
    return torch.sigmoid(log_x - log_y)


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform in [0, 1), float64: in float32, floor(u * n) can come out as n."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)


def _coin(probability: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def _clipped_spans(length: int, extent_BD: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draws spans of the given extents around centres anywhere in [0, length), and clips them to it."""
    centre = torch.floor(_uniform(tuple(extent_BD.shape), generator) * length).long()
    start = centre - extent_BD // 2
    return start.clamp(min=0), (start + extent_BD).clamp(max=length)


def _inner_spans(
    length: int, low: float, high: float, shape: tuple[int, ...], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draws spans that lie wholly inside [0, length), with extents from `low * length` to `high * length`."""
    shortest, longest = round(low * length), round(high * length)
    extent = shortest + torch.floor(_uniform(shape, generator) * (longest - shortest + 1)).long()
    start = torch.floor(_uniform(shape, generator) * (length - extent + 1)).long()
    return start, start + extent
