"""Plots: the pixels show the data."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cmmixer.analysis.plots import (
    Curves,
    Neighbours,
    StripRow,
    confusion_plot,
    loss_curves,
    map_plot,
    mel_spectrogram,
    neighbours_plot,
    strip_image,
)


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_mel_spectrogram_has_low_frequencies_at_the_bottom() -> None:
    decibels = np.zeros((4, 6))
    decibels[0] = 10.0  # the lowest band is loud
    image = _pixels(mel_spectrogram(decibels, scale=3))
    assert image.shape == (12, 18, 3)
    assert image[-1].min() > 150  # magma's loud end is pale
    assert image[0].max() < 10
    with pytest.raises(ValueError, match=r"mel spectrogram: got shape \(3,\), expected \(H, W\)"):
        mel_spectrogram(np.zeros(3))


def test_strip_image_shows_frames_in_order() -> None:
    frames = np.zeros((2, 5, 5, 3), np.uint8)
    frames[0, ..., 0] = 255
    frames[1, ..., 2] = 255
    image = _pixels(strip_image([StripRow("frames", frames)]))
    red, blue = (np.argwhere((image == color).all(-1)) for color in ((255, 0, 0), (0, 0, 255)))
    assert len(red) > 1000
    assert abs(len(red) - len(blue)) < 0.1 * len(red)
    assert red[:, 1].max() < blue[:, 1].min()
    as_floats = _pixels(strip_image([StripRow("frames", frames.astype(np.float32) / 255)]))
    assert np.array_equal(as_floats, image)


def test_strip_image_accepts_mel_spectrograms_and_refuses_other_shapes() -> None:
    mel = np.zeros((2, 4, 4))
    mel[1, 0] = 5.0
    assert _pixels(strip_image([StripRow("mel", mel), StripRow("mixed", np.zeros((2, 4, 4, 3)))])).shape[2] == 3
    with pytest.raises(
        ValueError, match=r"images of a strip: got shape \(2, 4\), expected \(T, H, W, 3\) or \(T, H, W\)"
    ):
        strip_image([StripRow("flat", np.zeros((2, 4)))])
    with pytest.raises(ValueError, match="got no rows"):
        strip_image([])


def test_loss_curves_draw_each_series() -> None:
    rows = [{"step": float(i), "loss": 1.0 / (i + 1)} for i in range(20)] + [{"step": 20.0, "other": 3.0}]
    panel = Curves("Pre-training", rows, {"loss": "both", "missing": "not there"}, level=(0.5, "chance"))
    light, dark = loss_curves([panel, panel]), loss_curves([panel], dark=True)
    assert Image.open(io.BytesIO(light)).size[0] > 1.9 * Image.open(io.BytesIO(dark)).size[0]
    alpha = np.asarray(Image.open(io.BytesIO(light)))[..., 3]
    assert (alpha == 0).mean() > 0.5
    blue = (np.abs(_pixels(light).astype(int) - (0x00, 0x72, 0xB2)).sum(-1) < 12).sum()
    assert blue > 300
    with pytest.raises(ValueError, match="got no panels"):
        loss_curves([])


def test_plots_do_not_use_pyplot() -> None:
    import matplotlib._pylab_helpers as managers

    loss_curves([Curves("x", [{"step": 0.0, "loss": 1.0}], {"loss": "loss"})])
    assert managers.Gcf.get_all_fig_managers() == []


GREEN_FRAME = (0x00, 0x9E, 0x73)


def _count(png: bytes, color: tuple[int, int, int]) -> int:
    return int((np.abs(_pixels(png).astype(int) - color).sum(-1) < 12).sum())


def test_neighbours_plot_frames_the_partner_in_green() -> None:
    gray = np.full((8, 8, 3), 128, np.uint8)
    hits = [gray, gray, gray]
    without = neighbours_plot([Neighbours(gray, hits, ["q", "a", "b", "c"], None)])
    second = neighbours_plot([Neighbours(gray, hits, ["q", "a", "b", "c"], 1)])
    assert _count(without, GREEN_FRAME) == 0
    framed = np.argwhere(np.abs(_pixels(second).astype(int) - GREEN_FRAME).sum(-1) < 12)
    width = _pixels(second).shape[1]
    # The query and three hits: the second hit is the third of four columns.
    assert 0.5 * width < framed[:, 1].min() < framed[:, 1].max() < 0.76 * width


def test_neighbours_plot_has_a_row_per_query_and_colors_mel_values() -> None:
    mel = np.linspace(0, 1, 64).reshape(8, 8)
    row = Neighbours(mel, [mel], ["q", "a"], 0)
    one, two = _pixels(neighbours_plot([row])), _pixels(neighbours_plot([row, row]))
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=2)
    assert one.shape[1] == two.shape[1]
    # Magma's bright end is neither gray nor white.
    assert ((one[..., 0] > 240) & (one[..., 2] < 200)).any()


def test_map_plot_has_a_color_per_label_and_a_marker_per_modality() -> None:
    points = np.random.default_rng(0).normal(size=(8, 2))
    labels, modalities = ["a", "b"] * 4, ["video"] * 4 + ["audio"] * 4
    png = map_plot(points, labels, modalities)
    first, last = (0x1F, 0x77, 0xB4), (0x9E, 0xDA, 0xE5)  # the ends of the color map tab20, blended with white
    blended = [tuple(round(0.8 * value + 0.2 * 255) for value in color) for color in (first, last)]
    assert all(_count(png, color) > 50 for color in blended)
    assert png != map_plot(points, labels, modalities[::-1])
    assert png == map_plot(points, labels, modalities)


def test_confusion_plot_is_darkest_where_a_whole_row_is_predicted() -> None:
    counts = np.array([[4, 0], [2, 2]])
    pixels = _pixels(confusion_plot(counts, ["cat", "dog"])).astype(int)
    dark = np.abs(pixels - (8, 48, 107)).sum(-1) < 12  # the end of the color map: 4 of 4
    half = np.abs(pixels - (107, 174, 214)).sum(-1) < 20  # its middle: 2 of 4
    assert dark.sum() > 1000
    assert half.sum() == pytest.approx(2 * dark.sum(), rel=0.1)
    # The true class runs down, the predicted class to the right.
    assert np.argwhere(dark)[:, 0].max() < np.argwhere(half)[:, 0].mean()


def test_confusion_plot_of_an_empty_row_is_white_and_finite() -> None:
    pixels = _pixels(confusion_plot(np.array([[0, 0], [0, 3]]), ["a", "b"])).astype(int)
    assert (np.abs(pixels - (8, 48, 107)).sum(-1) < 12).any()


def test_loss_curves_ignore_rows_without_the_series() -> None:
    rows = [{"step": 0.0, "loss": 1.0}, {"epoch": 1.0, "loss": 5.0}, {"step": 1.0}]
    only = [{"step": 0.0, "loss": 1.0}]
    assert loss_curves([Curves("x", rows, {"loss": "loss"})]) == loss_curves([Curves("x", only, {"loss": "loss"})])
