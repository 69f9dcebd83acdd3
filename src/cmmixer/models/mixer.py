"""The cross-modal mixer: a frame and the mel picture of its sound become one picture, before any network sees them.

    mixed = (1 - share) * video + share * audio

Letters: B clips, T frames, C channels, H x W pixels, D draws of a clip (T in mode image, 1 in mode video), p patch side,
R x K patches of a frame. `share` [B, T, 1, H, W] says for every pixel how much of it comes from the sound.

What a draw covers: mode `pixel` one pixel, `patch` one patch of the encoder's grid, `image` one frame, `video` one clip.
`pixel` and `patch` toss a coin per cell. `image` and `video` draw a base modality, fairly, and bring the other one in:
cutmix (arXiv 1905.04899) as a rectangle of area 1 - lambda, mixup (arXiv 1710.09412) as a constant part 1 - lambda, with
lambda ~ Beta(alpha, alpha). The mixer itself: arXiv 2308.13820. Drawing is apart from applying, so that a draw for all
processes' clips can be cut into each one's rows.
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
    """What `mix` gives back.

    Attributes:
        mixed: [B, T, C, H, W], the mixed pictures.
        share: [B, T, 1, H, W] float32 in [0, 1], the part of every pixel that comes from the sound.
    """

    mixed: Tensor
    share: Tensor


class _Draw:
    """What both kinds of draw have in common: they can be cut into rows, moved, and turned into a share map."""

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **tensors)  # type: ignore[type-var]

    def rows(self, rows: slice) -> Self:
        """The draw of some of the clips."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Self:
        """The draw on another device; in modes image and video a few numbers per frame travel, not share maps."""
        return self._each(lambda tensor: tensor.to(device))

    def share(self) -> Tensor:
        """[B, T, 1, H, W] float32: the part of every pixel that comes from the sound."""
        raise NotImplementedError


@dataclass(frozen=True)
class CellDraw(_Draw):
    """Modes pixel (cell = 1) and patch: every cell comes from one of the two, by its own coin.

    Attributes:
        mixed_B: bool; the other clips stay unmixed.
        sound_base_B: bool; an unmixed clip is all sound, or else all picture.
        sound_cells_BTRK: bool; the cells taken from the sound.
        cell: side of a cell in pixels.
    """

    mixed_B: Tensor
    sound_base_B: Tensor
    sound_cells_BTRK: Tensor
    cell: int

    def share(self) -> Tensor:
        chosen_BTRK = torch.where(_as5d(self.mixed_B)[..., 0], self.sound_cells_BTRK, _as5d(self.sound_base_B)[..., 0])
        share_BTRK = chosen_BTRK.to(torch.float32)
        if self.cell > 1:
            share_BTRK = share_BTRK.repeat_interleave(self.cell, dim=-2).repeat_interleave(self.cell, dim=-1)
        return share_BTRK.unsqueeze(2)


@dataclass(frozen=True)
class RegionDraw(_Draw):
    """Modes image (D = T) and video (D = 1): a base modality, and a rectangle or a constant part of the other one.

    Attributes:
        mixed_B: bool; the other clips stay unmixed.
        sound_base_BD: bool; the sound is the base, the picture is brought in. An unmixed clip takes its first draw's.
        cutmix_BD: bool; a rectangle is brought in, or else a constant part.
        lambda_BD: float64, the base's part of the frame; for cutmix the true one of the rectangle as clipped.
        top_BD, bottom_BD, left_BD, right_BD: int64, half open, the rectangle in pixels.
        frames, height, width: of the share map.
    """

    mixed_B: Tensor
    sound_base_BD: Tensor
    cutmix_BD: Tensor
    lambda_BD: Tensor
    top_BD: Tensor
    bottom_BD: Tensor
    left_BD: Tensor
    right_BD: Tensor
    frames: int
    height: int
    width: int

    def share(self) -> Tensor:
        row_H1 = torch.arange(self.height, device=self.top_BD.device).unsqueeze(1)
        col_W = torch.arange(self.width, device=self.top_BD.device)
        inside_rows = (row_H1 >= _as5d(self.top_BD)) & (row_H1 < _as5d(self.bottom_BD))
        inside_cols = (col_W >= _as5d(self.left_BD)) & (col_W < _as5d(self.right_BD))
        constant = _as5d(1.0 - self.lambda_BD).to(torch.float32)
        other = torch.where(_as5d(self.cutmix_BD), (inside_rows & inside_cols).to(torch.float32), constant)
        # An unmixed clip is one modality from its first frame to its last.
        mixed, clip_base = _as5d(self.mixed_B), _as5d(self.sound_base_BD[:, :1])
        base_is_sound = torch.where(mixed, _as5d(self.sound_base_BD), clip_base)
        other = torch.where(mixed, other, 0.0)
        share = torch.where(base_is_sound, 1.0 - other, other)
        return share.expand(-1, self.frames, -1, -1, -1)


def _as5d(values: Tensor) -> Tensor:
    """[B] or [B, D] -> [B, D or 1, 1, 1, 1], to broadcast over [B, T, 1, H, W]."""
    return values.reshape(values.shape[0], -1, 1, 1, 1)


def beta_symmetric(alpha: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draws of Beta(alpha, alpha), exact for every alpha > 0; float64, on the generator's device.

    X / (X + Y) with X, Y ~ Gamma(alpha), as a sigmoid of log X - log Y. Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha)
    keeps the logarithm finite where a small alpha would underflow both (Devroye 1986, IX.3.5).
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
    """Spans of the given extents around centres drawn anywhere in [0, length), clipped to it."""
    centre = torch.floor(_uniform(tuple(extent_BD.shape), generator) * length).long()
    start = centre - extent_BD // 2
    return start.clamp(min=0), (start + extent_BD).clamp(max=length)


def _inner_spans(
    length: int, low: float, high: float, shape: tuple[int, ...], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Spans whose extents are drawn from [low, high] parts of `length`, anywhere wholly inside it."""
    least, most = round(low * length), round(high * length)
    extent = least + torch.floor(_uniform(shape, generator) * (most - least + 1)).long()
    start = torch.floor(_uniform(shape, generator) * (length - extent + 1)).long()
    return start, start + extent


def _draw_regions(
    settings: MixerSettings, batch: int, frames: int, height: int, width: int, generator: Generator
) -> RegionDraw:
    shape = (batch, frames if settings.mixup_mode == "image" else 1)
    mixed_B = _coin(settings.mixup_prob, (batch,), generator)
    sound_base_BD = _coin(0.5, shape, generator)
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
    return RegionDraw(mixed_B, sound_base_BD, cutmix_BD, lambda_BD, top, bottom, left, right, frames, height, width)


def _draw_cells(
    settings: MixerSettings, batch: int, frames: int, height: int, width: int, cell: int, generator: Generator
) -> CellDraw:
    if height % cell or width % cell:
        raise SettingsError(f"mode 'patch': {height} x {width} pixels are no whole number of patches of side {cell}")
    mixed_B = _coin(settings.mixup_prob, (batch,), generator)
    sound_base_B = _coin(0.5, (batch,), generator)
    cells = _coin(settings.mix_rate, (batch, frames, height // cell, width // cell), generator)
    return CellDraw(mixed_B, sound_base_B, cells, cell)


def draw(
    settings: MixerSettings, *, batch: int, frames: int, height: int, width: int, patch: int, generator: Generator
) -> CellDraw | RegionDraw:
    """Draws how `batch` clips will be mixed, on the generator's device.

    Args:
        settings: what to draw.
        batch, frames, height, width: B, T, H, W of the pictures.
        patch: side of a patch of the encoder's grid; only mode patch looks at it.
        generator: the only source of chance.

    Raises:
        SettingsError: mode patch, and the pictures are no whole number of patches.
    """
    if settings.mixup_mode in ("image", "video"):
        return _draw_regions(settings, batch, frames, height, width, generator)
    cell = patch if settings.mixup_mode == "patch" else 1
    return _draw_cells(settings, batch, frames, height, width, cell, generator)


def draw_share(
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
    """The share map of a fresh draw, [B, T, 1, H, W] float32, on `device` or else on the generator's.

    Raises:
        SettingsError: as `draw`.
    """
    drawn = draw(settings, batch=batch, frames=frames, height=height, width=width, patch=patch, generator=generator)
    return drawn.to(generator.device if device is None else device).share()


def mix_with(video: Tensor, audio: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * video + share * audio; a share of exactly 0 or 1 gives exactly that source's pixel.

    Args:
        video, audio: [B, T, C, H, W], same floating type.
        share: [B, T, 1, H, W] in [0, 1].
    """
    return torch.lerp(video, audio, share.to(video.dtype))


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
    """Mixes clips' frames with the mel pictures of their sound.

    Args:
        video, audio: [B, T, C, H, W], floating point, same shape, type and device.
        mode: pixel, patch, image or video: what one draw covers.
        generator: the only source of chance; it may live on another device than the pictures.
        mixup_alpha, cutmix_alpha, cutmix_minmax, mixup_prob, mixup_switch_prob, mix_rate: see
            `cmmixer.config.MixerSettings`.
        patch: side of a patch in pixels, for mode patch.

    Raises:
        SettingsError: an unknown mode or an impossible setting.
        ValueError: pictures of unequal or wrong shape or type.
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
            "expected the same shape and type"
        )
    if video.ndim != 5 or not video.is_floating_point():
        raise ValueError(f"mix: got {video.dtype} {tuple(video.shape)}, expected floating point [B, T, C, H, W]")
    batch, frames, _, height, width = video.shape
    share = draw_share(
        settings,
        batch=batch,
        frames=frames,
        height=height,
        width=width,
        patch=patch,
        generator=generator,
        device=video.device,
    )
    return Mixed(mix_with(video, audio, share), share)
