"""Augmentations, each modality its own: pictures are cropped, flipped, coloured and erased; sounds shifted, amplified, masked.

Drawing is apart from applying. `draw` takes an explicit CPU generator and draws for the whole global batch, so that a run
on two processes of 8 sees what one process of 16 sees; `.rows(...)` takes a process's part; `apply` runs on the device.
All frames of a clip share one draw. Places and sizes are drawn as parts of the picture, so they fit any size.

Letters: B clips, T frames, C = 3 colours, H x W pixels, N samples of a sound window, K RandAugment operations.

Sources: RandAugment, arXiv 1909.13719; random erasing, arXiv 1708.04896; frequency and time masks: SpecAugment,
arXiv 1904.08779.

RandAugment (arXiv 1909.13719) on clips: K operations out of a list, one after the other, the same for all frames.

Strength s in [-1, 1]; |s| = 1 is the paper's magnitude 10. kornia does the arithmetic; clips that drew the same operation
are done together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cmmixer.config.clip import ClipSettings
from cmmixer.config.training import AugmentSettings

OPERATIONS = (
    "brightness",  # x (1 + 0.9 s)
    "contrast",  # away from or towards the mean grey, x (1 + 0.9 s)
    "saturation",  # x (1 + 0.9 s)
    "hue",  # turned by 0.3 pi s
    "sharpness",  # 1 + 0.9 s; below 1 is blur
    "posterize",  # keeps 8 - 4 |s| bits
    "solarize",  # inverts what is brighter than 1 - |s|
    "equalize",  # the strength plays no part
    "rotate",  # by 30 s degrees
    "shear_x",  # by 0.3 s
    "shear_y",
    "translate_x",  # by 0.45 s of the width
    "translate_y",
)


def randaugment(video_BTCHW: Tensor, operations_BK: Tensor, strengths_BK: Tensor) -> Tensor:
    """Applies each clip's operations in turn.

    Args:
        video_BTCHW: float pictures in [0, 1].
        operations_BK: numbers into `OPERATIONS`, on the CPU.
        strengths_BK: in [-1, 1], on the CPU.

    Returns:
        Pictures of the same shape, in [0, 1].
    """
    frames = video_BTCHW.shape[1]
    for operations_B, strengths_B in zip(operations_BK.unbind(1), strengths_BK.unbind(1), strict=True):
        result = video_BTCHW.clone()
        for number in sorted(set(operations_B.tolist())):
            rows = (operations_B == number).nonzero().squeeze(1)
            strength_M = strengths_B[rows].to(video_BTCHW).repeat_interleave(frames)
            rows = rows.to(video_BTCHW.device)
            pictures_MCHW = video_BTCHW[rows].flatten(0, 1)
            changed = operation(OPERATIONS[number], pictures_MCHW, strength_M)
            result[rows] = changed.clamp(0.0, 1.0).reshape(len(rows), frames, *changed.shape[1:])
        video_BTCHW = result
    return video_BTCHW


def operation(name: str, pictures_MCHW: Tensor, strength_M: Tensor) -> Tensor:
    """One operation on M pictures, each with its own strength."""
    # Imported here: kornia takes seconds to import, and most runs draw no operation.
    from kornia import enhance
    from kornia.geometry.transform import affine

    factor_M = 1.0 + 0.9 * strength_M
    colour: dict[str, Callable[[], Tensor]] = {
        "brightness": lambda: enhance.adjust_brightness_accumulative(pictures_MCHW, factor_M),
        "contrast": lambda: enhance.adjust_contrast_with_mean_subtraction(pictures_MCHW, factor_M),
        "saturation": lambda: enhance.adjust_saturation(pictures_MCHW, factor_M),
        "hue": lambda: enhance.adjust_hue(pictures_MCHW, 0.3 * math.pi * strength_M),
        "sharpness": lambda: enhance.sharpness(pictures_MCHW, factor_M),
        "posterize": lambda: enhance.posterize(pictures_MCHW, (8 - 4 * strength_M.abs()).round().int()),
        "solarize": lambda: enhance.solarize(pictures_MCHW, 1.0 - strength_M.abs()),
        "equalize": lambda: enhance.equalize(pictures_MCHW),
    }
    if name in colour:
        return colour[name]()
    matrix_M23 = movement(name, strength_M, *pictures_MCHW.shape[-2:])
    moved: Tensor = affine(pictures_MCHW, matrix_M23, padding_mode="border", align_corners=True)
    return moved


def movement(name: str, strength_M: Tensor, height: int, width: int) -> Tensor:
    """Where a pixel (x, y) of the picture moves to: matrices [M, 2, 3] that turn and shear about the middle."""
    one, zero = torch.ones_like(strength_M), torch.zeros_like(strength_M)
    angle, shear, part = strength_M * math.radians(30), 0.3 * strength_M, 0.45 * strength_M
    turned = {
        "rotate": (angle.cos(), -angle.sin(), angle.sin(), angle.cos()),
        "shear_x": (one, shear, zero, one),
        "shear_y": (one, zero, shear, one),
    }
    a, b, c, d = turned.get(name, (one, zero, zero, one))
    x, y = (width - 1) / 2, (height - 1) / 2
    right = x - a * x - b * y + (part * width if name == "translate_x" else 0.0)
    down = y - c * x - d * y + (part * height if name == "translate_y" else 0.0)
    return torch.stack([torch.stack([a, b, right], dim=1), torch.stack([c, d, down], dim=1)], dim=1)


# Crops are at most this much wider or higher than the picture itself, by log; erased rectangles likewise.
CROP_LOG_ASPECT = math.log(4 / 3)

ERASE_LOG_ASPECT = math.log(10 / 3)

ERASE_AREA = (0.02, 1 / 3)

FULL_SCALE = 32768.0


@dataclass(frozen=True)
class Draw:
    """Base of draws: tensors on the CPU, first dimension B."""

    def rows(self, rows: slice) -> Self:
        """The draws of some of the clips."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


@dataclass(frozen=True)
class PictureDraw(Draw):
    """What happens to the pictures of each clip. Boxes are (top, left, height, width), parts of the picture.

    Attributes:
        crop_B4: what is seen; (0, 0, 1, 1) is the whole picture.
        flip_B: mirrored left to right.
        operations_BK: numbers of RandAugment operations.
        strengths_BK: in [-1, 1]; the sign is the direction of operations that have two.
        erase_B4: what is erased; height and width 0: nothing.
        erase_colour_B3: with what, in [0, 1].
    """

    crop_B4: Tensor
    flip_B: Tensor
    operations_BK: Tensor
    strengths_BK: Tensor
    erase_B4: Tensor
    erase_colour_B3: Tensor


@dataclass(frozen=True)
class SoundDraw(Draw):
    """What happens to the sound of each clip.

    Attributes:
        shift_samples_B: int64; positive: the sound comes later.
        gain_B: factor.
        rows_B2: masked mel rows (start, length), parts of the height.
        columns_B2: masked mel columns (start, length), parts of the width.
    """

    shift_samples_B: Tensor
    gain_B: Tensor
    rows_B2: Tensor
    columns_B2: Tensor


class PictureAugment:
    """Random resized crop, flip, RandAugment and erasing; each is exactly the identity where it is switched off."""

    def __init__(self, settings: AugmentSettings, clip: ClipSettings | None = None) -> None:
        self.settings = settings

    def draw(self, batch: int, generator: Generator) -> PictureDraw:
        """Draws for `batch` clips from a CPU generator; how much is taken from it does not depend on strengths."""
        crop_B5 = torch.rand(batch, 5, generator=generator)
        ops_BK2 = torch.rand(batch, self.settings.randaugment_ops, 2, generator=generator)
        erase_B8 = torch.rand(batch, 8, generator=generator)
        erased_B1 = (erase_B8[:, 4:5] < self.settings.erase_prob).float()
        return PictureDraw(
            crop_B4=self._crop(crop_B5),
            flip_B=crop_B5[:, 4] < self.settings.flip_prob,
            operations_BK=(ops_BK2[..., 0] * len(OPERATIONS)).long().clamp(max=len(OPERATIONS) - 1),
            strengths_BK=torch.where(ops_BK2[..., 1] < 0.5, -1.0, 1.0) * self.settings.randaugment_magnitude / 10,
            erase_B4=_box(erase_B8, ERASE_AREA[0], ERASE_AREA[1], ERASE_LOG_ASPECT) * erased_B1,
            erase_colour_B3=erase_B8[:, 5:],
        )

    def apply(self, video_BTCHW: Tensor, draw: PictureDraw) -> Tensor:
        """The augmented pictures.

        Args:
            video_BTCHW: float, in [0, 1].
            draw: B draws.

        Returns:
            The same shape, in [0, 1].
        """
        if self.settings.crop_scale_min < 1.0:
            video_BTCHW = crop_and_resize(video_BTCHW, draw.crop_B4)
        if self.settings.flip_prob > 0.0:
            flip = _on(video_BTCHW, draw.flip_B)[:, None, None, None, None]
            video_BTCHW = torch.where(flip, video_BTCHW.flip(-1), video_BTCHW)
        if self.settings.randaugment_ops > 0:
            video_BTCHW = randaugment(video_BTCHW, draw.operations_BK, draw.strengths_BK)
        if self.settings.erase_prob > 0.0:
            video_BTCHW = erase(video_BTCHW, draw.erase_B4, draw.erase_colour_B3)
        return video_BTCHW

    def _crop(self, uniform_B5: Tensor) -> Tensor:
        return _box(uniform_B5, self.settings.crop_scale_min, 1.0, CROP_LOG_ASPECT)


class SoundAugment:
    """Time shift and gain of the sound windows, masks on the mel pictures.

    Args:
        settings: strengths.
        clip: geometry; says how many samples a second has.
    """

    def __init__(self, settings: AugmentSettings, clip: ClipSettings) -> None:
        self.settings = settings
        self.most_shift_samples = round(settings.shift_seconds * clip.sample_rate_hz)

    def draw(self, batch: int, generator: Generator) -> SoundDraw:
        """Draws for `batch` clips from a CPU generator; how much is taken from it does not depend on strengths."""
        uniform_B6 = torch.rand(batch, 6, generator=generator)
        both_ways_B2 = uniform_B6[:, :2] * 2 - 1
        return SoundDraw(
            shift_samples_B=(both_ways_B2[:, 0] * self.most_shift_samples).round().long(),
            gain_B=10.0 ** (both_ways_B2[:, 1] * self.settings.gain_db / 20),
            rows_B2=_stretch(uniform_B6[:, 2:4], self.settings.freq_mask),
            columns_B2=_stretch(uniform_B6[:, 4:6], self.settings.time_mask),
        )

    def apply_waveform(self, audio_BTN: Tensor, draw: SoundDraw) -> Tensor:
        """The shifted and amplified sound windows; where nothing is known after a shift there is silence.

        Args:
            audio_BTN: int16 samples, or floats with full scale 1.
            draw: B draws.

        Returns:
            Floats clipped to the range of int16 at full scale 1; the input itself where both are switched off.
        """
        if self.most_shift_samples == 0 and self.settings.gain_db == 0.0:
            return audio_BTN
        floats_BTN = audio_BTN if audio_BTN.is_floating_point() else audio_BTN.float() / FULL_SCALE
        if self.most_shift_samples > 0:
            floats_BTN = shift_sound(floats_BTN, draw.shift_samples_B)
        loud_BTN = floats_BTN * _on(floats_BTN, draw.gain_B)[:, None, None]
        return loud_BTN.clamp(-1.0, 1.0 - 1.0 / FULL_SCALE)

    def apply_mel(self, mel_BT1HW: Tensor, draw: SoundDraw) -> Tensor:
        """Mel pictures in decibels with a band of rows and a stretch of columns set to the picture's mean."""
        if self.settings.freq_mask == 0.0 and self.settings.time_mask == 0.0:
            return mel_BT1HW
        rows_BH = _inside(mel_BT1HW.shape[-2], _on(mel_BT1HW, draw.rows_B2))
        columns_BW = _inside(mel_BT1HW.shape[-1], _on(mel_BT1HW, draw.columns_B2))
        masked_BHW = rows_BH[:, :, None] | columns_BW[:, None, :]
        mean_BT111 = mel_BT1HW.mean(dim=(-3, -2, -1), keepdim=True)
        return torch.where(masked_BHW[:, None, None], mean_BT111, mel_BT1HW)


def crop_and_resize(video_BTCHW: Tensor, box_B4: Tensor) -> Tensor:
    """Cuts a box out of all frames of each clip and stretches it to the full size, bilinearly.

    Args:
        video_BTCHW: pictures.
        box_B4: (top, left, height, width), parts of the picture.
    """
    batch, frames, colours, height, width = video_BTCHW.shape
    top, left, tall, wide = _on(video_BTCHW, box_B4).to(video_BTCHW.dtype).unbind(1)
    zero = torch.zeros_like(top)
    # `affine_grid` counts from -1 to 1 over the outer edges: the box's middle and half extent.
    across = torch.stack([wide, zero, 2 * left + wide - 1], dim=1)
    down = torch.stack([zero, tall, 2 * top + tall - 1], dim=1)
    grid_BHW2 = functional.affine_grid(
        torch.stack([across, down], dim=1), [batch, 1, height, width], align_corners=False
    )
    # Frames are folded into the channels, so a clip's frames share one grid.
    folded = video_BTCHW.flatten(1, 2)
    cut = functional.grid_sample(folded, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.reshape(batch, frames, colours, height, width)


def erase(video_BTCHW: Tensor, box_B4: Tensor, colour_B3: Tensor) -> Tensor:
    """Paints a box of all frames of each clip; a pixel belongs to the box if its centre does."""
    box_B4 = _on(video_BTCHW, box_B4)
    rows_BH = _inside(video_BTCHW.shape[-2], box_B4[:, [0, 2]])
    columns_BW = _inside(video_BTCHW.shape[-1], box_B4[:, [1, 3]])
    painted_BHW = rows_BH[:, :, None] & columns_BW[:, None, :]
    colour = _on(video_BTCHW, colour_B3).to(video_BTCHW.dtype)[:, None, :, None, None]
    return torch.where(painted_BHW[:, None, None], colour, video_BTCHW)


def shift_sound(audio_BTN: Tensor, shift_samples_B: Tensor) -> Tensor:
    """Moves each clip's windows by so many samples; what moves in is silence."""
    samples = audio_BTN.shape[-1]
    source_BN = torch.arange(samples, device=audio_BTN.device) - _on(audio_BTN, shift_samples_B)[:, None]
    known_BN = (source_BN >= 0) & (source_BN < samples)
    index_BTN = source_BN.clamp(0, samples - 1)[:, None].expand_as(audio_BTN)
    return audio_BTN.gather(-1, index_BTN) * known_BN[:, None]


def _box(uniform: Tensor, least_area: float, most_area: float, log_aspect: float) -> Tensor:
    """Boxes inside the picture from columns 0-3 of uniform draws: area, aspect, top, left.

    The aspect's range shrinks where a box of that area would stick out, so the area is always the one drawn.
    """
    area = least_area + (most_area - least_area) * uniform[:, 0]
    aspect = torch.exp((2 * uniform[:, 1] - 1) * (-area.log()).clamp(max=log_aspect))
    height, width = (area / aspect).sqrt().clamp(max=1.0), (area * aspect).sqrt().clamp(max=1.0)
    return torch.stack([uniform[:, 2] * (1 - height), uniform[:, 3] * (1 - width), height, width], dim=1)


def _stretch(uniform_B2: Tensor, longest: float) -> Tensor:
    """(start, length) of stretches of at most `longest`, inside [0, 1]."""
    length = uniform_B2[:, 0] * longest
    return torch.stack([uniform_B2[:, 1] * (1 - length), length], dim=1)


def _inside(size: int, stretch_B2: Tensor) -> Tensor:
    """Which of `size` cells have their centre in [start, start + length); bool [B, size]."""
    centres = (torch.arange(size, device=stretch_B2.device) + 0.5) / size
    start, length = stretch_B2[:, :1], stretch_B2[:, 1:]
    return (centres >= start) & (centres < start + length)


def _on(like: Tensor, values: Tensor) -> Tensor:
    """Draws are made on the CPU; here they follow the data to its device."""
    return values.to(like.device, non_blocking=True)
