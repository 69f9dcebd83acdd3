"""Clips: presets, geometry completed from them, and the moments of a video."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cmmixer.config import PRESETS, ClipOptions, ClipSettings, FinetuneSettings, SegmentSettings, preset
from cmmixer.errors import SettingsError

NANO = ClipSettings(frames=4, height=64, width=64, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000)
INFINITY, NAN = float("inf"), float("nan")


def test_presets_hold_the_published_sizes() -> None:
    sizes = {name: dataclasses.astuple(PRESETS[name].model) for name in ("base", "large", "huge")}
    assert sizes == {
        "base": (768, 12, 12, 256, 4, 16, 16),
        "large": (1024, 24, 16, 512, 4, 16, 16),
        "huge": (1280, 32, 16, 512, 4, 16, 14),
    }


def test_published_window_is_114660_samples_and_224_columns() -> None:
    clip = ClipOptions().clip_settings("base")
    assert (clip.frames, clip.height, clip.width, clip.window_samples) == (4, 224, 224, 114_660)
    assert -(-clip.window_samples // 512) == 224  # with a hop of 512 samples


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_makes_a_grid_of_whole_patches(name: str) -> None:
    chosen = preset(name)
    assert chosen.height % chosen.model.patch == 0
    assert chosen.width % chosen.model.patch == 0
    assert chosen.model.dim % chosen.model.heads == 0
    assert chosen.model.decoder_dim % chosen.model.decoder_heads == 0


def test_presets_grow_in_order() -> None:
    dims = [PRESETS[name].model.dim for name in ("nano", "tiny", "small", "base", "large", "huge")]
    assert dims == sorted(set(dims))


def test_unknown_preset_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError) as refused:
        preset("bse")
    assert str(refused.value) == (
        "--preset: got 'bse', expected one of huge, large, base, small, tiny, nano; did you mean 'base'?"
    )


def test_options_complete_the_preset() -> None:
    settings = FinetuneSettings(data="videos", preset="nano", frames=8)
    assert settings.clip_settings("nano") == dataclasses.replace(NANO, frames=8)
    every = ClipOptions(**dataclasses.asdict(NANO))
    assert every.clip_settings("huge") == NANO


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "--frames: got 0, expected 1 or more"),
        ({"height": -1}, "--height: got -1, expected 1 or more"),
        ({"width": 0}, "--width: got 0, expected 1 or more"),
        ({"clip_seconds": 0.0}, "--clip_seconds: got 0.0, expected a value in (0.0, inf)"),
        ({"clip_seconds": NAN}, "--clip_seconds: got nan, expected a value in (0.0, inf)"),
        ({"window_seconds": INFINITY}, "--window_seconds: got inf, expected a value in (0.0, inf)"),
        ({"sample_rate_hz": 999}, "--sample_rate_hz: got 999, expected a value in [1000, 192000]"),
        ({"sample_rate_hz": 192_001}, "--sample_rate_hz: got 192001, expected a value in [1000, 192000]"),
        (
            {"window_seconds": 0.001},
            "--window_seconds: 0.001 s at 16000 Hz is 16 samples, too few for 64 columns; "
            "give a longer --window_seconds or a smaller --width",
        ),
    ],
)
def test_impossible_geometry_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        dataclasses.replace(NANO, **changes)
    assert str(refused.value) == message
    with pytest.raises(SettingsError) as refused:
        ClipOptions(**changes).clip_settings("nano")
    assert str(refused.value) == message


def test_window_with_one_sample_per_column_is_accepted() -> None:
    clip = dataclasses.replace(NANO, window_seconds=64 / 16000)
    assert clip.window_samples == clip.width == 64


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        (SegmentSettings(), (4.0, 2.0, False)),
        (SegmentSettings(moment_seconds=3.0), (3.0, 1.5, False)),
        (SegmentSettings(stride_seconds=0.5, shots=True), (4.0, 0.5, True)),
        (SegmentSettings(moment_seconds=1.0, stride_seconds=5.0), (1.0, 5.0, False)),
    ],
)
def test_moments_are_by_default_clips_that_overlap_by_half(
    given: SegmentSettings, completed: tuple[float, float, bool]
) -> None:
    segments = given.complete(NANO)
    assert dataclasses.astuple(segments) == completed
    assert segments.complete(NANO) == segments


@pytest.mark.parametrize(
    ("moment_seconds", "frames"), [(None, 4), (4.0, 4), (8.0, 8), (1.0, 1), (0.1, 1), (2.4, 2), (2.6, 3)]
)
def test_moment_has_the_frame_rate_of_a_clip(moment_seconds: float | None, frames: int) -> None:
    clip = SegmentSettings(moment_seconds=moment_seconds).moment_clip(NANO)
    assert clip == dataclasses.replace(NANO, frames=frames, clip_seconds=moment_seconds or 4.0)


@pytest.mark.parametrize("name", ["moment_seconds", "stride_seconds"])
@pytest.mark.parametrize("value", [0.0, -1.0, INFINITY, NAN])
def test_impossible_moments_are_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError) as refused:
        SegmentSettings(**{name: value})
    assert str(refused.value) == f"--{name}: got {value}, expected a value in (0.0, inf)"
