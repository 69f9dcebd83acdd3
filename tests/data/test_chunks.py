"""Chunks: each shared instant is decoded once, long files come in several chunks, and one modality may be missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmmixer.config import ClipSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.data.chunks import Chunk, DecodedChunk, decode_chunk, decode_chunks, segments_per_chunk
from cmmixer.data.manifest import Entry
from cmmixer.data.segments import SegmentSpec
from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile, read_clip
from cmmixer.media.timeline import frame_instants
from cmmixer.types import Span
from tests.support.small_runs import PICO
from tests.support.small_videos import sound, video

SPEC = SegmentSpec(PICO, 0.5)


def entry(path: Path, **values: Any) -> Entry:
    return Entry(str(path), path.name, path.stem, **values)


def decode(path: Path, spec: SegmentSpec = SPEC, first: int = 0, **values: Any) -> DecodedChunk:
    return decode_chunk(Chunk(0, entry(path, **values), first), spec)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`map_sandboxed` without its processes."""

    def here(function: Callable[[Any], Any], items: Any, **_: Any) -> Iterator[tuple[Any, Any]]:
        for item in items:
            try:
                yield item, function(item)
            except MediaError as error:
                yield item, error

    monkeypatch.setattr(chunks_module, "map_sandboxed", here)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    video(folder / "both.mp4", seconds=3.0, seed=3)
    video(folder / "silent.mp4", seconds=1.0, sound=False)
    video(folder / "quiet.mp4", seconds=2.0, amplitude=0.0)
    sound(folder / "tone.wav", seconds=2.0)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


def test_segments_are_what_decoding_them_one_by_one_gives(media: Path) -> None:
    chunk = decode(media / "both.mp4")
    assert [span.start_seconds for span in chunk.spans] == [0.0, 0.5, 1.0, 1.5, 2.0]
    for segment in chunk.segments():
        clip = read_clip(media / "both.mp4", segment.span, PICO, id="x", source="x")
        assert clip.frames is not None
        assert clip.sound is not None
        assert segment.pixels_TCHW is not None
        assert segment.samples_TN is not None
        assert np.array_equal(segment.pixels_TCHW, clip.frames.pixels_THWC.transpose(0, 3, 1, 2))
        # One decoder reads the whole file here; the state of the AAC decoder moves a sample by a step now and then.
        assert np.abs(segment.samples_TN.astype(int) - clip.sound.samples_TN).max() <= 2


def test_shared_instants_are_decoded_once(media: Path) -> None:
    chunk = decode(media / "both.mp4")
    every_instant = {round(float(t), 6) for span in chunk.spans for t in frame_instants(span, PICO.frames)}
    assert chunk.pixels_UCHW is not None
    assert chunk.samples_UN is not None
    assert len(chunk.pixels_UCHW) == len(chunk.samples_UN) == len(every_instant) == 6
    assert chunk.instants_MT.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert chunk.pixels_UCHW.shape[1:] == (3, PICO.height, PICO.width)
    assert chunk.pixels_UCHW.flags.c_contiguous
    assert chunk.samples_UN.shape[1] == PICO.window_samples


def test_one_modality_is_enough(media: Path) -> None:
    silent, tone = decode(media / "silent.mp4"), decode(media / "tone.wav")
    assert (silent.samples_UN, silent.audible_M.tolist()) == (None, [False])
    assert [segment.samples_TN for segment in silent.segments()] == [None]
    assert tone.pixels_UCHW is None
    assert tone.audible_M.all()
    assert all(segment.pixels_TCHW is None for segment in tone.segments())
    assert len(list(tone.segments())) == len(tone.spans) == 3
    assert silent.errors == tone.errors == []


def test_silent_audio_counts_as_none(media: Path) -> None:
    quiet = decode(media / "quiet.mp4")
    assert quiet.samples_UN is not None
    assert not quiet.audible_M.any()
    assert [segment.samples_TN for segment in quiet.segments()] == [None] * 3
    audio_only = decode(media / "quiet.mp4", SegmentSpec(PICO, 0.5, video=False))
    assert list(audio_only.segments()) == []


def test_a_segment_is_audible_if_any_of_its_windows_is(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loudness = iter([-80.0, -80.0, -20.0, -80.0, -80.0, -60.0])
    monkeypatch.setattr(chunks_module, "loudness_dbfs", lambda window: next(loudness))
    assert decode(media / "both.mp4").audible_M.tolist() == [False, True, True, False, True]


def test_a_file_without_the_modality_asked_for_is_refused(media: Path) -> None:
    with pytest.raises(MediaError, match="has no audio stream, only video") as caught:
        decode(media / "silent.mp4", SegmentSpec(PICO, 0.5, video=False))
    assert caught.value.reason == "no-audio"
    with pytest.raises(MediaError, match="has no video stream, only audio"):
        decode(media / "tone.wav", SegmentSpec(PICO, 0.5, audio=False))


@pytest.mark.parametrize("damaged", ["frames", "audio_windows"])
def test_a_damaged_modality_is_reported_and_the_other_one_used(
    media: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    def fail(self: MediaFile, *_: object) -> None:
        raise MediaError(self.info.path, "unreadable", "damaged")

    monkeypatch.setattr(MediaFile, damaged, fail)
    chunk = decode(media / "both.mp4")
    assert [error.message for error in chunk.errors] == ["damaged"]
    assert (chunk.pixels_UCHW is None, chunk.samples_UN is None) == (damaged == "frames", damaged != "frames")
    for other in ("frames", "audio_windows"):
        monkeypatch.setattr(MediaFile, other, fail)
    with pytest.raises(MediaError, match="damaged"):
        decode(media / "both.mp4")


def test_the_time_limit_of_one_modality_ends_the_file(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self: MediaFile, *_: object) -> None:
        raise MediaError(self.info.path, "time-limit", "took longer than 1 s")

    monkeypatch.setattr(MediaFile, "frames", late)
    with pytest.raises(MediaError, match="took longer than 1 s"):
        decode(media / "both.mp4")


def test_long_files_come_in_chunks_that_make_up_the_whole(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode(media / "both.mp4")
    assert whole.remaining == []
    monkeypatch.setattr(chunks_module, "_CHUNK_SEGMENTS", 2)
    first = decode(media / "both.mp4")
    assert (len(first.spans), first.remaining) == (2, [2, 4])
    rest = [decode(media / "both.mp4", first=index) for index in first.remaining]
    assert [chunk.remaining for chunk in rest] == [[], []]
    assert [span for chunk in (first, *rest) for span in chunk.spans] == whole.spans


def test_every_chunk_is_yielded_once_with_first_chunks_in_order(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "_CHUNK_SEGMENTS", 2)
    paths = [media / name for name in ("both.mp4", "broken.mp4", "tone.wav", "both.mp4")]
    results = list(decode_chunks(map(entry, paths), SPEC))
    firsts = [chunk.number for chunk, _ in results if chunk.first == 0]
    assert firsts == [0, 1, 2, 3]
    assert sorted((chunk.number, chunk.first) for chunk, _ in results) == [
        (0, 0), (0, 2), (0, 4), (1, 0), (2, 0), (2, 2), (3, 0), (3, 2), (3, 4),
    ]  # fmt: skip
    errors = [result for _, result in results if isinstance(result, MediaError)]
    assert [(error.path, error.reason) for error in errors] == [(str(media / "broken.mp4"), "unreadable")]


def test_even_segments_are_spread_over_the_stretch(media: Path) -> None:
    spec = SegmentSpec(PICO, 1.0, even=3)
    stretch = decode(media / "both.mp4", spec, start_seconds=0.5, end_seconds=2.5)
    assert stretch.spans == [Span(0.5, 1.5), Span(1.0, 2.0), Span(1.5, 2.5)]


def test_a_chunk_s_size_follows_from_the_bytes_of_a_segment() -> None:
    published = ClipSettings(
        frames=4, height=224, width=224, clip_seconds=10, window_seconds=2.6, sample_rate_hz=44100
    )  # fmt: skip
    segment_bytes = 4 * (3 * 224 * 224 + 2 * 114660)
    assert segments_per_chunk(published) == 24_000_000 // segment_bytes == 15
    assert segments_per_chunk(PICO) == 128
    huge = ClipSettings(frames=64, height=1024, width=1024, clip_seconds=1, window_seconds=1, sample_rate_hz=8000)
    assert segments_per_chunk(huge) == 1


def test_a_stretch_after_the_end_is_too_short(media: Path) -> None:
    with pytest.raises(MediaError, match=r"it lasts 2\.00 s, its stretch begins at 5\.00 s"):
        decode(media / "tone.wav", start_seconds=5.0)


def test_a_chunk_names_its_file(media: Path) -> None:
    assert Chunk(7, entry(media / "both.mp4")).path == str(media / "both.mp4")
