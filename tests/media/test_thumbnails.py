"""Previews of files: streams, thumbnails and waveforms."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cmmixer.errors import MediaError
from cmmixer.media import thumbnails
from cmmixer.media.encode import write_audio
from cmmixer.media.thumbnails import (
    InfoTask,
    PeaksTask,
    ThumbnailTask,
    envelope,
    peaks,
    read_info,
    thumbnail,
)
from tests.support.counting_videos import counting_pixels, number_of, tone, write


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("thumbnails") / "video.mp4", pixels=counting_pixels(20)))


def sound_of(path: Path, samples: NDArray[np.int16], rate: int = 8000) -> str:
    write_audio(path, samples, rate)
    return str(path)


def slow_envelope(samples: list[int], bins: int) -> tuple[list[int], list[int]]:
    low, high = [], []
    for number in range(bins):
        first = min(int(number * len(samples) / bins), len(samples) - 1)
        last = max(int((number + 1) * len(samples) / bins), first + 1)
        part = samples[first:last]
        low.append(round(min(part) * 127 / 32768))
        high.append(round(max(part) * 127 / 32768))
    return low, high


def test_read_info(video: str) -> None:
    info = read_info(InfoTask(video, 10.0))
    assert info.path == video
    assert info.video is not None
    assert (info.video.width, info.video.height, info.video.codec) == (64, 48, "h264")
    assert info.audio is None
    assert info.duration_seconds == pytest.approx(2.0)


def test_read_info_rejects_a_list_of_local_files(tmp_path: Path) -> None:
    path = tmp_path / "a.ffconcat"
    sound_of(tmp_path / "other.wav", tone(0.2, 8000))
    path.write_text("ffconcat version 1.0\nfile other.wav\n")
    with pytest.raises(MediaError) as caught:
        read_info(InfoTask(str(path), 5.0))
    assert caught.value.reason == "unreadable"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("seconds", "number"), [(0.0, 0), (0.95, 9), (1.9, 19), (100.0, 19)])
def test_a_thumbnail_shows_the_frame_at_an_instant(video: str, seconds: float, number: int) -> None:
    image = Image.open(io.BytesIO(thumbnail(ThumbnailTask(video, seconds, 30, 40, 10.0))))
    assert (image.format, image.size) == ("JPEG", (40, 30))
    assert number_of(np.asarray(image)) == number


def test_a_sound_has_no_thumbnail(tmp_path: Path) -> None:
    path = sound_of(tmp_path / "a.wav", tone(0.5, 8000))
    with pytest.raises(MediaError, match=r"a.wav: has no video stream, only audio$"):
        thumbnail(ThumbnailTask(path, 0.0, 10, 10, 10.0))


def test_a_silent_video_has_no_waveform(video: str) -> None:
    with pytest.raises(MediaError, match=r"video.mp4: has no audio stream, only video$"):
        peaks(PeaksTask(video, 0.0, 1.0, 4, 10.0))


def test_peaks_of_a_stretch(tmp_path: Path) -> None:
    samples = np.zeros(8000, np.int16)
    samples[4000:6000:2], samples[4001:6000:2] = 16384, -8192
    path = sound_of(tmp_path / "a.wav", samples)
    assert peaks(PeaksTask(path, 0.0, 1.0, 4, 10.0)) == ([0, 0, -32, 0], [0, 0, 64, 0])
    assert peaks(PeaksTask(path, 0.5, 0.75, 2, 10.0)) == ([-32, -32], [64, 64])
    low, high = peaks(PeaksTask(path, 0.75, 1.5, 3, 10.0))  # beyond the end there is silence
    assert (low, high) == ([0, 0, 0], [0, 0, 0])


def test_a_long_stretch_is_decoded_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(-30000, 30000, 16000).astype(np.int16)
    path = sound_of(tmp_path / "a.wav", ramp)
    whole = peaks(PeaksTask(path, 0.1, 1.9, 7, 10.0))
    for seconds in (0.25, 0.7, 1.8):
        monkeypatch.setattr(thumbnails, "_BLOCK_SECONDS", seconds)
        assert peaks(PeaksTask(path, 0.1, 1.9, 7, 10.0)) == whole


@given(samples=st.lists(st.integers(-32768, 32767), min_size=1, max_size=60), bins=st.integers(1, 80))
def test_envelope_equals_the_slow_one(samples: list[int], bins: int) -> None:
    low, high = envelope(np.array(samples, np.int16), bins)
    slow_low, slow_high = slow_envelope(samples, bins)
    assert len(low) == len(high) == bins
    assert low == slow_low
    assert high == slow_high


def test_full_scale_is_127() -> None:
    assert envelope(np.array([-32768, 32767], np.int16), 1) == ([-127], [127])
