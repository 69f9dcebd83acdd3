"""Opening containers: checks of the path, choice of streams, time origin, duration, and reading a stream from any instant."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.stream import Disposition

from cmmixer.errors import MediaError
from cmmixer.media import container as container_module
from cmmixer.media.container import (
    Deadline,
    StreamReader,
    best_audio_stream,
    best_video_stream,
    check_file,
    duration_seconds,
    media_errors,
    open_container,
    origin_seconds,
)
from tests.support.counting_videos import counting_pixels, tone, write

LATE = [3600.0 + 0.1 * number for number in range(20)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 10 frames per second, a key frame every half second, with audio."""
    path = tmp_path_factory.mktemp("container") / "video.mp4"
    return write(path, pixels=counting_pixels(40, 16, 16), keys=5, samples=tone(4.0, 8000), rate=8000)


def reader_of(path: Path, origin: float = 0.0) -> StreamReader:
    return StreamReader(str(path), 0, origin, Deadline(str(path), 60.0))


def begins(reader: StreamReader, seconds: float, count: int = 3) -> list[float]:
    """When the first frames begin that a reader returns for an instant."""
    frames: Iterator[container_module.TimedFrame] = reader.frames_from(seconds)
    return [round(timed.seconds, 3) for timed, _ in zip(frames, range(count), strict=False)]


def test_check_file_returns_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert check_file("a.mp4") == str(tmp_path / "a.mp4")
    assert check_file(Path("a.mp4")) == str(tmp_path / "a.mp4")


def test_check_file_follows_links(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    assert check_file(tmp_path / "link.mp4") == str(tmp_path / "link.mp4")


def test_check_file_reports_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(MediaError) as caught:
        check_file(tmp_path / "file" / "a.mp4")
    assert (caught.value.reason, caught.value.message) == ("unreadable", "Not a directory")


def test_deadline() -> None:
    Deadline("a.mp4", 60.0).check()
    deadline = Deadline("a.mp4", 0.0)
    time.sleep(0.001)
    with pytest.raises(MediaError, match=r"^a.mp4: took longer than 0 s$") as caught:
        deadline.check()
    assert caught.value.reason == "time-limit"


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (av.error.InvalidDataError(1, "bad header", None), "unreadable", "cannot be decoded: bad header"),
        (av.error.ExitError(1, "exit", None), "time-limit", "reading took longer than the limit for one file"),
        (ValueError("odd stride"), "unreadable", "cannot be decoded: odd stride"),
        (MemoryError("too large"), "unreadable", "cannot be decoded: too large"),
        (OverflowError("timestamp"), "unreadable", "cannot be decoded: timestamp"),
    ],
)
def test_errors_of_the_decoder_become_media_errors(error: Exception, reason: str, message: str) -> None:
    with pytest.raises(MediaError) as caught, media_errors("a.mp4"):
        raise error
    assert (caught.value.path, caught.value.reason, caught.value.message) == ("a.mp4", reason, message)
    assert caught.value.__cause__ is error


def test_media_errors_pass_unchanged_and_bugs_are_not_hidden() -> None:
    ours = MediaError("b.mp4", "silent", "is silent")
    with pytest.raises(MediaError) as caught, media_errors("a.mp4"):
        raise ours
    assert caught.value is ours
    with pytest.raises(KeyError), media_errors("a.mp4"):
        raise KeyError("bug")


def test_only_local_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError) as caught:
        open_container(str(path), 5.0)
    assert caught.value.reason == "unreadable"


def test_options_are_passed_to_ffmpeg(video: Path) -> None:
    with open_container(str(video), 5.0, {"fflags": "+genpts"}) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


def test_the_origin_is_the_start_of_the_container(tmp_path: Path, video: Path) -> None:
    with open_container(str(video), 5.0) as container:
        assert origin_seconds(container) == 0.0
    late = write(tmp_path / "late.mkv", pixels=counting_pixels(20, 16, 16), times=LATE)
    with open_container(str(late), 5.0) as container:
        assert origin_seconds(container) == pytest.approx(3600.0)


def test_best_streams(video: Path, tmp_path: Path) -> None:
    with open_container(str(video), 5.0) as container:
        assert best_video_stream(container) is container.streams.video[0]
        assert best_audio_stream(container) is container.streams.audio[0]
    sound = write(tmp_path / "a.mkv", samples=tone(0.5, 8000), rate=8000)
    with open_container(str(sound), 5.0) as container:
        assert best_video_stream(container) is None
    silent = write(tmp_path / "b.mkv", pixels=counting_pixels(3, 16, 16))
    with open_container(str(silent), 5.0) as container:
        assert best_audio_stream(container) is None


@dataclass(eq=False)
class FakeStream:
    """A video stream as far as its choice depends on it."""

    width: int
    height: int
    disposition: Disposition | int = 0
    codec_context: object = "decoder"


def container_of(streams: list[FakeStream], best: FakeStream | None) -> InputContainer:
    return SimpleNamespace(streams=SimpleNamespace(video=streams, best=lambda kind: best))  # type: ignore[return-value]


def test_without_a_preference_of_ffmpeg_the_largest_video_stream_is_chosen() -> None:
    small, large, cover = FakeStream(16, 16), FakeStream(64, 48), FakeStream(500, 500, Disposition.attached_pic)
    assert best_video_stream(container_of([small, large], small)) is small
    assert best_video_stream(container_of([cover, small, large], cover)) is large
    assert best_video_stream(container_of([FakeStream(64, 64, codec_context=None), small], None)) is small
    assert best_video_stream(container_of([cover], cover)) is None


def test_cover_art_is_not_a_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        audio = container.add_stream("aac", rate=8000, layout="mono")
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    with open_container(str(path), 5.0) as container:
        assert len(container.streams.video) == 1
        assert best_video_stream(container) is None


def test_huge_frames_are_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_module, "_MAX_PIXELS", 255)
    with open_container(str(video), 5.0) as container, pytest.raises(MediaError) as caught:
        best_video_stream(container)
    assert caught.value.message == "its frames of 16 x 16 pixels are too large"


@pytest.mark.parametrize(
    ("seconds", "first"),
    [(0.0, 0.0), (0.04, 0.0), (0.5, 0.5), (0.9, 0.5), (1.0, 1.0), (3.99, 3.5), (100.0, 3.5), (-1.0, 0.0)],
)
def test_reading_begins_at_the_key_frame_before_an_instant(video: Path, seconds: float, first: float) -> None:
    reader = reader_of(video)
    try:
        assert begins(reader, seconds)[0] == pytest.approx(first)
    finally:
        reader.close()


def test_a_reader_can_be_read_again_and_after_closing(video: Path) -> None:
    reader = reader_of(video)
    try:
        assert begins(reader, 2.0) == [2.0, 2.1, 2.2]
        assert begins(reader, 1.0) == [1.0, 1.1, 1.2]
        reader.close()
        reader.close()
        assert begins(reader, 3.0) == [3.0, 3.1, 3.2]
    finally:
        reader.close()


def test_two_readers_do_not_disturb_each_other(video: Path) -> None:
    one, other = reader_of(video), reader_of(video)
    try:
        first, second = one.frames_from(0.0), other.frames_from(2.0)
        times = [(round(next(first).seconds, 3), round(next(second).seconds, 3)) for _ in range(4)]
        assert times == [(0.0, 2.0), (0.1, 2.1), (0.2, 2.2), (0.3, 2.3)]
    finally:
        one.close()
        other.close()


def test_an_adopted_container_is_read_without_seeking(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(video)
    reader.adopt(open_container(str(video), 5.0))
    monkeypatch.setattr(container_module, "open_container", None)  # opening again would fail
    try:
        assert begins(reader, 0.0) == [0.0, 0.1, 0.2]
        assert begins(reader, 0.6)[0] == 0.5
    finally:
        reader.close()


def test_times_are_counted_from_the_origin(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mkv", pixels=counting_pixels(20, 16, 16), times=LATE)
    reader = reader_of(path, origin=3600.0)
    try:
        assert begins(reader, 1.2) == [1.0, 1.1, 1.2]
    finally:
        reader.close()


def test_key_frames_between_two_instants(tmp_path: Path) -> None:
    # A codec without reordering: the index holds decoding times.
    still = np.zeros((40, 16, 16, 3), np.uint8)
    reader = reader_of(write(tmp_path / "a.mp4", pixels=still, keys=5, codecs=("mpeg4", "aac")))
    try:
        assert reader.key_frame_between(0.0, 0.4) is False
        assert reader.key_frame_between(0.1, 0.6) is True
        assert reader.key_frame_between(0.5, 0.9) is False  # the start itself does not count
        assert reader.key_frame_between(0.4, 0.5) is True  # the end does
        assert reader.key_frame_between(0.0, 60.0) is None  # beyond the index
    finally:
        reader.close()


class DamagedPacket:
    def decode(self) -> list[av.VideoFrame]:
        raise av.error.InvalidDataError(1, "damaged", None)


def test_damaged_packets_are_skipped(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(video)
    intact = reader._packets

    def damaged() -> Iterator[object]:
        yield from (DamagedPacket() if number in (7, 13) else packet for number, packet in enumerate(intact()))

    monkeypatch.setattr(reader, "_packets", damaged)
    try:
        times = [round(timed.seconds, 3) for timed in reader.frames_from(0.0)]
    finally:
        reader.close()
    assert len(times) == 38
    assert times[-1] == 3.9


class FlakyContainer:
    """A container that fails to read a packet now and then, and at last for good."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def demux(self, stream: object) -> Iterator[str]:
        yield "packet"
        if self.failures:
            self.failures -= 1
            raise av.error.InvalidDataError(1, "damaged", None)


@pytest.mark.parametrize(("failures", "packets"), [(0, 1), (3, 4), (1000, 16)])
def test_reading_continues_after_a_few_errors(failures: int, packets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = StreamReader("a.mp4", 0, 0.0, Deadline("a.mp4", 60.0))
    monkeypatch.setattr(StreamReader, "stream", None)
    reader._container = FlakyContainer(failures)  # type: ignore[assignment]
    assert list(reader._packets()) == ["packet"] * packets


def test_reading_checks_the_deadline(video: Path) -> None:
    reader = StreamReader(str(video), 0, 0.0, Deadline(str(video), 60.0))
    frames = reader.frames_from(0.0)
    next(frames)
    reader._deadline._end = time.monotonic() - 1.0
    with pytest.raises(MediaError) as caught:
        list(frames)
    assert caught.value.reason == "time-limit"
    reader.close()


def test_the_stated_duration_is_used_if_possible(video: Path) -> None:
    with open_container(str(video), 5.0) as container:
        seconds = duration_seconds(container, str(video), 0.0, Deadline(str(video), 5.0))
        assert seconds == pytest.approx(4.0, abs=0.2)
        assert seconds == pytest.approx(container.duration / av.time_base)


def test_an_impossible_duration_is_replaced_by_that_of_the_packets(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = os.path.getsize(video)
    monkeypatch.setattr(container_module, "_MIN_BITS_PER_SECOND", size * 8)  # more than one second is impossible
    with open_container(str(video), 5.0) as container:
        seconds = duration_seconds(container, str(video), 0.0, Deadline(str(video), 5.0))
    assert seconds == pytest.approx(4.0, abs=0.2)


def test_a_truncated_file_with_an_index_is_as_long_as_what_is_left(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    video = write(tmp_path / "video.mp4", pixels=noise)
    fast = tmp_path / "fast.mp4"  # its index comes first
    with av.open(str(video)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    fast.write_bytes(fast.read_bytes()[: fast.stat().st_size * 3 // 4])
    with open_container(str(fast), 5.0) as container:
        assert container.duration / av.time_base == pytest.approx(4.0, abs=0.1)
        seconds = duration_seconds(container, str(fast), 0.0, Deadline(str(fast), 5.0))
    assert 0.1 < seconds < 3.9


def test_a_header_without_packets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.write_bytes(
        write(tmp_path / "a.wav", samples=tone(0.1, 8000), rate=8000, codecs=("", "pcm_s16le")).read_bytes()[:78]
    )
    with open_container(str(path), 5.0) as container, pytest.raises(MediaError) as caught:
        duration_seconds(container, str(path), 0.0, Deadline("empty.wav", 5.0))
    assert str(caught.value) == "empty.wav: holds a header but no video and no audio"


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{secret}\n#EXT-X-ENDLIST\n",
    "marked.m3u8": "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{secret}\n#EXT-X-ENDLIST\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{secret}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
    "list.mp4": "ffconcat version 1.0\nfile secret.ts\n",
    "list.mkv": "ffconcat version 1.0\nfile secret.ts\n",
    "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1000"><BaseURL>{secret}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that a playlist in the same folder names."""
    path = tmp_path_factory.mktemp("playlists") / "secret.ts"
    return write(path, pixels=counting_pixels(20, 16, 16))


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_no_other_file_whatever_it_is_called(secret: Path, name: str) -> None:
    path = secret.parent / name
    path.write_text(PLAYLISTS[name].format(secret=secret))
    with pytest.raises(MediaError) as caught:
        open_container(str(path), 10.0)
    assert caught.value.reason == "unreadable"
    assert str(caught.value) == f"{path}: is a playlist of other files, not a video or a sound; give those files"


def test_a_numbered_image_does_not_open_its_neighbours(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"image{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "image%d.png").write_bytes(b"x")
    with pytest.raises(MediaError, match="cannot be decoded"):
        open_container(str(tmp_path / "image%d.png"), 10.0)


def test_formats_that_stay_readable() -> None:
    readable = set(container_module._readable_formats().split(","))
    assert {
        "mov",
        "mp4",
        "matroska",
        "webm",
        "avi",
        "mpegts",
        "mpeg",
        "ogg",
        "wav",
        "mp3",
        "flac",
        "aiff",
        "mxf",
        "flv",
    } <= readable
    assert readable.isdisjoint(
        {"hls", "dash", "concat", "sdp", "rtsp", "rtp", "image2", "lavfi", "imf", "vobsub", "v4l2"}
    )
