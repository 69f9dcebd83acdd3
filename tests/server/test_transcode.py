"""Conversions: in sync, bounded in size and time, in the first format that FFmpeg can write."""

from __future__ import annotations

import errno
import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile, MediaInfo, VideoStreamInfo
from cmmixer.server import transcode
from cmmixer.server.playback import plays_in_browsers
from cmmixer.server.transcode import FORMATS, ConversionTask, convert, format_here
from tests.support.coloured_videos import BLUE, GREEN, RED
from tests.support.counting_videos import write
from tests.support.exotic_formats import exotic_sound, exotic_video, heard_tones, seen_colors
from tests.support.service import API, StartService, upload

STRIPES = [RED, GREEN, BLUE, GREEN]


def test_converted_audio_and_video_change_together(tmp_path: Path) -> None:
    """The change in the audio is located to the millisecond, so the delay of a codec would show."""
    path = exotic_video(tmp_path / "two.mkv", [RED, BLUE], "mkv")
    for output_format in FORMATS:
        out = tmp_path / f"out.{output_format.ending}"
        convert(ConversionTask(str(path), str(out), "video", 0.0, 60.0, 60.0, output_format))
        assert seen_colors(out, [0.95, 1.05]) == [0, 2]
        with MediaFile.open(out) as converted:
            samples = converted.audio_windows([1.0], 1.0, 48000).samples_TN[0].astype(float)
        time_N = np.arange(480) / 48000
        waves = np.exp(2j * np.pi * np.array([[400.0], [2500.0]]) * time_N)
        strength = np.abs(np.lib.stride_tricks.sliding_window_view(samples, 480) @ waves.T)
        change = 0.5 + (np.argmax(strength[:, 1] > strength[:, 0]) + 240) / 48000
        assert change == pytest.approx(1.0, abs=0.01), output_format.ending


def test_conversion_is_small_for_any_source(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 720, 1280, 3), dtype=np.uint8)
    path, out = write(tmp_path / "noise.mkv", pixels=noise, fps=60, codecs=("ffv1", "flac")), tmp_path / "out.mp4"
    convert(ConversionTask(str(path), str(out), "video", 0.0, 60.0, 60.0, FORMATS[0]))
    with MediaFile.open(out) as converted:
        assert converted.info.video is not None
        assert converted.info.video.width * converted.info.video.height <= 854 * 480
        assert converted.info.video.width / converted.info.video.height == pytest.approx(16 / 9, abs=0.02)
        assert len(list(converted.video_frames_from(0.0))) <= 11  # 30 a second of 60
    # The rate control of the encoder bounds the size, for noise too.
    assert out.stat().st_size < 1_000_000 < path.stat().st_size


def test_conversion_ends_early_near_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = exotic_video(tmp_path / "slow.avi", [RED] * 20, "avi"), tmp_path / "out.mp4"
    clock = itertools.count()
    monkeypatch.setattr(transcode.time, "monotonic", lambda: next(clock) * 0.1)
    convert(ConversionTask(str(path), str(out), "video", 0.0, 180.0, 40.0, FORMATS[0]))
    with MediaFile.open(out) as converted:
        assert 1.0 < converted.info.duration_seconds < 15.0


def test_webm_is_written_without_an_h264_encoder(
    start_service: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format_here.cache_clear()
    monkeypatch.setattr(transcode, "FORMATS", FORMATS[1:])
    try:
        client = start_service()
        query = upload(client, exotic_video(tmp_path / "a.avi", STRIPES, "avi"))["id"]
        response = client.get(client.get(f"{API}/queries/{query}/playback").json()["media"])
        assert response.headers["content-type"] == "video/webm"
        (tmp_path / "a.webm").write_bytes(response.content)
        with MediaFile.open(tmp_path / "a.webm") as converted:
            assert plays_in_browsers(converted.info, "video")
        assert seen_colors(tmp_path / "a.webm", [0.5, 1.5, 2.5]) == [0, 1, 2]
        format_here.cache_clear()
        monkeypatch.setattr(transcode, "FORMATS", ())
        with pytest.raises(MediaError, match="has no encoder for a format that browsers play"):
            format_here()
    finally:
        format_here.cache_clear()


@pytest.mark.parametrize(
    ("height", "width", "aspect", "expected"),
    [
        (64, 64, 1.0, (64, 64)),
        (65, 63, 1.0, (64, 64)),  # even sides
        (480, 854, 1.0, (480, 854)),
        (1080, 1920, 1.0, (480, 854)),
        (2160, 3840, 1.0, (480, 854)),
        (1920, 1080, 1.0, (854, 480)),
        (576, 720, 16 / 15, (554, 740)),  # square pixels
        (8, 4, 1.0, (16, 16)),  # no encoder writes fewer
        (4, 40000, 1.0, (16, 4096)),
    ],
)
def test_converted_size(height: int, width: int, aspect: float, expected: tuple[int, int]) -> None:
    stream = VideoStreamInfo(width, height, aspect, 25.0, "h264", "yuv420p")
    source = SimpleNamespace(info=MediaInfo("x", 1.0, stream, None, "mp4"))
    scale = transcode._Scaler(source, av.VideoFrame(width, height, "yuv420p"))  # type: ignore[arg-type]
    assert (scale.height, scale.width) == expected


def test_frames_are_scaled_and_timed() -> None:
    source = SimpleNamespace(info=MediaInfo("x", 1.0, VideoStreamInfo(1280, 720, 1.0, 25.0, "h264", ""), None, "mp4"))
    frame = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), (200, 30, 30), np.uint8), format="rgb24")
    scaled = transcode._Scaler(source, frame)(frame, 45_000)  # type: ignore[arg-type]
    assert (scaled.width, scaled.height, scaled.format.name) == (854, 480, "yuv420p")
    assert (scaled.pts, scaled.time_base, scaled.time) == (45_000, Fraction(1, 90_000), 0.5)
    assert scaled.pict_type == 0
    assert scaled.to_ndarray(format="rgb24").mean((0, 1)) == pytest.approx((200, 30, 30), abs=4)


def test_the_end_comes_early_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(transcode.time, "monotonic", lambda: now[0])
    end = transcode._End(end_seconds=10.0, stop_at=5.0)
    assert [end.is_reached(seconds) for seconds in (0.0, 9.9, 10.0)] == [False, False, True]
    now[0] = 6.0
    assert end.is_reached(4.0)
    assert end.end_seconds == 4.0
    # The other stream ends at the same time.
    assert [end.is_reached(seconds) for seconds in (3.9, 4.0)] == [True, True]
    assert end.end_seconds == 3.9


def test_a_part_begins_at_its_second(tmp_path: Path) -> None:
    path, out = exotic_video(tmp_path / "a.avi", STRIPES, "avi"), tmp_path / "out"
    convert(ConversionTask(str(path), str(out), "video", 1.0, 2.0, 60.0, FORMATS[0]))
    with MediaFile.open(out) as converted:
        assert converted.info.duration_seconds == pytest.approx(2.0, abs=0.1)
    assert seen_colors(out, [0.1, 0.9, 1.1, 1.9]) == [1, 1, 2, 2]
    assert heard_tones(out, [0.5, 1.5]) == [1, 2]


def test_audio_alone_has_no_video_stream(tmp_path: Path) -> None:
    path, out = exotic_video(tmp_path / "a.avi", [RED, BLUE], "avi"), tmp_path / "out"
    convert(ConversionTask(str(path), str(out), "audio", 0.0, 60.0, 60.0, FORMATS[0]))
    with MediaFile.open(out) as converted:
        assert converted.info.video is None
        assert converted.info.audio is not None
        assert (converted.info.audio.codec, converted.info.audio.sample_rate_hz) == ("aac", 48000)
    assert heard_tones(out, [0.5, 1.5]) == [0, 2]


def test_silent_video_has_no_audio_stream(tmp_path: Path) -> None:
    path, out = exotic_video(tmp_path / "a.avi", [RED], "avi", silent=True), tmp_path / "out"
    convert(ConversionTask(str(path), str(out), "video", 0.0, 60.0, 60.0, FORMATS[0]))
    with MediaFile.open(out) as converted:
        assert converted.info.video is not None
        assert converted.info.audio is None
    with pytest.raises(MediaError) as error:
        convert(ConversionTask(str(path), str(out), "audio", 0.0, 60.0, 60.0, FORMATS[0]))
    assert error.value.reason == "no-audio"


def test_audio_file_has_no_video_to_convert(tmp_path: Path) -> None:
    path = exotic_sound(tmp_path / "a.aiff", [RED], "aiff")
    with pytest.raises(MediaError) as error:
        convert(ConversionTask(str(path), str(tmp_path / "out"), "video", 0.0, 60.0, 60.0, FORMATS[0]))
    assert error.value.reason == "no-video"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise av.FFmpegError(number, "No space left on device")

    monkeypatch.setattr(transcode, "_write", fail)
    path = exotic_video(tmp_path / "a.avi", [RED], "avi")
    with pytest.raises(OSError, match="No space left on device") as error:
        convert(ConversionTask(str(path), str(tmp_path / "out"), "video", 0.0, 60.0, 60.0, FORMATS[0]))
    assert error.value.errno == number


def test_other_errors_of_ffmpeg_are_media_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise av.FFmpegError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(transcode, "_write", fail)
    path = exotic_video(tmp_path / "a.avi", [RED], "avi")
    with pytest.raises(MediaError) as error:
        convert(ConversionTask(str(path), str(tmp_path / "out"), "video", 0.0, 60.0, 60.0, FORMATS[0]))
    assert (error.value.reason, error.value.message) == ("unreadable", "cannot be converted: Invalid argument")
