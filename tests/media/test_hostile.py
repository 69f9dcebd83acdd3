"""Damaged and unusual files: each is used or refused with a reason, in time, and some must decode to known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmmixer.errors import MediaError
from cmmixer.media.audio import loudness_dbfs
from cmmixer.media.decode import MediaFile
from cmmixer.media.sandbox import map_sandboxed
from tests.reference.decode_slow import frames_on_screen
from tests.support.sandbox_jobs import probe

HOSTILE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "hostile"
MADE = HOSTILE / "made"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not HOSTILE.is_dir(), reason="the videos of ../shared/data are not here"),
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
    "bad_moov.mp4": ("unreadable", "has neither video nor audio that can be decoded"),
}


def test_every_hostile_file_is_used_or_refused() -> None:
    files = sorted(str(path) for folder in ("made", "real") for path in (HOSTILE / folder).iterdir())
    assert len(files) > 300
    used = 0
    for path, answer in map_sandboxed(probe, files, workers=2, seconds_each=30.0):
        if isinstance(answer, MediaError):
            assert answer.reason in ("unreadable", "empty", "not-a-file"), str(answer)
            assert answer.path == path
            assert "\n" not in answer.message
        else:
            assert set(answer) <= {None, "used", "unreadable"}, path
            used += "used" in answer
    assert used >= 250


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_unreadable_files_are_refused(name: str) -> None:
    with pytest.raises(MediaError) as caught:
        MediaFile.open(MADE / name)
    assert (caught.value.reason, caught.value.message) == REFUSED[name]


@pytest.mark.parametrize("path", sorted({path.name for path in MADE.glob("*")} - set(REFUSED)))
def test_made_files_have_both_streams_unless_named_otherwise(path: str) -> None:
    with MediaFile.open(MADE / path) as media:
        assert (media.info.video is None) == (path in ("no_video.mp4", "no_video.mp3", "cover_art.mp4"))
        assert (media.info.audio is None) == (path in ("no_audio.mp4", "anim.gif"))
        assert 0 < media.info.duration_seconds < 31


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
def test_frames_of_unusual_formats(name: str) -> None:
    with MediaFile.open(MADE / name) as media:
        instants = [media.info.duration_seconds * part for part in (0.0, 0.31, 0.33, 0.62, 0.97)]
        ours = media.frames(instants, 180, 320).pixels_THWC
    for seen, expected in zip(ours, frames_on_screen(MADE / name, instants), strict=True):
        assert np.abs(seen.astype(int) - expected.astype(int)).mean() < 2.0


def test_a_rotated_video_is_rotated_back() -> None:
    with MediaFile.open(MADE / "_base.mp4") as media:
        upright = media.frames([2.0], 180, 320).pixels_THWC[0]
    with MediaFile.open(MADE / "rot90.mp4") as media:
        turned = media.frames([2.0], 320, 180).pixels_THWC[0]
    assert np.abs(turned.astype(int) - np.rot90(upright).astype(int)).mean() < 1.0


def test_a_start_offset_of_an_hour_is_removed() -> None:
    with MediaFile.open(MADE / "_base.mp4") as media:
        plain = media.audio_windows([3.0], 1.0, 16000).samples_TN[0].astype(int)
    with MediaFile.open(MADE / "start_offset_1h.ts") as media:
        assert media.info.duration_seconds == pytest.approx(6.02, abs=0.05)
        shifted = media.audio_windows([3.0], 1.2, 16000).samples_TN[0].astype(int)
    errors = [np.abs(shifted[k : k + 16000] - plain).mean() for k in range(3200)]
    # Priming samples of its codec are kept in a transport stream: its audio lies 23 ms later.
    assert min(errors) < 0.2 * np.abs(plain).mean()
    assert abs(int(np.argmin(errors)) - 1600) <= 0.03 * 16000


def test_delayed_audio_stays_delayed() -> None:
    with MediaFile.open(MADE / "audio_delay2s.mkv") as media:
        window = media.audio_windows([2.0], 4.0, 16000).samples_TN[0]
    assert not window[: round(1.9 * 16000)].any()
    assert loudness_dbfs(window[33000:]) > -60


def test_delayed_video_shows_its_first_frame_until_then() -> None:
    with MediaFile.open(MADE / "video_delay2s.mkv") as media:
        pixels = media.frames([0.0, 1.9, 2.03], 32, 32).pixels_THWC
    assert np.array_equal(pixels[0], pixels[1])
    assert np.array_equal(pixels[0], pixels[2])


def test_silence_and_noise_are_distinguished() -> None:
    with MediaFile.open(MADE / "silent_audio.mp4") as media:
        assert loudness_dbfs(media.audio_windows([3.0], 2.0, 16000).samples_TN[0]) < -90
    with MediaFile.open(MADE / "black_white_noise.mp4") as media:
        assert loudness_dbfs(media.audio_windows([2.0], 2.0, 16000).samples_TN[0]) > -20
        assert media.frames([1.0], 16, 16).pixels_THWC.max() < 3


def test_pixels_twice_as_wide() -> None:
    with MediaFile.open(MADE / "sar_2_1.mp4") as media:
        assert media.info.video is not None
        assert media.info.video.pixel_aspect == 2.0
        square = media.frames([2.0], 90, 90).pixels_THWC[0].astype(int)
        everything = media.frames([2.0], 90, 320).pixels_THWC[0].astype(int)
    assert np.abs(square - everything[:, 115:205]).mean() < 3


@pytest.mark.parametrize(("name", "stored"), [("wide_4096x64.mp4", (64, 4096)), ("tall_64x2048.mp4", (2048, 64))])
def test_extreme_frame_shapes(name: str, stored: tuple[int, int]) -> None:
    with MediaFile.open(MADE / name) as media:
        assert media.info.video is not None
        assert (media.info.video.height, media.info.video.width) == stored
        seen = media.frames([0.5], 45, 80).pixels_THWC[0].astype(int)
    with MediaFile.open(MADE / "_base.mp4") as media:
        expected = media.frames([0.5], 45, 80).pixels_THWC[0].astype(int)
    assert np.abs(seen - expected).mean() < 14


@pytest.mark.parametrize("name", ["ch_mono.mp4", "ch_5.1.mp4", "ch_7.1.mp4", "opus51.mkv", "sr_8000.mp4", "alac.mov"])
def test_channel_layouts_and_rates(name: str) -> None:
    with MediaFile.open(MADE / "_base.mp4") as media:
        plain = media.audio_windows([4.0], 2.0, 16000).samples_TN[0]
    with MediaFile.open(MADE / name) as media:
        other = media.audio_windows([4.0], 2.0, 16000).samples_TN[0]
    # Mixed down so that all channels together never clip: silent channels cost up to 10 dB.
    assert -11 < loudness_dbfs(other) - loudness_dbfs(plain) < 4
    loudest = np.abs(np.fft.rfft(plain.astype(float)))[:4000].argmax()
    assert abs(int(np.abs(np.fft.rfft(other.astype(float)))[:4000].argmax()) - int(loudest)) <= 4


def test_a_truncated_file_states_its_real_duration() -> None:
    with MediaFile.open(MADE / "trunc_half_moov_first.mp4") as media:
        assert media.info.duration_seconds == pytest.approx(2.9, abs=0.1)
        assert loudness_dbfs(media.audio_windows([2.0], 1.0, 16000).samples_TN[0]) > -60


def test_a_wrong_duration_in_the_header_is_ignored() -> None:
    with MediaFile.open(HOSTILE / "real" / "mutagen__vbri.mp3") as media:
        assert media.info.duration_seconds < 1.0
