"""Values between the layers: what they refuse, how they print, and how a batch moves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cmmixer.types import AudioWindows, Batch, Clip, Frames, Span, Statistics


def frames(count: int = 4, height: int = 48, width: int = 64) -> Frames:
    return Frames(np.zeros((count, height, width, 3), np.uint8), np.arange(count) + 0.5)


def windows(count: int = 4, samples: int = 16000) -> AudioWindows:
    return AudioWindows(np.zeros((count, samples), np.int16), np.arange(count) + 0.5, 16000)


def batch() -> Batch:
    video, audio = torch.zeros(2, 4, 3, 48, 64, dtype=torch.uint8), torch.zeros(2, 4, 16000, dtype=torch.int16)
    return Batch(["a", "b"], ["dog", None], video, audio)


def test_a_span_knows_its_duration() -> None:
    assert Span(1.5, 4.0).duration_seconds == 2.5


@pytest.mark.parametrize("end", [1.0, 0.5, float("nan")])
def test_a_span_must_end_after_it_starts(end: float) -> None:
    with pytest.raises(ValueError, match=rf"^a span must end after it starts; got 1.0 .. {end} s$"):
        Span(1.0, end)


def test_frames_print_their_shape_and_times() -> None:
    assert repr(frames()) == "Frames(4 x 48 x 64, 0.5..3.5 s)"
    assert repr(frames(1)) == "Frames(1 x 48 x 64, 0.5..0.5 s)"
    assert repr(frames(0)) == "Frames(0 x 48 x 64)"


def test_times_are_printed_with_six_digits() -> None:
    thirds = Frames(np.zeros((2, 1, 1, 3), np.uint8), np.array([1 / 3, 100 + 2 / 3]))
    assert repr(thirds) == "Frames(2 x 1 x 1, 0.333333..100.667 s)"


def test_audio_windows_print_their_shape_rate_and_times() -> None:
    assert repr(windows()) == "AudioWindows(4 x 16000 samples at 16000 Hz, 0.5..3.5 s)"
    assert repr(windows(0)) == "AudioWindows(0 x 16000 samples at 16000 Hz)"


def test_a_clip_prints_what_it_holds() -> None:
    clip = Clip("a.mp4#0-4", "a.mp4", "dog", Span(0.0, 4.0), frames(), windows())
    assert repr(clip) == (
        "Clip('a.mp4#0-4', 0..4 s, label='dog', frames=Frames(4 x 48 x 64, 0.5..3.5 s), "
        "sound=AudioWindows(4 x 16000 samples at 16000 Hz, 0.5..3.5 s))"
    )
    silent = Clip("a.mp4#0.5-4.5", "a.mp4", None, Span(0.5, 4.5), frames(), None)
    assert repr(silent) == (
        "Clip('a.mp4#0.5-4.5', 0.5..4.5 s, label=None, frames=Frames(4 x 48 x 64, 0.5..3.5 s), sound=None)"
    )


def test_a_batch_prints_its_shapes_and_device() -> None:
    assert repr(batch()) == "Batch(2 clips, video 2 x 4 x 3 x 48 x 64, audio 2 x 4 x 16000, cpu)"


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 8, 8, 3)), r"^frames must be uint8 \(T, H, W, 3\); got float64 \(4, 8, 8, 3\)$"),
        (np.zeros((4, 8, 8), np.uint8), r"got uint8 \(4, 8, 8\)$"),
        (np.zeros((4, 3, 8, 8), np.uint8), r"got uint8 \(4, 3, 8, 8\)$"),
    ],
)
def test_frames_refuse_wrong_dtypes_and_shapes(pixels: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frames(pixels, np.arange(4.0))


def test_frames_need_one_time_each() -> None:
    with pytest.raises(ValueError, match=r"^4 frames need 4 times; got \(3,\)$"):
        Frames(np.zeros((4, 8, 8, 3), np.uint8), np.arange(3.0))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((4, 9), np.float32), r"^audio windows must be int16 \(T, N\); got float32 \(4, 9\)$"),
        (np.zeros(9, np.int16), r"got int16 \(9,\)$"),
    ],
)
def test_audio_windows_refuse_wrong_dtypes_and_shapes(samples: NDArray[np.int16], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioWindows(samples, np.arange(4.0), 16000)


def test_audio_windows_need_one_centre_each() -> None:
    with pytest.raises(ValueError, match=r"^4 windows need 4 centres; got \(5,\)$"):
        AudioWindows(np.zeros((4, 9), np.int16), np.arange(5.0), 16000)


def test_a_clip_needs_frames_or_sound() -> None:
    with pytest.raises(ValueError, match=r"^clip a.mp4#0-4 has neither frames nor sound$"):
        Clip("a.mp4#0-4", "a.mp4", None, Span(0.0, 4.0), None, None)


def test_a_batch_moves_its_tensors_and_keeps_its_names() -> None:
    moved = batch().to("meta")
    assert (moved.video_BTCHW.device.type, moved.audio_BTN.device.type) == ("meta", "meta")
    assert (len(moved), moved.ids, moved.labels) == (2, ["a", "b"], ["dog", None])
    assert repr(moved) == "Batch(2 clips, video 2 x 4 x 3 x 48 x 64, audio 2 x 4 x 16000, meta)"


@pytest.mark.parametrize("value", [Span(0.0, 1.0), frames(), windows(), Statistics((0.5,) * 3, (0.2,) * 3, -50, 20, 1)])
def test_values_cannot_be_changed(value: object) -> None:
    field = dataclasses.fields(value)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
