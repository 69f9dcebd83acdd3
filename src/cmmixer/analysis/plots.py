"""Plots of the report, `inspect` and `probe`, as PNG bytes. `Figure` is used directly: no pyplot, no global state, no window.

Letters: T frames, H x W pixels, N points, C classes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

# Text and grid on the light and the dark page. The series colors differ on both, also for color-blind readers
# (Okabe and Ito, "Color Universal Design", 2008).
_INK = {False: "#3a4048", True: "#c9d1d9"}
_GRID = {False: "#d9dee4", True: "#30363d"}
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
# With more classes, the counts in a confusion matrix are unreadable.
_MAX_CLASSES_WITH_COUNTS = 20
_DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Curves:
    """One panel of loss curves.

    Attributes:
        title: what the panel shows.
        rows: the training log, one mapping per line; lines without a series' key are ignored.
        series: key in the rows -> name in the legend.
        x: key of the horizontal axis.
        level: a horizontal line to compare with, such as the loss at chance, and its name.
    """

    title: str
    rows: Sequence[Mapping[str, float]]
    series: Mapping[str, str]
    x: str = "step"
    level: tuple[float, str] | None = None


def loss_curves(panels: Sequence[Curves], *, dark: bool = False) -> bytes:
    """Draws the panels side by side, as a PNG with a transparent background.

    Raises:
        ValueError: no panel was given.
    """
    if not panels:
        raise ValueError("loss_curves: got no panels, expected one or more")
    figure = _figure(4.6 * len(panels), 3.1)
    for position, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), position)
        _draw_curves(axes, panel, dark)
    return _png(figure)


def _draw_curves(axes: Axes, panel: Curves, dark: bool) -> None:
    for color, (key, name) in zip(cycle(_SERIES), panel.series.items(), strict=False):
        points = np.array([(row[panel.x], row[key]) for row in panel.rows if key in row and panel.x in row], float)
        if len(points):
            axes.plot(points[:, 0], points[:, 1], color=color, linewidth=1.6, label=name)
    if panel.level is not None:
        axes.axhline(panel.level[0], color=_INK[dark], linewidth=1, linestyle="--", label=panel.level[1])
    axes.set_title(panel.title, color=_INK[dark], fontsize=10, loc="left")
    axes.set_xlabel(panel.x, color=_INK[dark], fontsize=9)
    axes.tick_params(colors=_INK[dark], labelsize=8)
    axes.grid(color=_GRID[dark], linewidth=0.6)
    axes.patch.set_alpha(0.0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID[dark])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK[dark])


def mel_spectrogram(decibels_HW: NDArray[np.floating], *, scale: int = 2) -> bytes:
    """Draws a mel spectrogram as a PNG: time runs to the right, low frequencies are at the bottom, louder is brighter.

    Args:
        decibels_HW: log-mel values; row 0 is the lowest band, as in `cmmixer.media.mel`.
        scale: side in pixels of the square drawn for each value.

    Raises:
        ValueError: not an array of shape (H, W).
    """
    return _raw_png(_magma(decibels_HW), scale)


def _magma(values_HW: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colors a mel spectrogram, low frequencies at the bottom, stretched from its 2nd to its 99.5th percentile."""
    values = np.asarray(values_HW, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"mel spectrogram: got shape {values.shape}, expected (H, W)")
    low, high = np.percentile(values, (2.0, 99.5))
    stretched = np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0)
    colors_HWC: NDArray[np.uint8] = colormaps["magma"](stretched[::-1], bytes=True)[..., :3]
    return colors_HWC


@dataclass(frozen=True)
class StripRow:
    """One row of a strip image: a clip's T frames or mel spectrograms side by side.

    Attributes:
        caption: what the row shows.
        images: [T, H, W, 3] colors in [0, 1] or uint8, or [T, H, W] mel values with the lowest band in row 0.
    """

    caption: str
    images: NDArray[np.generic]


def strip_image(rows: Sequence[StripRow], *, dark: bool = False) -> bytes:
    """Draws the stages of a clip as captioned rows: what goes in, the mix, and what the network reconstructs. Returns a PNG.

    Usual rows: frames, mel spectrograms, mix, visible part of the mix, both reconstructions.

    Raises:
        ValueError: no rows, or images of another shape.
    """
    if not rows:
        raise ValueError("strip_image: got no rows, expected one or more")
    strips = [_side_by_side(row.images) for row in rows]
    width = 5.2
    heights = [width * strip.shape[0] / strip.shape[1] + 0.28 for strip in strips]
    figure = _figure(width, sum(heights))
    grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    for position, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        axes = figure.add_subplot(grid[position, 0])
        axes.imshow(strip, interpolation="nearest", aspect="equal")
        axes.set_title(row.caption, color=_INK[dark], fontsize=11, loc="left", pad=4)
        axes.set_axis_off()
    return _png(figure)


@dataclass(frozen=True)
class Neighbours:
    """A query and its hits, best first, as images.

    Attributes:
        query: [H, W, 3] uint8, or [H, W] mel values.
        hits: likewise.
        captions: of the query and of each hit.
        partner: position of the query's true counterpart among the hits, or None.
    """

    query: NDArray[np.generic]
    hits: Sequence[NDArray[np.generic]]
    captions: Sequence[str]
    partner: int | None


def neighbours_plot(rows: Sequence[Neighbours]) -> bytes:
    """Draws queries on the left and their hits beside them, the true counterpart framed in green; PNG on white."""
    columns = 1 + max(len(row.hits) for row in rows)
    figure = _figure(1.35 * columns, 1.6 * len(rows))
    figure.patch.set(alpha=1.0, facecolor="white")
    for number, row in enumerate(rows):
        for place, image in enumerate([row.query, *row.hits]):
            axes = figure.add_subplot(len(rows), columns, number * columns + place + 1)
            values = np.asarray(image)
            axes.imshow(values if values.ndim == 3 else _magma(np.asarray(values, np.float64)), aspect="auto")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(row.captions[place], fontsize=7, loc="left", pad=2)
            is_partner = row.partner is not None and place == row.partner + 1
            for spine in axes.spines.values():
                spine.set(color="#009e73" if is_partner else "#d9dee4", linewidth=3.0 if is_partner else 0.8)
    return _on_white(figure)


def map_plot(points_N2: NDArray[np.floating], labels: Sequence[str], modalities: Sequence[str]) -> bytes:
    """Draws points in the plane, colored by label and marked by modality (video: circle, audio: triangle); PNG on white."""
    figure = _figure(7.0, 5.2)
    figure.patch.set(alpha=1.0, facecolor="white")
    axes = figure.add_subplot()
    names = sorted(set(labels))
    shades = colormaps["tab20"](np.linspace(0, 1, max(len(names), 2)))
    for place, name in enumerate(names):
        for modality, mark in (("video", "o"), ("audio", "^")):
            chosen = [row for row in range(len(labels)) if labels[row] == name and modalities[row] == modality]
            if chosen:
                axes.scatter(
                    points_N2[chosen, 0],
                    points_N2[chosen, 1],
                    marker=mark,
                    s=18,
                    color=shades[place],
                    label=f"{name}, {modality}",
                    alpha=0.8,
                )
    axes.set_xticks([])
    axes.set_yticks([])
    if len(names) <= _MAX_CLASSES_WITH_COUNTS // 2:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.spines[["top", "right", "left", "bottom"]].set_color("#d9dee4")
    return _on_white(figure)


def confusion_plot(counts_CC: NDArray[np.integer], names: Sequence[str]) -> bytes:
    """Draws a confusion matrix, true class by row, predicted class by column, normalized over each row; PNG on white."""
    parts = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.34 * len(names)
    figure = _figure(side + 0.8, side)
    figure.patch.set(alpha=1.0, facecolor="white")
    axes = figure.add_subplot()
    axes.imshow(parts, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted class", fontsize=8)
    axes.set_ylabel("true class", fontsize=8)
    if len(names) <= _MAX_CLASSES_WITH_COUNTS:
        for row, column in np.argwhere(counts_CC > 0):
            color = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts_CC[row, column]), ha="center", va="center", fontsize=7, color=color)
    return _on_white(figure)


def _side_by_side(images: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Joins images [T, H, W(, 3)] to one strip [H, T*W + gaps, 3] with thin gray gaps."""
    if images.ndim == 3:
        colored = _mel_frames(np.asarray(images, np.float64))
    elif images.ndim == 4 and images.shape[3] == 3:
        colored = _color_bytes(images)
    else:
        raise ValueError(f"images of a strip: got shape {images.shape}, expected (T, H, W, 3) or (T, H, W)")
    gap = np.full((colored.shape[1], 1, 3), 128, np.uint8)
    parts = [part for image in colored for part in (image, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _mel_frames(values_THW: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colors the mel spectrograms of a clip, stretched together so that a quiet window stays dark."""
    frames, height, width = values_THW.shape
    together = _magma(values_THW.transpose(1, 0, 2).reshape(height, frames * width))
    return together.reshape(height, frames, width, 3).transpose(1, 0, 2, 3)


def _color_bytes(frames_THWC: NDArray[np.generic]) -> NDArray[np.uint8]:
    if frames_THWC.dtype == np.uint8:
        return frames_THWC.astype(np.uint8)
    return (np.clip(np.asarray(frames_THWC, np.float64), 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _figure(width_inches: float, height_inches: float) -> Figure:
    figure = Figure(figsize=(width_inches, height_inches), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    return figure


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True, metadata={"Software": None})
    return stream.getvalue()


def _on_white(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _raw_png(colors_HWC: NDArray[np.uint8], scale: int) -> bytes:
    height, width = colors_HWC.shape[:2]
    stream = io.BytesIO()
    Image.fromarray(colors_HWC).resize((width * scale, height * scale), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()
