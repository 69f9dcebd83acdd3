"""Augmentations, separate for each modality: frames are cropped, flipped, recoloured and erased; audio is shifted, amplified
and masked.

Drawing is separate from applying. `draw` takes an explicit CPU generator and draws for the whole global batch, so that a run
on two processes of 8 sees what one process of 16 sees. `.rows(...)` takes a process's part of the draws, and `apply` runs on
the device. All frames of a clip share one draw. Positions and sizes are drawn as fractions of the frame, so they fit any
size.

Letters: B clips, T frames, C = 3 colour channels, H x W pixels, N samples of an audio window, K RandAugment operations,
M frames of the clips that drew one operation.

Sources: RandAugment, arXiv 1909.13719; random erasing, arXiv 1708.04896; frequency and time masks: SpecAugment,
arXiv 1904.08779.
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

# RandAugment's operations, for a strength s in [-1, 1]; |s| = 1 is the paper's magnitude 10.
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

# Logarithms of the largest aspect ratio of a crop and of an erased box, relative to the frame's.
CROP_LOG_ASPECT = math.log(4 / 3)
ERASE_LOG_ASPECT = math.log(10 / 3)
# Fractions of the frame that an erased box covers.
ERASE_AREA = (0.02, 1 / 3)

# Magnitude of the lowest int16 sample.
FULL_SCALE = 32768.0


@dataclass(frozen=True)
class Draw:
    """Base class of draws: tensors on the CPU whose first dimension is B."""

    def rows(self, rows: slice) -> Self:
        """Returns the draws of some of the clips."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


@dataclass(frozen=True)
class FrameDraw(Draw):
    """Augmentation of each clip's frames. Boxes are (top, left, height, width), as fractions of the frame.

    Attributes:
        crop_B4: the box that is kept; (0, 0, 1, 1) is the whole frame.
        flip_B: whether the clip is mirrored left to right.
        operations_BK: indices of RandAugment operations.
        strengths_BK: in [-1, 1]; the sign is the direction of operations that have two.
        erase_B4: the box that is erased; none where height and width are 0.
        erase_colour_B3: its new colour, in [0, 1].
    """

    crop_B4: Tensor
    flip_B: Tensor
    operations_BK: Tensor
    strengths_BK: Tensor
    erase_B4: Tensor
    erase_colour_B3: Tensor


@dataclass(frozen=True)
class AudioDraw(Draw):
    """Augmentation of each clip's audio.

    Attributes:
        shift_samples_B: int64; positive values delay the audio.
        gain_B: factor of the amplitude.
        rows_B2: masked mel bands (start, length), as fractions of the height.
        columns_B2: masked time columns (start, length), as fractions of the width.
    """

    shift_samples_B: Tensor
    gain_B: Tensor
    rows_B2: Tensor
    columns_B2: Tensor


class FrameAugment:
    """Random resized crop, flip, RandAugment and erasing; each is exactly the identity when it is switched off."""

    def __init__(self, settings: AugmentSettings) -> None:
        self.settings = settings

    def draw(self, batch: int, generator: Generator) -> FrameDraw:
        """Draws for `batch` clips from a CPU generator; the number of draws does not depend on strengths."""
        crop_B5 = torch.rand(batch, 5, generator=generator)
        ops_BK2 = torch.rand(batch, self.settings.randaugment_ops, 2, generator=generator)
        erase_B8 = torch.rand(batch, 8, generator=generator)
        is_erased_B1 = (erase_B8[:, 4:5] < self.settings.erase_prob).float()
        return FrameDraw(
            crop_B4=self._crop(crop_B5),
            flip_B=crop_B5[:, 4] < self.settings.flip_prob,
            operations_BK=(ops_BK2[..., 0] * len(OPERATIONS)).long().clamp(max=len(OPERATIONS) - 1),
            strengths_BK=torch.where(ops_BK2[..., 1] < 0.5, -1.0, 1.0) * self.settings.randaugment_magnitude / 10,
            erase_B4=_box(erase_B8, ERASE_AREA[0], ERASE_AREA[1], ERASE_LOG_ASPECT) * is_erased_B1,
            erase_colour_B3=erase_B8[:, 5:],
        )

    def apply(self, video_BTCHW: Tensor, draw: FrameDraw) -> Tensor:
        """Returns the augmented frames.

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


class AudioAugment:
    """Time shift and gain of the audio windows, masks on the mel spectrograms.

    Args:
        settings: strengths.
        clip: geometry of the clips; gives the sample rate.
    """

    def __init__(self, settings: AugmentSettings, clip: ClipSettings) -> None:
        self.settings = settings
        self.max_shift_samples = round(settings.shift_seconds * clip.sample_rate_hz)

    def draw(self, batch: int, generator: Generator) -> AudioDraw:
        """Draws for `batch` clips from a CPU generator; the number of draws does not depend on strengths."""
        uniform_B6 = torch.rand(batch, 6, generator=generator)
        signed_B2 = uniform_B6[:, :2] * 2 - 1
        return AudioDraw(
            shift_samples_B=(signed_B2[:, 0] * self.max_shift_samples).round().long(),
            gain_B=10.0 ** (signed_B2[:, 1] * self.settings.gain_db / 20),
            rows_B2=_interval(uniform_B6[:, 2:4], self.settings.freq_mask),
            columns_B2=_interval(uniform_B6[:, 4:6], self.settings.time_mask),
        )

    def apply_waveform(self, audio_BTN: Tensor, draw: AudioDraw) -> Tensor:
        """Returns the shifted and amplified audio windows; what is shifted in from outside is silence.

        Args:
            audio_BTN: int16 samples, or floats with full scale 1.
            draw: B draws.

        Returns:
            Floats clipped to the range of int16 at full scale 1; the input itself if both are switched off.
        """
        if self.max_shift_samples == 0 and self.settings.gain_db == 0.0:
            return audio_BTN
        floats_BTN = audio_BTN if audio_BTN.is_floating_point() else audio_BTN.float() / FULL_SCALE
        if self.max_shift_samples > 0:
            floats_BTN = shift_audio(floats_BTN, draw.shift_samples_B)
        amplified_BTN = floats_BTN * _on(floats_BTN, draw.gain_B)[:, None, None]
        return amplified_BTN.clamp(-1.0, 1.0 - 1.0 / FULL_SCALE)

    def apply_mel(self, mel_BT1HW: Tensor, draw: AudioDraw) -> Tensor:
        """Returns mel spectrograms in decibels with a band of rows and an interval of columns set to the spectrogram's mean."""
        if self.settings.freq_mask == 0.0 and self.settings.time_mask == 0.0:
            return mel_BT1HW
        rows_BH = _inside(mel_BT1HW.shape[-2], _on(mel_BT1HW, draw.rows_B2))
        columns_BW = _inside(mel_BT1HW.shape[-1], _on(mel_BT1HW, draw.columns_B2))
        masked_BHW = rows_BH[:, :, None] | columns_BW[:, None, :]
        mean_BT111 = mel_BT1HW.mean(dim=(-3, -2, -1), keepdim=True)
        return torch.where(masked_BHW[:, None, None], mean_BT111, mel_BT1HW)


def crop_and_resize(video_BTCHW: Tensor, box_B4: Tensor) -> Tensor:
    """Crops all frames of each clip to a box and resizes it to the full size, bilinearly.

    Args:
        video_BTCHW: frames.
        box_B4: (top, left, height, width), as fractions of the frame.
    """
    batch, frames, channels, height, width = video_BTCHW.shape
    top, left, tall, wide = _on(video_BTCHW, box_B4).to(video_BTCHW.dtype).unbind(1)
    zero = torch.zeros_like(top)
    # `affine_grid` counts from -1 to 1 between the outer edges: the box's centre and half extent.
    across = torch.stack([wide, zero, 2 * left + wide - 1], dim=1)
    down = torch.stack([zero, tall, 2 * top + tall - 1], dim=1)
    grid_BHW2 = functional.affine_grid(
        torch.stack([across, down], dim=1), [batch, 1, height, width], align_corners=False
    )
    # Frames are folded into the channels, so a clip's frames share one grid.
    folded = video_BTCHW.flatten(1, 2)
    cropped = functional.grid_sample(folded, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.reshape(batch, frames, channels, height, width)


def erase(video_BTCHW: Tensor, box_B4: Tensor, colour_B3: Tensor) -> Tensor:
    """Fills a box in all frames of each clip; a pixel belongs to the box if its centre does."""
    box_B4 = _on(video_BTCHW, box_B4)
    rows_BH = _inside(video_BTCHW.shape[-2], box_B4[:, [0, 2]])
    columns_BW = _inside(video_BTCHW.shape[-1], box_B4[:, [1, 3]])
    erased_BHW = rows_BH[:, :, None] & columns_BW[:, None, :]
    colour = _on(video_BTCHW, colour_B3).to(video_BTCHW.dtype)[:, None, :, None, None]
    return torch.where(erased_BHW[:, None, None], colour, video_BTCHW)


def shift_audio(audio_BTN: Tensor, shift_samples_B: Tensor) -> Tensor:
    """Shifts each clip's windows by a number of samples; what moves in from outside is silence."""
    samples = audio_BTN.shape[-1]
    source_BN = torch.arange(samples, device=audio_BTN.device) - _on(audio_BTN, shift_samples_B)[:, None]
    known_BN = (source_BN >= 0) & (source_BN < samples)
    index_BTN = source_BN.clamp(0, samples - 1)[:, None].expand_as(audio_BTN)
    return audio_BTN.gather(-1, index_BTN) * known_BN[:, None]


def randaugment(video_BTCHW: Tensor, operations_BK: Tensor, strengths_BK: Tensor) -> Tensor:
    """Applies the operations that each clip drew, one after the other; clips with the same operation are processed together.

    Args:
        video_BTCHW: float frames in [0, 1].
        operations_BK: indices into `OPERATIONS`, on the CPU.
        strengths_BK: in [-1, 1], on the CPU.

    Returns:
        Frames of the same shape, in [0, 1].
    """
    frames = video_BTCHW.shape[1]
    for operations_B, strengths_B in zip(operations_BK.unbind(1), strengths_BK.unbind(1), strict=True):
        result = video_BTCHW.clone()
        for number in sorted(set(operations_B.tolist())):
            rows = (operations_B == number).nonzero().squeeze(1)
            strength_M = strengths_B[rows].to(video_BTCHW).repeat_interleave(frames)
            rows = rows.to(video_BTCHW.device)
            frames_MCHW = video_BTCHW[rows].flatten(0, 1)
            changed = operation(OPERATIONS[number], frames_MCHW, strength_M)
            result[rows] = changed.clamp(0.0, 1.0).reshape(len(rows), frames, *changed.shape[1:])
        video_BTCHW = result
    return video_BTCHW


def operation(name: str, frames_MCHW: Tensor, strength_M: Tensor) -> Tensor:
    """Applies one operation to M frames, each with its own strength."""
    # Imported here because kornia takes seconds to import, and most runs use no operation.
    from kornia import enhance
    from kornia.geometry.transform import affine

    factor_M = 1.0 + 0.9 * strength_M
    colour: dict[str, Callable[[], Tensor]] = {
        "brightness": lambda: enhance.adjust_brightness_accumulative(frames_MCHW, factor_M),
        "contrast": lambda: enhance.adjust_contrast_with_mean_subtraction(frames_MCHW, factor_M),
        "saturation": lambda: enhance.adjust_saturation(frames_MCHW, factor_M),
        "hue": lambda: enhance.adjust_hue(frames_MCHW, 0.3 * math.pi * strength_M),
        "sharpness": lambda: enhance.sharpness(frames_MCHW, factor_M),
        "posterize": lambda: enhance.posterize(frames_MCHW, (8 - 4 * strength_M.abs()).round().int()),
        "solarize": lambda: enhance.solarize(frames_MCHW, 1.0 - strength_M.abs()),
        "equalize": lambda: enhance.equalize(frames_MCHW),
    }
    if name in colour:
        return colour[name]()
    matrix_M23 = affine_matrix(name, strength_M, *frames_MCHW.shape[-2:])
    transformed: Tensor = affine(frames_MCHW, matrix_M23, padding_mode="border", align_corners=True)
    return transformed


def affine_matrix(name: str, strength_M: Tensor, height: int, width: int) -> Tensor:
    """Returns the matrices [M, 2, 3] that map a pixel (x, y) to its new position; they rotate and shear about the centre."""
    one, zero = torch.ones_like(strength_M), torch.zeros_like(strength_M)
    angle, shear, offset = strength_M * math.radians(30), 0.3 * strength_M, 0.45 * strength_M
    linear = {
        "rotate": (angle.cos(), -angle.sin(), angle.sin(), angle.cos()),
        "shear_x": (one, shear, zero, one),
        "shear_y": (one, zero, shear, one),
    }
    a, b, c, d = linear.get(name, (one, zero, zero, one))
    x, y = (width - 1) / 2, (height - 1) / 2
    right = x - a * x - b * y + (offset * width if name == "translate_x" else 0.0)
    down = y - c * x - d * y + (offset * height if name == "translate_y" else 0.0)
    return torch.stack([torch.stack([a, b, right], dim=1), torch.stack([c, d, down], dim=1)], dim=1)


def _box(uniform: Tensor, min_area: float, max_area: float, log_aspect: float) -> Tensor:
    """Returns boxes inside the frame from columns 0-3 of uniform draws: area, aspect ratio, top, left.

    Where a box of the drawn area would not fit, the range of the aspect ratio is narrowed, so the area is always the one drawn.
    """
    area = min_area + (max_area - min_area) * uniform[:, 0]
    aspect = torch.exp((2 * uniform[:, 1] - 1) * (-area.log()).clamp(max=log_aspect))
    height, width = (area / aspect).sqrt().clamp(max=1.0), (area * aspect).sqrt().clamp(max=1.0)
    return torch.stack([uniform[:, 2] * (1 - height), uniform[:, 3] * (1 - width), height, width], dim=1)


def _interval(uniform_B2: Tensor, max_length: float) -> Tensor:
    """Returns (start, length) of intervals inside [0, 1], at most `max_length` long."""
    length = uniform_B2[:, 0] * max_length
    return torch.stack([uniform_B2[:, 1] * (1 - length), length], dim=1)


def _inside(size: int, interval_B2: Tensor) -> Tensor:
    """Returns which of `size` cells have their centre in [start, start + length); bool [B, size]."""
    centres = (torch.arange(size, device=interval_B2.device) + 0.5) / size
    start, length = interval_B2[:, :1], interval_B2[:, 1:]
    return (centres >= start) & (centres < start + length)


def _on(like: Tensor, values: Tensor) -> Tensor:
    """Moves draws, which are made on the CPU, to the device of the data."""
    return values.to(like.device, non_blocking=True)
