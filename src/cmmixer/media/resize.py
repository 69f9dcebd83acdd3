"""Converts a decoded frame to H x W pixels: rotates it as displayed, makes pixels square, scales the short side, crops."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

# Exact rounding and chroma at full width; the scaler's shortcuts are off by a level or two.
_SCALER = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)

# Scaling the whole frame is cheapest while little of it is cropped away. Beyond this ratio of scaled to output pixels (for
# instance 4096 x 64 stored pixels, or absurd pixel shapes) the frame is cropped first, to bound memory.
_SCALE_FIRST_RATIO = 4


@dataclass(frozen=True)
class Orientation:
    """How stored pixels are displayed: first transposed, then flipped.

    Attributes:
        transpose: rows become columns.
        flip_x, flip_y: mirrored left-right, top-bottom, after the transposition.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def turn(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Converts stored pixels to displayed pixels."""
        if self.transpose:
            pixels_HWC = pixels_HWC.transpose(1, 0, 2)
        if self.flip_y:
            pixels_HWC = pixels_HWC[::-1]
        if self.flip_x:
            pixels_HWC = pixels_HWC[:, ::-1]
        return np.ascontiguousarray(pixels_HWC)

    def stored_crop(self, crop: tuple[float, float]) -> tuple[float, float]:
        """Converts a crop offset `(down, right)` of the displayed frame to one of the stored frame."""
        down = 1 - crop[0] if self.flip_y else crop[0]
        right = 1 - crop[1] if self.flip_x else crop[1]
        return (right, down) if self.transpose else (down, right)


UPRIGHT = Orientation()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Returns the frame's display matrix, rounded to quarter turns and mirrors.

    A stored point (x, y) is displayed at (a x + c y, b x + d y); ISO/IEC 14496-12, 6.2.2: entries a b u c d v x y w.
    """
    # PyAV's `side_data` ties frame and container into a cycle that keeps the pixels until the garbage collector runs;
    # so it is read only if the frame is rotated. A pure top-bottom mirror, unknown in videos, is missed.
    matrix = _display_matrix(frame) if frame.rotation else None
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = (int(entry) for entry in np.frombuffer(matrix, dtype="=i4")[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(False, flip_x=a < 0, flip_y=d < 0)


def displayed_size(frame: av.VideoFrame, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """Returns (height, width) as shown by a player: pixels made square by stretching the width, then rotated."""
    height, width = frame.height, max(1, round(frame.width * pixel_aspect))
    return (width, height) if orientation_of(frame).transpose else (height, width)


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    # PyAV looks up side data by name and raises KeyError if there is none.
    try:
        return bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
    except KeyError:
        return None


@dataclass(frozen=True)
class Fit:
    """How a frame is scaled to cover a target, and where the target lies in it.

    Attributes:
        height, width: size of the whole frame after scaling; at least the target's in both directions.
        top, left: first row and column of the target in the scaled frame.
    """

    height: int
    width: int
    top: int
    left: int


def fit_to_cover(
    source: tuple[int, int], pixel_aspect: float, target: tuple[int, int], crop: tuple[float, float]
) -> Fit:
    """Scales the short side to fit, then crops at an offset.

    Args:
        source: (height, width) in stored pixels.
        pixel_aspect: width of a stored pixel divided by its height.
        target: (height, width) of the output.
        crop: (down, right), 0 keeps the top or left edge, 0.5 the center, 1 the bottom or right edge.
    """
    scale = max(target[0] / source[0], target[1] / (source[1] * pixel_aspect))
    height = max(target[0], round(source[0] * scale))
    width = max(target[1], round(source[1] * pixel_aspect * scale))
    return Fit(height, width, round((height - target[0]) * crop[0]), round((width - target[1]) * crop[1]))


class FrameFitter:
    """A converter of frames to what a player shows, scaled and cropped to `height` x `width`.

    Args:
        height, width: size of the output.
        pixel_aspect: width of a stored pixel divided by its height.
        crop: (down, right) offset of the crop, see `fit_to_cover`.
    """

    def __init__(
        self, height: int, width: int, *, pixel_aspect: float = 1.0, crop: tuple[float, float] = (0.5, 0.5)
    ) -> None:
        self.height, self.width, self.pixel_aspect, self.crop = height, width, pixel_aspect, crop
        # Reused: setting up a scaler costs more than scaling a small frame.
        self._first, self._second = VideoReformatter(), VideoReformatter()

    def pixels(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Converts one frame.

        Returns:
            uint8 (H, W, 3), red-green-blue.
        """
        orientation = orientation_of(frame)
        target = (self.width, self.height) if orientation.transpose else (self.height, self.width)
        fit = fit_to_cover((frame.height, frame.width), self.pixel_aspect, target, orientation.stored_crop(self.crop))
        if fit.height * fit.width <= _SCALE_FIRST_RATIO * self.height * self.width:
            whole = _rgb(self._first, frame, fit.height, fit.width)
            part = whole[fit.top : fit.top + target[0], fit.left : fit.left + target[1]]
        else:
            part = self._cropped_first(frame, fit, target)
        return orientation.turn(part)

    def _cropped_first(self, frame: av.VideoFrame, fit: Fit, target: tuple[int, int]) -> NDArray[np.uint8]:
        """Equals scaling and cropping, up to one stored pixel, without ever holding the whole scaled frame."""
        down, right = frame.height / fit.height, frame.width / fit.width
        top, left = (min(int(fit.top * down), frame.height - 1), min(int(fit.left * right), frame.width - 1))
        rows, columns = max(1, round(target[0] * down)), max(1, round(target[1] * right))
        whole = _rgb(self._first, frame, frame.height, frame.width)
        part = np.ascontiguousarray(whole[top : top + rows, left : left + columns])
        return _rgb(self._second, av.VideoFrame.from_ndarray(part, format="rgb24"), *target)


def _rgb(reformatter: VideoReformatter, frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    # One thread: more of them take ten times as long on a small frame.
    scaled = reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=_SCALER, threads=1)
    return np.asarray(scaled.to_ndarray(), dtype=np.uint8)
