"""Fitting frames: the geometry of scaling and cropping, orientation, and pixels."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmmixer.media import resize
from cmmixer.media.resize import UPRIGHT, Fit, FrameFitter, Orientation, displayed_size, fit_to_cover, orientation_of

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


def frame_of(pixels_HWC: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")


def halves(height: int, width: int) -> NDArray[np.uint8]:
    """Black on the left, white on the right."""
    pixels_HWC = np.zeros((height, width, 3), np.uint8)
    pixels_HWC[:, width // 2 :] = 255
    return pixels_HWC


@pytest.mark.parametrize(
    ("source", "aspect", "target", "crop", "fit"),
    [
        ((100, 200), 1.0, (50, 50), (0.5, 0.5), Fit(50, 100, 0, 25)),
        ((200, 100), 1.0, (50, 50), (0.5, 0.5), Fit(100, 50, 25, 0)),
        ((100, 200), 1.0, (50, 50), (0.0, 0.0), Fit(50, 100, 0, 0)),
        ((100, 200), 1.0, (50, 50), (1.0, 1.0), Fit(50, 100, 0, 50)),
        ((100, 100), 2.0, (50, 50), (0.5, 0.5), Fit(50, 100, 0, 25)),
        ((100, 100), 0.5, (50, 50), (0.5, 0.5), Fit(100, 50, 25, 0)),
        ((224, 224), 1.0, (224, 224), (0.5, 0.5), Fit(224, 224, 0, 0)),
        ((10, 10), 1.0, (40, 20), (0.5, 0.5), Fit(40, 40, 0, 10)),
    ],
)
def test_fit_to_cover(
    source: tuple[int, int], aspect: float, target: tuple[int, int], crop: tuple[float, float], fit: Fit
) -> None:
    assert fit_to_cover(source, aspect, target, crop) == fit


@given(source=SIZES, aspect=st.floats(0.1, 10), target=SIZES, down=st.floats(0, 1), right=st.floats(0, 1))
def test_a_fit_always_covers_the_target(
    source: tuple[int, int], aspect: float, target: tuple[int, int], down: float, right: float
) -> None:
    fit = fit_to_cover(source, aspect, target, (down, right))
    assert 0 <= fit.top <= fit.height - target[0]
    assert 0 <= fit.left <= fit.width - target[1]
    # One side fits exactly, up to rounding.
    assert fit.height - target[0] <= 1 or fit.width - target[1] <= 1


ORIENTATIONS = [Orientation(*flags) for flags in itertools.product((False, True), repeat=3)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_keeps_every_pixel(orientation: Orientation) -> None:
    pixels_HWC = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = orientation.turn(pixels_HWC)
    assert turned.shape == ((3, 2, 3) if orientation.transpose else (2, 3, 3))
    assert turned.flags.c_contiguous
    rows = {tuple(pixel) for pixel in turned.reshape(-1, 3)}
    assert rows == {tuple(pixel) for pixel in pixels_HWC.reshape(-1, 3)}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("crop", [(0.0, 0.0), (0.25, 1.0), (1.0, 0.5)])
def test_cropping_before_or_after_turning_is_the_same(orientation: Orientation, crop: tuple[float, float]) -> None:
    pixels_HWC = np.arange(9 * 9 * 3, dtype=np.uint8).reshape(9, 9, 3)
    down, right = orientation.stored_crop(crop)
    top, left = round(4 * down), round(4 * right)
    cropped_first = orientation.turn(pixels_HWC[top : top + 5, left : left + 5])
    turned = orientation.turn(pixels_HWC)
    top, left = round(4 * crop[0]), round(4 * crop[1])
    np.testing.assert_array_equal(cropped_first, turned[top : top + 5, left : left + 5])


class FakeFrame:
    """A frame with a display matrix; PyAV cannot create one."""

    def __init__(self, matrix: list[int] | None, height: int = 10, width: int = 20) -> None:
        self.rotation = 0 if matrix is None else 90
        self.height, self.width = height, width
        self.side_data = {} if matrix is None else {"DISPLAYMATRIX": np.array(matrix, "=i4").tobytes()}


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "orientation"),
    [
        (None, UPRIGHT),
        ([ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], UPRIGHT),
        ([-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30], Orientation(False, True, True)),
        ([-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], Orientation(False, True, False)),
        ([0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30], Orientation(True, True, False)),
        ([0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30], Orientation(True, False, True)),
        ([1000, ONE, 0, -ONE, 1000, 0, 0, 0, 1 << 30], Orientation(True, True, False)),
    ],
)
def test_orientation_from_the_display_matrix(matrix: list[int] | None, orientation: Orientation) -> None:
    frame = FakeFrame(matrix)
    assert orientation_of(frame) == orientation  # type: ignore[arg-type]
    size = (40, 10) if orientation.transpose else (10, 40)
    assert displayed_size(frame, 2.0) == size  # type: ignore[arg-type]


def test_a_rotated_frame_without_a_matrix_is_upright() -> None:
    frame = FakeFrame(None)
    frame.rotation = 90
    assert orientation_of(frame) == UPRIGHT  # type: ignore[arg-type]


def test_displayed_size_has_at_least_one_column() -> None:
    assert displayed_size(frame_of(np.zeros((8, 4, 3), np.uint8)), 0.01) == (8, 1)


def test_pixels_of_the_same_size_are_unchanged() -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(FrameFitter(16, 24).pixels(frame_of(pixels_HWC)), pixels_HWC)


@pytest.mark.parametrize(("right", "level"), [(0.0, 0), (1.0, 255)])
def test_the_crop_offset_selects_a_side(right: float, level: int) -> None:
    pixels = FrameFitter(16, 16, crop=(0.5, right)).pixels(frame_of(halves(32, 128)))
    assert pixels.shape == (16, 16, 3)
    assert abs(int(pixels.min()) - level) <= 1
    assert abs(int(pixels.max()) - level) <= 1


def test_the_center_is_kept_by_default() -> None:
    pixels = FrameFitter(16, 16).pixels(frame_of(halves(32, 128))).astype(int)
    assert pixels[:, :6].max() <= 5
    assert pixels[:, 10:].min() >= 250


def test_cropping_first_equals_scaling_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    frame = frame_of(np.broadcast_to(ramp[None, :, None], (32, 256, 3)))
    scaled_first = FrameFitter(16, 64, crop=(0.5, 0.25)).pixels(frame).astype(int)
    monkeypatch.setattr(resize, "_SCALE_FIRST_RATIO", 0)
    cropped_first = FrameFitter(16, 64, crop=(0.5, 0.25)).pixels(frame).astype(int)
    assert np.abs(scaled_first - cropped_first).max() <= 4


def test_a_fitter_takes_frames_of_different_sizes() -> None:
    fitter = FrameFitter(8, 8)
    for side in (8, 16, 64, 9):
        pixels = fitter.pixels(frame_of(np.full((side, side, 3), side, np.uint8)))
        assert np.abs(pixels.astype(int) - side).max() <= 1
