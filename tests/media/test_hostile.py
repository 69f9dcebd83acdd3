"""Other people's files: each is used or refused with a reason, in time, and some must give exactly what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmmixer.errors import MediaError
from cmmixer.media.decode import Film, loudness_dbfs
from cmmixer.media.sandbox import map_isolated
from tests.reference.decode_slow import frames_on_screen
from tests.support.sandbox_jobs import probe

HOSTILE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "hostile"
MADE = HOSTILE / "made"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not HOSTILE.is_dir(), reason="the films of ../shared/data are not here"),
]

REFUSED = {
    "zero.mp4": ("empty", "has zero bytes"),
    "directory.mp4": ("not-a-file", "is a directory, not a media file"),
    "trunc_half_moov_end.mp4": ("unreadable", "cannot be decoded: Invalid data found when processing input"),
    "header_only.mp4": ("unreadable", "cannot be decoded: Invalid data found when processing input"),
    "garbage.mp4": ("unreadable", "cannot be decoded: Invalid data found when processing input"),
    "text.mp4": ("unreadable", "cannot be decoded: Invalid data found when processing input"),
    "html_404.mp4": ("unreadable", "cannot be decoded: Invalid data found when processing input"),
    "lfs_pointer.mp4": ("unreadable", "cannot be decoded: Invalid data found when processing input"),
    "bad_moov.mp4": ("unreadable", "has neither a picture nor a sound that can be decoded"),
}


def test_every_hostile_file_is_used_or_refused() -> None:
    files = sorted(str(path) for folder in ("made", "real") for path in (HOSTILE / folder).iterdir())
    assert len(files) > 300
    used = 0
    for path, answer in map_isolated(probe, files, workers=2, seconds_each=30.0):
        if isinstance(answer, MediaError):
            assert answer.reason in ("unreadable", "empty", "not-a-file"), str(answer)
            assert answer.path == path
            assert "\n" not in answer.message
        else:
            assert set(answer) <= {None, "used", "unreadable"}, path
            used += "used" in answer
    assert used >= 250


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name: str) -> None:
    with pytest.raises(MediaError) as told:
        Film.open(MADE / name)
    assert (told.value.reason, told.value.message) == REFUSED[name]


@pytest.mark.parametrize("path", sorted({path.name for path in MADE.glob("*")} - set(REFUSED)))
def test_made_files_have_picture_and_sound_unless_they_say_otherwise(path: str) -> None:
    with Film.open(MADE / path) as film:
        assert (film.info.picture is None) == (path in ("no_video.mp4", "no_video.mp3", "cover_art.mp4"))
        assert (film.info.sound is None) == (path in ("no_audio.mp4", "anim.gif"))
        assert 0 < film.info.duration_seconds < 31


@pytest.mark.parametrize(
    "name",
    [
        "vfr.mp4",
        "fps1.mp4",
        "fps120.mp4",
        "gop_open_long.mp4",
        "start_offset_1h.ts",
        "mpeg2.ts",
        "mpeg1.mpg",
        "flv1.flv",
        "vp9_opus.webm",
        "theora.ogv",
        "wmv2.wmv",
        "mpeg4.avi",
        "frag.mp4",
        "interlaced.mp4",
        "hevc10.mp4",
        "gray.mp4",
    ],
)
def test_frames_are_those_of_decoding_everything(name: str) -> None:
    with Film.open(MADE / name) as film:
        instants = [film.info.duration_seconds * part for part in (0.0, 0.31, 0.33, 0.62, 0.97)]
        ours = film.frames(instants, 180, 320).pixels_THWC
    for seen, expected in zip(ours, frames_on_screen(MADE / name, instants), strict=True):
        assert np.abs(seen.astype(int) - expected.astype(int)).mean() < 2.0


def test_a_turned_film_is_turned_back() -> None:
    with Film.open(MADE / "_base.mp4") as film:
        upright = film.frames([2.0], 180, 320).pixels_THWC[0]
    with Film.open(MADE / "rot90.mp4") as film:
        turned = film.frames([2.0], 320, 180).pixels_THWC[0]
    assert np.abs(turned.astype(int) - np.rot90(upright).astype(int)).mean() < 1.0


def test_an_hour_of_offset_is_no_time() -> None:
    with Film.open(MADE / "_base.mp4") as film:
        plain = film.sound_windows([3.0], 1.0, 16000).samples_TN[0].astype(int)
    with Film.open(MADE / "start_offset_1h.ts") as film:
        assert film.info.duration_seconds == pytest.approx(6.02, abs=0.05)
        shifted = film.sound_windows([3.0], 1.2, 16000).samples_TN[0].astype(int)
    errors = [np.abs(shifted[k : k + 16000] - plain).mean() for k in range(3200)]
    # Priming samples of its codec are kept in a transport stream: the sound lies 23 ms later there.
    assert min(errors) < 0.2 * np.abs(plain).mean()
    assert abs(int(np.argmin(errors)) - 1600) <= 0.03 * 16000


def test_late_sound_stays_late() -> None:
    with Film.open(MADE / "audio_delay2s.mkv") as film:
        window = film.sound_windows([2.0], 4.0, 16000).samples_TN[0]
    assert not window[: round(1.9 * 16000)].any()
    assert loudness_dbfs(window[33000:]) > -60


def test_late_picture_shows_its_first_frame_until_then() -> None:
    with Film.open(MADE / "video_delay2s.mkv") as film:
        pixels = film.frames([0.0, 1.9, 2.03], 32, 32).pixels_THWC
    assert np.array_equal(pixels[0], pixels[1])
    assert np.array_equal(pixels[0], pixels[2])


def test_silence_and_noise_are_heard_as_such() -> None:
    with Film.open(MADE / "silent_audio.mp4") as film:
        assert loudness_dbfs(film.sound_windows([3.0], 2.0, 16000).samples_TN[0]) < -90
    with Film.open(MADE / "black_white_noise.mp4") as film:
        assert loudness_dbfs(film.sound_windows([2.0], 2.0, 16000).samples_TN[0]) > -20
        assert film.frames([1.0], 16, 16).pixels_THWC.max() < 3


def test_pixels_twice_as_wide_show_the_same_scene_wider() -> None:
    with Film.open(MADE / "sar_2_1.mp4") as film:
        assert film.info.picture is not None
        assert film.info.picture.pixel_aspect == 2.0
        square = film.frames([2.0], 90, 90).pixels_THWC[0].astype(int)
        everything = film.frames([2.0], 90, 320).pixels_THWC[0].astype(int)
    assert np.abs(square - everything[:, 115:205]).mean() < 3


@pytest.mark.parametrize(("name", "stored"), [("wide_4096x64.mp4", (64, 4096)), ("tall_64x2048.mp4", (2048, 64))])
def test_extreme_shapes_show_the_scene(name: str, stored: tuple[int, int]) -> None:
    with Film.open(MADE / name) as film:
        assert film.info.picture is not None
        assert (film.info.picture.height, film.info.picture.width) == stored
        seen = film.frames([0.5], 45, 80).pixels_THWC[0].astype(int)
    with Film.open(MADE / "_base.mp4") as film:
        expected = film.frames([0.5], 45, 80).pixels_THWC[0].astype(int)
    assert np.abs(seen - expected).mean() < 14


@pytest.mark.parametrize("name", ["ch_mono.mp4", "ch_5.1.mp4", "ch_7.1.mp4", "opus51.mkv", "sr_8000.mp4", "alac.mov"])
def test_layouts_and_rates_sound_alike(name: str) -> None:
    with Film.open(MADE / "_base.mp4") as film:
        plain = film.sound_windows([4.0], 2.0, 16000).samples_TN[0]
    with Film.open(MADE / name) as film:
        other = film.sound_windows([4.0], 2.0, 16000).samples_TN[0]
    # Mixed down so that all channels together never clip: silent channels cost up to 10 dB.
    assert -11 < loudness_dbfs(other) - loudness_dbfs(plain) < 4
    loudest = np.abs(np.fft.rfft(plain.astype(float)))[:4000].argmax()
    assert abs(int(np.abs(np.fft.rfft(other.astype(float)))[:4000].argmax()) - int(loudest)) <= 4


def test_what_was_cut_off_is_not_promised() -> None:
    with Film.open(MADE / "trunc_half_moov_first.mp4") as film:
        assert film.info.duration_seconds == pytest.approx(2.9, abs=0.1)
        assert loudness_dbfs(film.sound_windows([2.0], 1.0, 16000).samples_TN[0]) > -60


def test_a_header_that_lies_about_its_length_is_not_believed() -> None:
    with Film.open(HOSTILE / "real" / "mutagen__vbri.mp3") as film:
        assert film.info.duration_seconds < 1.0
