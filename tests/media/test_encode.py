"""What is written is what is read back."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from cmmixer.media.decode import Film
from cmmixer.media.encode import write_film, write_sound
from tests.support.counting_videos import counting_pixels, number_of, tone


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
def test_a_film_comes_back(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "film.mp4"
    sound = tone(2.0, 16000)
    write_film(path, counting_pixels(25, *size), 12.5, sound, 16000)
    with Film.open(path) as film:
        assert film.info.duration_seconds == pytest.approx(2.0, abs=0.07)
        assert film.info.picture is not None
        assert (film.info.picture.codec, film.info.picture.height, film.info.picture.width) == ("h264", *size)
        assert film.info.picture.frames_per_second == pytest.approx(12.5)
        assert film.info.sound is not None
        assert (film.info.sound.codec, film.info.sound.channels, film.info.sound.sample_rate_hz) == ("aac", 1, 16000)
        pixels = film.frames((np.arange(25) + 0.5) / 12.5, *size).pixels_THWC
        window = film.sound_windows([1.0], 2.0, 16000).samples_TN[0]
    assert [number_of(image) for image in pixels] == list(range(25))
    assert np.abs(window[200:-200].astype(int) - sound[200:-200]).mean() < 60


def test_a_silent_film(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", counting_pixels(5), 10.0)
    with Film.open(tmp_path / "film.mp4") as film:
        assert film.info.sound is None


def test_a_wav_is_exact(tmp_path: Path) -> None:
    write_sound(tmp_path / "tone.wav", tone(1.0, 22050), 22050)
    with wave.open(str(tmp_path / "tone.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getsampwidth()) == (1, 22050, 2)
        np.testing.assert_array_equal(np.frombuffer(sound.readframes(22050), "<i2"), tone(1.0, 22050))


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError)):
        write_film(tmp_path / "film.mp4", counting_pixels(5), 10.0, tone(1.0, 16000), 12345)
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
def test_other_shapes_are_refused(tmp_path: Path, pixels, samples, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        write_film(tmp_path / "film.mp4", pixels, 10.0, samples)
    assert list(tmp_path.iterdir()) == []


def test_a_sound_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples must be int16"):
        write_sound(tmp_path / "x.wav", np.zeros(5, np.float32), 8000)  # type: ignore[arg-type]
