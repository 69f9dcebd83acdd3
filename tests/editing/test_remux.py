"""Copying video packets: facts about a stream, timestamps, and the new container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from cmmixer.editing import remux as remux_module
from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ
from cmmixer.editing.remux import (
    CONTAINERS,
    VideoFacts,
    VideoSource,
    _with_decoding_times,
    dts_seconds,
    encode_audio_blocks,
    remux,
)
from cmmixer.errors import MediaError
from cmmixer.media.container import Deadline
from cmmixer.media.decode import MediaFile
from tests.support.counting_videos import counting_pixels, number_of, tone, write


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 10 frames per second, with B-frames."""
    return write(tmp_path_factory.mktemp("remux") / "video.mp4", pixels=counting_pixels(20), samples=tone(2.0, 16000))


def opened(path: Path, seconds: float = 60.0) -> VideoSource:
    return VideoSource.open(str(path), Deadline(str(path), seconds))


def silence(seconds: float) -> Iterator[np.ndarray]:
    for _ in range(round(seconds * 10)):
        yield np.zeros((2, SAMPLE_RATE_HZ // 10), np.float32)


def test_facts_of_a_stream(video: Path) -> None:
    source = opened(video)
    facts = source.read_facts()
    source.close()
    assert facts == VideoFacts("h264", 20, pytest.approx(2.0), 10.0)  # type: ignore[arg-type]


def test_facts_of_a_video_that_begins_late(tmp_path: Path) -> None:
    times = [3600.0 + 0.1 * number for number in range(10)]
    source = opened(write(tmp_path / "late.mkv", pixels=counting_pixels(10), times=times))
    facts = source.read_facts()
    source.close()
    assert (facts.packets, facts.end_seconds) == (10, pytest.approx(1.0, abs=0.01))


def test_packets_can_be_read_again(video: Path) -> None:
    source = opened(video)
    first, second = ([bytes(packet) for packet in source.packets()] for _ in range(2))
    source.close()
    assert len(first) == 20
    assert first == second


def test_decoding_times_increase_strictly_and_frames_are_decoded_before_they_are_shown(video: Path) -> None:
    source = opened(video)
    times = [(packet.dts, packet.pts) for packet in source.packets()]
    source.close()
    decoding = [dts for dts, _ in times]
    assert all(before < after for before, after in pairwise(decoding))  # type: ignore[operator]
    assert all(dts <= pts for dts, pts in times)  # type: ignore[operator]


@dataclass
class FakePacket:
    """A packet's times."""

    pts: int | None
    dts: int | None = None


def decoding_times(packets: list[FakePacket]) -> list[int | None]:
    return [packet.dts for packet in _with_decoding_times(iter(packets))]  # type: ignore[arg-type]


def test_given_decoding_times_are_kept() -> None:
    assert decoding_times([FakePacket(5, 1), FakePacket(9, 2), FakePacket(7, 4)]) == [1, 2, 4]


def test_missing_decoding_times_lie_before_the_first_given_one() -> None:
    assert decoding_times([FakePacket(5), FakePacket(9), FakePacket(7, 4), FakePacket(8, 6)]) == [2, 3, 4, 6]


def test_without_any_decoding_times_frames_are_decoded_as_they_are_shown() -> None:
    assert decoding_times([FakePacket(1), FakePacket(2), FakePacket(3)]) == [1, 2, 3]
    many = [FakePacket(number) for number in range(100)]
    assert decoding_times(many) == list(range(100))


def test_at_most_32_packets_wait_for_a_decoding_time() -> None:
    packets = _with_decoding_times(FakePacket(number) for number in range(1000))  # type: ignore[misc]
    assert next(packets).dts == 0
    assert decoding_times([]) == []


def test_audio_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "sound.mkv", samples=tone(0.5, 8000), rate=8000)
    with pytest.raises(MediaError) as caught:
        opened(path)
    assert (caught.value.reason, caught.value.message) == ("no-video", "has no video stream, only audio")


def test_packets_without_timestamps_are_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoSource, "_read", lambda self: iter([FakePacket(None)]))
    source = opened(video)
    with pytest.raises(MediaError, match=r"video.mp4: has video packets without timestamps$"):
        list(source.packets())
    source.close()


def test_a_stream_without_packets_is_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoSource, "_read", lambda self: iter([]))
    source = opened(video)
    with pytest.raises(MediaError, match=r"video.mp4: has no video packets that could be copied$"):
        source.read_facts()
    source.close()


def test_impossible_timestamps_are_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remux_module, "_MAX_SECONDS", 1.5)
    source = opened(video)
    with pytest.raises(MediaError, match=r"video.mp4: states that its video ends after 2 s$"):
        source.read_facts()
    source.close()


def test_the_time_limit_applies_to_copying(video: Path) -> None:
    source = opened(video)
    source._deadline._end = 0.0
    with pytest.raises(MediaError) as caught:
        list(source.packets())
    assert caught.value.reason == "time-limit"
    source.close()


def test_a_truncated_file_is_copied_as_far_as_it_goes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = write(tmp_path / "video.mkv", pixels=noise, keys=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    source = opened(path)
    facts = source.read_facts()
    source.close()
    assert 3 < facts.packets < 20
    assert facts.end_seconds < 2.0


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".MKV"])
def test_the_suffix_chooses_container_and_audio_codec(tmp_path: Path, video: Path, suffix: str) -> None:
    source = opened(video)
    draft = tmp_path / "draft"
    codec = remux(draft, f"out{suffix}", source, silence(2.0))
    source.close()
    container, expected = CONTAINERS[suffix.lower()]
    assert codec == expected
    with MediaFile.open(draft) as media:
        assert media.info.audio is not None
        assert (media.info.audio.codec, media.info.audio.sample_rate_hz, media.info.audio.channels) == (
            expected,
            48000,
            2,
        )
        assert container in media.info.container
        assert media.info.duration_seconds == pytest.approx(2.0, abs=0.05)
        frames = media.frames([0.05, 1.05, 1.95], 48, 64).pixels_THWC
    assert [number_of(frame) for frame in frames] == [0, 10, 19]


def test_descriptive_metadata_is_kept_and_technical_metadata_is_not(tmp_path: Path, video: Path) -> None:
    titled = tmp_path / "titled.mp4"
    with av.open(str(video)) as source, av.open(str(titled), "w") as out:
        out.metadata.update({"title": "Rain", "comment": "take 3", "encoder": "a camera", "genre": "test"})
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    copied = opened(titled)
    remux(tmp_path / "draft", "out.mkv", copied, silence(0.5))
    copied.close()
    with av.open(str(tmp_path / "draft")) as container:
        metadata = {key.lower(): text for key, text in container.metadata.items()}
    assert metadata["title"] == "Rain"
    assert metadata["comment"] == "take 3"
    assert "genre" not in metadata
    assert metadata.get("encoder") != "a camera"


def test_encoded_blocks_are_placed_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    ramp = np.linspace(-1.2, 1.2, 4800).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s24le", rate=SAMPLE_RATE_HZ, layout="stereo")
        for packet in encode_audio_blocks(stream, [np.stack([part, part]) for part in np.split(ramp, [100, 2000])]):
            container.mux(packet)
    with av.open(str(path)) as container:
        decoded = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)])
    np.testing.assert_allclose(decoded[:, 0] / 2**31, np.clip(ramp, -1, 1), atol=1e-5)  # clipped, not wrapped


def test_packets_are_ordered_by_decoding_time() -> None:
    packet = av.Packet(b"x")
    packet.time_base, packet.pts, packet.dts = Fraction(1, 10), 30, 20
    assert dts_seconds(packet) == 2.0
    packet.dts = None
    assert dts_seconds(packet) == 3.0
    packet.pts = None
    assert dts_seconds(packet) == 0.0
