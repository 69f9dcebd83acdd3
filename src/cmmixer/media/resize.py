"""A decoded frame -> H x W pixels: turned as the container says, pixels made square, short side to fit, then cropped."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

# Exact rounding and colour at full width; the scaler's short cuts are off by a level or two.
_SCALER = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)

# Scaling the whole picture is cheapest while little of it is cropped away; beyond this ratio of scaled to wanted pixels
# (4096 x 64, absurd pixel shapes) the picture is cropped first, so that memory stays bounded.
_SCALE_FIRST_RATIO = 4


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become displayed ones: first transposed, then flipped.

    Attributes:
        transpose: rows and columns change places.
        flip_x, flip_y: mirrored left-right, top-bottom, after the transposition.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def turn(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Stored pixels -> displayed pixels."""
        if self.transpose:
            pixels_HWC = pixels_HWC.transpose(1, 0, 2)
        if self.flip_y:
            pixels_HWC = pixels_HWC[::-1]
        if self.flip_x:
            pixels_HWC = pixels_HWC[:, ::-1]
        return np.ascontiguousarray(pixels_HWC)

    def stored_crop(self, crop: tuple[float, float]) -> tuple[float, float]:
        """Where a crop offset `(down, right)` of the displayed picture lies in the stored one."""
        down = 1 - crop[0] if self.flip_y else crop[0]
        right = 1 - crop[1] if self.flip_x else crop[1]
        return (right, down) if self.transpose else (down, right)


UPRIGHT = Orientation()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The frame's display matrix, rounded to quarter turns and mirrors.

    A stored point (x, y) is displayed at (a x + c y, b x + d y); ISO/IEC 14496-12, 6.2.2: entries a b u c d v x y w.
    """
    # PyAV's `side_data` ties frame and container into a cycle that keeps the pixels until the garbage collector runs;
    # so it is asked only where there is something to ask for. A pure top-bottom mirror, unknown in films, is missed.
    matrix = _display_matrix(frame) if frame.rotation else None
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = (int(entry) for entry in np.frombuffer(matrix, dtype="=i4")[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(False, flip_x=a < 0, flip_y=d < 0)


def displayed_size(frame: av.VideoFrame, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """(height, width) a player would show: pixels made square by stretching the width, then turned."""
    height, width = frame.height, max(1, round(frame.width * pixel_aspect))
    return (width, height) if orientation_of(frame).transpose else (height, width)


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    # Looked up by name, as in PyAV's own type annotations; a name that is not there is a KeyError.
    try:
        return bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
    except KeyError:
        return None


@dataclass(frozen=True)
class Fit:
    """How a picture of square or other pixels is scaled to cover a target, and where the target lies in it.

    Attributes:
        height, width: size of the whole picture after scaling; at least the target's in both directions.
        top, left: where the target begins in the scaled picture.
    """

    height: int
    width: int
    top: int
    left: int


def fit_to_cover(
    source: tuple[int, int], pixel_aspect: float, target: tuple[int, int], crop: tuple[float, float]
) -> Fit:
    """Short side to fit, then crop at an offset.

    Args:
        source: (height, width) in stored pixels.
        pixel_aspect: width of a stored pixel divided by its height.
        target: (height, width) wanted.
        crop: (down, right), 0 keeps the top or left edge, 0.5 the centre, 1 the bottom or right edge.
    """
    scale = max(target[0] / source[0], target[1] / (source[1] * pixel_aspect))
    height = max(target[0], round(source[0] * scale))
    width = max(target[1], round(source[1] * pixel_aspect * scale))
    return Fit(height, width, round((height - target[0]) * crop[0]), round((width - target[1]) * crop[1]))


class PictureFitter:
    """Frames as a player shows them, scaled and cropped to `height` x `width`.

    Args:
        height, width: wanted size.
        pixel_aspect: width of a stored pixel divided by its height.
        crop: (down, right) offset of the crop, see `fit_to_cover`.
    """

    def __init__(
        self, height: int, width: int, *, pixel_aspect: float = 1.0, crop: tuple[float, float] = (0.5, 0.5)
    ) -> None:
        self.height, self.width, self.pixel_aspect, self.crop = height, width, pixel_aspect, crop
        # Kept, since setting a scaler up costs more than scaling a small picture.
        self._first, self._second = VideoReformatter(), VideoReformatter()

    def pixels(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """One frame.

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
        """The same as scaling and cropping, up to a stored pixel, without ever holding the whole scaled picture."""
        down, right = frame.height / fit.height, frame.width / fit.width
        top, left = (min(int(fit.top * down), frame.height - 1), min(int(fit.left * right), frame.width - 1))
        rows, columns = max(1, round(target[0] * down)), max(1, round(target[1] * right))
        whole = _rgb(self._first, frame, frame.height, frame.width)
        part = np.ascontiguousarray(whole[top : top + rows, left : left + columns])
        return _rgb(self._second, av.VideoFrame.from_ndarray(part, format="rgb24"), *target)


def _rgb(reformatter: VideoReformatter, frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    # One thread: more of them take ten times as long on a small picture.
    scaled = reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=_SCALER, threads=1)
    return np.asarray(scaled.to_ndarray(), dtype=np.uint8)
