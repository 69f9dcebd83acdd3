"""Files that were written are read back."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cmmixer.media.decode import MediaFile
from cmmixer.media.encode import write_audio, write_video
from tests.support.counting_videos import counting_pixels, number_of, tone


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
def test_write_video_round_trip(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "video.mp4"
    samples = tone(2.0, 16000)
    write_video(path, counting_pixels(25, *size), 12.5, samples, 16000)
    with MediaFile.open(path) as media:
        assert media.info.duration_seconds == pytest.approx(2.0, abs=0.07)
        assert media.info.video is not None
        assert (media.info.video.codec, media.info.video.height, media.info.video.width) == ("h264", *size)
        assert media.info.video.frames_per_second == pytest.approx(12.5)
        assert media.info.audio is not None
        assert (media.info.audio.codec, media.info.audio.channels, media.info.audio.sample_rate_hz) == ("aac", 1, 16000)
        pixels = media.frames((np.arange(25) + 0.5) / 12.5, *size).pixels_THWC
        window = media.audio_windows([1.0], 2.0, 16000).samples_TN[0]
    assert [number_of(image) for image in pixels] == list(range(25))
    assert np.abs(window[200:-200].astype(int) - samples[200:-200]).mean() < 60


def test_write_video_without_audio(tmp_path: Path) -> None:
    write_video(tmp_path / "video.mp4", counting_pixels(5), 10.0)
    with MediaFile.open(tmp_path / "video.mp4") as media:
        assert media.info.audio is None


def test_write_audio_is_exact(tmp_path: Path) -> None:
    write_audio(tmp_path / "tone.wav", tone(1.0, 22050), 22050)
    with wave.open(str(tmp_path / "tone.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, 22050, 2)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(22050), "<i2"), tone(1.0, 22050))


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError)):
        write_video(tmp_path / "video.mp4", counting_pixels(5), 10.0, tone(1.0, 16000), 12345)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pixels", "samples", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), None, r"pixels must be uint8 \(T, H, W, 3\); got uint8 \(2, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), None, "pixels must be"),
        (np.zeros((2, 8, 8, 3), np.float32), None, "got float32"),
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            np.zeros((5, 2), np.int16),
            r"samples must be int16 \(N,\); got int16 \(5, 2\)",
        ),
    ],
)
def test_write_video_refuses_other_shapes(
    tmp_path: Path, pixels: NDArray[Any], samples: NDArray[Any] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "video.mp4", pixels, 10.0, samples)
    assert list(tmp_path.iterdir()) == []


def test_write_audio_refuses_other_types(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples must be int16"):
        write_audio(tmp_path / "x.wav", np.zeros(5, np.float32), 8000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "pixel_format"), [((48, 64), "yuv420p"), ((33, 64), "yuv444p"), ((48, 47), "yuv444p")]
)
def test_odd_sides_are_stored_with_full_chroma(tmp_path: Path, size: tuple[int, int], pixel_format: str) -> None:
    write_video(tmp_path / "video.mp4", counting_pixels(2, *size), 10.0)
    with MediaFile.open(tmp_path / "video.mp4") as media:
        assert media.info.video is not None
        assert (media.info.video.height, media.info.video.width) == size
        assert media.info.video.pixel_format == pixel_format


@pytest.mark.parametrize("fps", [29.97, 23.976, 0.5, 60.0])
def test_frame_rates(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "video.mp4", counting_pixels(6, 16, 16), fps)
    with MediaFile.open(tmp_path / "video.mp4") as media:
        assert media.info.video is not None
        assert media.info.video.frames_per_second == pytest.approx(fps, rel=1e-3)
        assert media.info.duration_seconds == pytest.approx(6 / fps, rel=0.02)


def test_an_existing_file_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"yesterday's")
    with pytest.raises((ValueError, OSError)):
        write_video(path, counting_pixels(5), 10.0, tone(1.0, 16000), 12345)
    assert path.read_bytes() == b"yesterday's"
    write_video(path, counting_pixels(5), 10.0)
    with MediaFile.open(path) as media:
        assert media.info.duration_seconds == pytest.approx(0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        write_video(tmp_path / "missing" / "a.mp4", counting_pixels(2), 10.0)


def test_colors_survive_the_codec(tmp_path: Path) -> None:
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    pixels[0], pixels[1], pixels[2] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    write_video(tmp_path / "video.mp4", pixels, 10.0)
    with MediaFile.open(tmp_path / "video.mp4") as media:
        decoded = media.frames([0.05, 0.15, 0.25], 32, 32).pixels_THWC
    np.testing.assert_allclose(decoded.mean(axis=(1, 2)), pixels.mean(axis=(1, 2)), atol=6)
