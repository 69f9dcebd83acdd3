"""Frames at instants and audio windows, against decoding everything in order and against what was encoded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmmixer.config import ClipSettings
from cmmixer.errors import MediaError
from cmmixer.media.audio import loudness_dbfs
from cmmixer.media.container import TimedFrame
from cmmixer.media.decode import AudioStreamInfo, MediaFile, VideoStreamInfo, read_clip
from cmmixer.media.encode import write_audio
from cmmixer.types import Span
from tests.reference.decode_slow import frames_on_screen, whole_audio
from tests.support.counting_videos import counting_pixels, number_of, tone, write

CLIP = ClipSettings(frames=4, height=32, width=32, clip_seconds=4.0, window_seconds=0.5, sample_rate_hz=8000)
CONTAINERS = ["mp4", "mkv", "mov", "avi", "ts"]


@pytest.mark.parametrize("ending", CONTAINERS)
def test_frames_are_those_of_decoding_everything(tmp_path: Path, ending: str) -> None:
    # AVI has no place for the timestamps of H.264's reordered frames.
    codec = "mpeg4" if ending == "avi" else "libx264"
    path = write(tmp_path / f"video.{ending}", pixels=counting_pixels(50), keys=12, codecs=(codec, "aac"))
    instants = [0.0, 0.049, 0.1, 2.449, 4.95, 1.3, 1.31, 3.0]
    slow = frames_on_screen(path, instants)
    with MediaFile.open(path) as media:
        frames = media.frames(instants, 48, 64)
    assert frames.pixels_THWC.shape == (8, 48, 64, 3)
    assert frames.times_seconds_T.tolist() == instants
    for ours, theirs in zip(frames.pixels_THWC, slow, strict=True):
        assert number_of(ours) == number_of(theirs)
        np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=2)


def test_the_last_frame_to_begin_is_on_screen(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(40), fps=10)
    with MediaFile.open(path) as media:
        pixels = media.frames([0.0, 0.09, 0.1, 0.1999, 0.2, 3.9, 100.0], 16, 16).pixels_THWC
    assert [number_of(image) for image in pixels] == [0, 0, 1, 1, 2, 39 % 28, 39 % 28]


def test_variable_frame_rate_follows_timestamps(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 2.0, 2.05, 5.5]
    path = write(tmp_path / "video.mkv", pixels=counting_pixels(6), times=times, keys=3)
    with MediaFile.open(path) as media:
        pixels = media.frames([0.12, 1.99, 2.0, 2.04, 5.0, 5.6], 16, 16).pixels_THWC
    assert [number_of(image) for image in pixels] == [1, 2, 3, 3, 4, 5]


def test_a_late_instant_is_reached_by_seeking(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(400, 16, 16), keys=10)
    with MediaFile.open(path) as media:
        decoded = 0
        assert media._video is not None
        original = media._video._decode

        def counted():  # type: ignore[no-untyped-def]
            nonlocal decoded
            for frame in original():
                decoded += 1
                yield frame

        media._video._decode = counted  # type: ignore[method-assign]
        pixels = media.frames([37.05, 37.5, 10.01], 16, 16).pixels_THWC
    assert [number_of(image) for image in pixels] == [370 % 28, 375 % 28, 100 % 28]
    assert decoded < 40


@pytest.mark.parametrize(("turn", "corner"), [(None, "left"), (90.0, "bottom"), (180.0, "right"), (-90.0, "top")])
def test_rotation_is_applied(tmp_path: Path, turn: float | None, corner: str) -> None:
    pixels = np.zeros((3, 32, 64, 3), np.uint8)
    pixels[:, :, :16] = 255  # the left edge is white
    path = write(tmp_path / "video.mp4", pixels=pixels, turn=turn)
    shape = (64, 32) if turn in (90.0, -90.0) else (32, 64)
    with MediaFile.open(path) as media:
        image = media.frames([0.0], *shape).pixels_THWC[0].mean(axis=2)
    edges = {"left": image[:, :8], "right": image[:, -8:], "top": image[:8], "bottom": image[-8:]}
    means = {name: float(edge.mean()) for name, edge in edges.items()}
    assert means[corner] > 230
    assert means[{"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[corner]] < 20


def test_non_square_pixels_are_made_square(tmp_path: Path) -> None:
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    pixels[:, :, 8:24] = 255  # the middle half
    path = write(tmp_path / "video.mp4", pixels=pixels, aspect=Fraction(2, 1))
    with MediaFile.open(path) as media:
        assert media.info.video is not None
        assert media.info.video.pixel_aspect == 2.0
        square = media.frames([0.0], 32, 32).pixels_THWC[0].mean(axis=2)
        wide = media.frames([0.0], 32, 64).pixels_THWC[0].mean(axis=2)
    # Displayed 64 wide, a square crop keeps exactly the white middle.
    assert square[:, 2:-2].min() > 220
    assert wide[:, 20:44].min() > 220
    assert wide[:, :12].max() < 30


@pytest.mark.parametrize(("crop", "bright"), [((0.5, 0.0), True), ((0.5, 1.0), False)])
def test_crop_offset(tmp_path: Path, crop: tuple[float, float], bright: bool) -> None:
    pixels = np.zeros((3, 32, 96, 3), np.uint8)
    pixels[:, :, :32] = 255
    path = write(tmp_path / "video.mp4", pixels=pixels)
    with MediaFile.open(path) as media:
        image = media.frames([0.0], 32, 32, crop=crop).pixels_THWC[0]
    assert (image[:, 2:-2].min() > 230) if bright else (image.max() < 30)


def test_extreme_pixel_shapes_stay_within_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(2, 32, 32), aspect=Fraction(20000, 1))
    with MediaFile.open(path) as media:
        assert number_of(media.frames([0.1], 224, 224).pixels_THWC[0]) == 1


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "wav", "flac", "ogg", "mp3"])
def test_audio_windows_are_parts_of_the_whole(tmp_path: Path, ending: str) -> None:
    codec = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "mp3": "libmp3lame"}.get(ending, "aac")
    rate = 48000 if ending == "ogg" else 22050
    noise = np.random.default_rng(0).normal(0, 4000, 5 * rate)
    samples = np.convolve(noise, np.ones(8) / 8, "same").astype(np.int16)
    path = write(tmp_path / f"sound.{ending}", samples=samples, rate=rate, codecs=("", codec))
    whole, own_rate = whole_audio(path, 5.0)
    assert own_rate == rate
    with MediaFile.open(path) as media:
        assert media.info.video is None
        windows = media.audio_windows([4.5, 0.3, 2.0], 0.6, rate).samples_TN
    assert windows.shape == (3, round(0.6 * rate))
    for window, center in zip(windows, [4.5, 0.3, 2.0], strict=True):
        first = round((center - 0.3) * rate)
        expected = whole[first : first + len(window)] * 32768
        # Lossy codecs need a moment after a seek; Matroska rounds timestamps to a millisecond.
        shifts = [0] if ending != "mkv" else range(-23, 24)
        errors = [np.abs(np.roll(window, shift)[30:-30] - expected[30:-30]).max() for shift in shifts]
        assert min(errors) <= 1.01


def test_resampled_windows_do_not_depend_on_where_decoding_began(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "sound.wav"
    write_audio(path, rng.normal(0, 4000, 44100 * 6).astype(np.int16), 44100)
    with MediaFile.open(path) as media:
        whole = media.audio_windows([3.0], 6.0, 16000).samples_TN[0]
        for center in (1.0, 2.3456, 5.0001):
            window = media.audio_windows([center], 1.0, 16000).samples_TN[0]
            first = round((center - 0.5) * 16000)
            np.testing.assert_array_equal(window[: 96000 - first], whole[first : first + 16000])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_tone_stays_in_place_and_in_tune(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    write_audio(path, tone(3.0, 48000, 440.0), 48000)
    with MediaFile.open(path) as media:
        window = media.audio_windows([1.5], 1.0, rate).samples_TN[0]
    times = 1.0 + np.arange(rate) / rate
    np.testing.assert_allclose(window, 12000 * np.sin(2 * np.pi * 440 * times), atol=12)


def test_windows_are_zero_beyond_the_video(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    write_audio(path, tone(1.0, 8000), 8000)
    with MediaFile.open(path) as media:
        windows = media.audio_windows([0.0, 1.0, 50.0, 0.5], 1.0, 8000).samples_TN
    expected = tone(1.0, 8000)
    np.testing.assert_array_equal(windows[0], np.concatenate([np.zeros(4000, np.int16), expected[:4000]]))
    np.testing.assert_array_equal(windows[1], np.concatenate([expected[4000:], np.zeros(4000, np.int16)]))
    assert not windows[2].any()
    np.testing.assert_array_equal(windows[3], expected)


def test_late_audio_is_not_shifted(tmp_path: Path) -> None:
    pixels, samples = counting_pixels(40), tone(2.0, 16000)
    path = write(
        tmp_path / "video.mkv", pixels=pixels, samples=samples, audio_start_seconds=2.0, codecs=("libx264", "flac")
    )
    with MediaFile.open(path) as media:
        window = media.audio_windows([2.0], 4.0, 16000).samples_TN[0]
    assert not window[:31900].any()
    assert loudness_dbfs(window[32100:]) == pytest.approx(20 * math.log10(12000 / 32768 / math.sqrt(2)), abs=0.1)
    assert np.flatnonzero(window)[0] == pytest.approx(32000, abs=20)


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_mixdown_keeps_the_loudness_of_equal_channels(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path / "video.mkv", samples=tone(1.0, 48000), rate=48000, layout=layout, codecs=("", "pcm_s16le"))
    with MediaFile.open(path) as media:
        window = media.audio_windows([0.5], 0.5, 48000).samples_TN[0]
    assert np.abs(window).max() == pytest.approx(12000, rel=0.01)


def test_read_clip_with_both_modalities(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(60), samples=tone(6.0, 16000))
    clip = read_clip(path, Span(1.0, 5.0), CLIP, id="video#1-5", source="video", label="counting")
    assert (clip.id, clip.source, clip.label, clip.span) == ("video#1-5", "video", "counting", Span(1.0, 5.0))
    assert clip.frames is not None
    assert [number_of(image) for image in clip.frames.pixels_THWC] == [15, 25, 35 % 28, 45 % 28]
    assert clip.sound is not None
    assert clip.sound.samples_TN.shape == (4, 4000)
    assert clip.sound.centres_seconds_T.tolist() == [1.5, 2.5, 3.5, 4.5]


def test_read_clip_with_audio_from_another_file(tmp_path: Path) -> None:
    video = write(tmp_path / "silent.mp4", pixels=counting_pixels(40))
    write_audio(tmp_path / "sound.wav", tone(4.0, 8000), 8000)
    clip = read_clip(video, Span(0, 4), CLIP, id="x", source="x", audio_path=tmp_path / "sound.wav")
    assert clip.sound is not None
    np.testing.assert_array_equal(clip.sound.samples_TN[1], tone(4.0, 8000)[10000:14000])
    only = read_clip(video, Span(0, 4), CLIP, id="x", source="x", audio=False)
    assert only.sound is None
    assert only.frames is not None


def test_a_missing_stream_is_reported(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4", pixels=counting_pixels(10))
    write_audio(tmp_path / "sound.wav", tone(1.0, 8000), 8000)
    with MediaFile.open(silent) as media, pytest.raises(MediaError, match="has no audio stream, only video") as caught:
        media.audio_windows([0.5], 0.5, 8000)
    assert caught.value.reason == "no-audio"
    with (
        MediaFile.open(tmp_path / "sound.wav") as media,
        pytest.raises(MediaError, match="has no video stream, only audio") as caught,
    ):
        media.frames([0.5], 8, 8)
    assert caught.value.reason == "no-video"


def test_info_of_a_video(tmp_path: Path) -> None:
    path = write(
        tmp_path / "video.mkv", pixels=counting_pixels(20), samples=tone(2.0, 22050), rate=22050, layout="stereo"
    )
    with MediaFile.open(path) as media:
        info = media.info
    assert info.path == str(path)
    assert info.container == "matroska,webm"
    assert info.video == VideoStreamInfo(64, 48, 1.0, 10.0, "h264", "yuv420p")
    assert info.audio == AudioStreamInfo(22050, 2, "aac")
    assert info.duration_seconds == pytest.approx(2.0, abs=0.1)


def test_a_still_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(counting_pixels(4)[3]).save(tmp_path / "image.png")
    with MediaFile.open(tmp_path / "image.png") as media:
        assert media.info.audio is None
        assert [number_of(image) for image in media.frames([0.0, 5.0], 48, 64).pixels_THWC] == [3, 3]


def test_no_instants_give_no_frames_and_no_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(5), samples=tone(0.5, 16000))
    with MediaFile.open(path) as media:
        assert media.frames([], 8, 8).pixels_THWC.shape == (0, 8, 8, 3)
        assert media.audio_windows([], 0.5, 8000).samples_TN.shape == (0, 4000)


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.04, 0), (0.1, 1), (0.75, 7), (1.9, 19), (100.0, 19)])
def test_video_frames_begin_with_the_one_on_screen(tmp_path: Path, start: float, first: int) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(20))
    with MediaFile.open(path) as media:
        seconds = [timed.seconds for timed in media.video_frames_from(start)]
    np.testing.assert_allclose(seconds, np.arange(first, 20) / 10, atol=1e-6)


def test_audio_frames_begin_early_enough_for_the_codec_to_settle(tmp_path: Path) -> None:
    path = write(tmp_path / "sound.mp4", samples=tone(4.0, 16000), codecs=("", "aac"))
    with MediaFile.open(path) as media:
        begins = [timed.seconds for timed in media.audio_frames_from(3.0)]
    assert 3.0 - 0.25 - 0.2 < begins[0] <= 3.0 - 0.25
    assert begins[-1] > 3.8


def windows_in_passes(centers: list[float], window_seconds: float, path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the audio is read for these windows."""
    passes = 0
    original = MediaFile.audio_frames_from

    def counted(self: MediaFile, start_seconds: float) -> Iterator[TimedFrame]:
        nonlocal passes
        passes += 1
        return original(self, start_seconds)

    monkeypatch.setattr(MediaFile, "audio_frames_from", counted)
    with MediaFile.open(path) as media:
        windows = media.audio_windows(centers, window_seconds, 8000).samples_TN
    monkeypatch.setattr(MediaFile, "audio_frames_from", original)
    with MediaFile.open(path) as media:
        for center, window in zip(centers, windows, strict=True):
            np.testing.assert_array_equal(media.audio_windows([center], window_seconds, 8000).samples_TN[0], window)
    return passes


@pytest.mark.parametrize(
    ("centers", "passes"),
    [([1.0, 1.5, 2.0], 1), ([2.0, 1.0, 1.5], 1), ([1.0, 2.4], 1), ([1.0, 2.6], 2), ([5.0, 1.0, 3.0], 3)],
)
def test_windows_close_together_share_one_pass(
    tmp_path: Path, centers: list[float], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 4000, 48000).astype(np.int16), 8000)
    assert windows_in_passes(centers, 0.5, tmp_path / "a.wav", monkeypatch) == passes


def test_read_clip_of_one_modality_opens_only_what_it_needs(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(40))
    write_audio(tmp_path / "sound.wav", tone(4.0, 8000), 8000)
    missing = tmp_path / "missing.mp4"
    heard = read_clip(missing, Span(0, 4), CLIP, id="x", source="x", audio_path=tmp_path / "sound.wav", video=False)
    assert heard.frames is None
    seen = read_clip(path, Span(0, 4), CLIP, id="x", source="x", audio_path=missing, audio=False)
    assert seen.frames is not None
    with pytest.raises(MediaError, match=r"missing.mp4: no such file$"):
        read_clip(path, Span(0, 4), CLIP, id="x", source="x", audio_path=missing)


@pytest.mark.parametrize(
    ("kind", "reason", "message"),
    [
        ("missing", "missing", "no such file"),
        ("directory", "not-a-file", "is a directory, not a media file"),
        ("pipe", "not-a-file", "is a device or pipe, not a media file"),
        ("dangling", "not-a-file", "is a link that leads nowhere"),
        ("loop", "not-a-file", "is a link that leads nowhere"),
        ("empty", "empty", "has zero bytes"),
        ("text", "unreadable", "cannot be decoded: Invalid data found when processing input"),
        ("list", "unreadable", "is a playlist of other files"),
    ],
)
def test_bad_paths_are_refused_in_one_line(tmp_path: Path, kind: str, reason: str, message: str) -> None:
    path = tmp_path / "video.mp4"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("dangling", "loop"):
        path.symlink_to(tmp_path / "nothing" if kind == "dangling" else path)
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is not a video\n" * 50)
    elif kind == "list":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/video.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError) as caught:
        MediaFile.open(path)
    assert caught.value.reason == reason
    assert message in caught.value.message
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def test_decoding_stops_at_the_time_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(400), keys=400)
    with (
        MediaFile.open(path, file_seconds=0.001) as media,
        pytest.raises(MediaError, match=r"took longer than 0\.001 s") as caught,
    ):
        media.frames([39.0], 8, 8)
    assert caught.value.reason == "time-limit"


def test_a_truncated_file_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mkv", pixels=counting_pixels(28), keys=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    with MediaFile.open(path) as media:
        numbers = [number_of(image) for image in media.frames([0.0, 0.55, 2.7], 16, 16).pixels_THWC]
    assert numbers[:2] == [0, 5]
    assert 7 < numbers[2] < 26


def test_stderr_stays_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "video.mp4", pixels=counting_pixels(40), samples=tone(4.0, 16000))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3 : len(damaged) // 3 + 200] = os.urandom(200)
    path.write_bytes(bytes(damaged))
    try:
        with MediaFile.open(path) as media:
            media.frames([0.5, 3.5], 16, 16)
            media.audio_windows([2.0], 2.0, 8000)
    except MediaError:
        pass
    assert capfd.readouterr() == ("", "")
