"""Memory-mapped clips are what decoding them one by one gives; missing modalities are marked, broken files reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmmixer.config import ClipSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.data import memmap as memmap_module
from cmmixer.data.chunks import Chunk, decode_chunk
from cmmixer.data.manifest import read_manifest
from cmmixer.data.memmap import MemmapClips, decode_to_memmap
from cmmixer.data.segments import SegmentSpec
from cmmixer.errors import DataError, MediaError
from cmmixer.media.decode import read_clip
from cmmixer.progress import NoProgress
from cmmixer.types import Span
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, sound, video


def decode(
    folder: Path, even: int = 3, *, video: bool = True, audio: bool = True, clip: ClipSettings = CLIP
) -> MemmapClips:
    return decode_to_memmap(
        read_manifest(folder), clip, folder.parent / "clips", even=even, video=video, audio=audio, workers=1,
        file_seconds=30.0, progress=NoProgress(),
    )  # fmt: skip


def test_clips_are_those_that_decoding_one_by_one_gives(tmp_path: Path) -> None:
    path = video(tmp_path / "videos" / "a.mp4", [RED, GREEN, BLUE])
    clips = decode(tmp_path / "videos")
    assert [span.start_seconds for span in clips.spans] == [0.0, 1.0, 2.0]
    assert clips.present_RS.all()
    for row, start in enumerate((0.0, 1.0, 2.0)):
        expected = read_clip(path, Span(start, start + 1.0), CLIP, id="a", source="a", file_seconds=30.0)
        assert expected.frames is not None
        assert expected.sound is not None
        got = clips[row]
        assert got.frames is not None
        assert got.sound is not None
        np.testing.assert_array_equal(got.frames.pixels_THWC, expected.frames.pixels_THWC)
        # One decoder reads the whole video here; its AAC state moves a sample by one step now and then.
        np.testing.assert_allclose(got.sound.samples_TN.astype(int), expected.sound.samples_TN.astype(int), atol=2)
        np.testing.assert_allclose(got.frames.times_seconds_T, expected.frames.times_seconds_T)


def test_rows_are_the_requested_clips_in_that_order(tmp_path: Path) -> None:
    video(tmp_path / "videos" / "a.mp4", [RED, GREEN, BLUE])
    clips = decode(tmp_path / "videos")
    some = clips.rows(np.array([2, 0]))
    assert (len(some), some.ids) == (2, [clips.ids[2], clips.ids[0]])
    again = some.rows(np.array([1]))
    for got, row in ((some[0], 2), (some[1], 0), (again[0], 0)):
        assert got.id == clips.ids[row]
        expected = clips[row].frames
        assert got.frames is not None
        assert expected is not None
        np.testing.assert_array_equal(got.frames.pixels_THWC, expected.pixels_THWC)


def test_missing_modalities_are_marked_and_broken_files_reported(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    video(folder / "a.mp4", [RED, GREEN], sound=None)
    sound(folder / "b.wav", [BLUE], seconds_each=0.5)
    (folder / "c.mp4").write_bytes(b"no video")
    clips = decode(folder, even=2)
    assert clips.files_R.tolist() == [0, 0, 1]
    assert clips.present_RS.tolist() == [[True, False], [True, False], [False, True]]
    assert clips.is_short.tolist() == [False, False, True]
    assert [skip.path for skip in clips.skips] == [str(folder / "c.mp4")]
    silent = clips[0].sound
    assert silent is not None
    assert not silent.samples_TN.any()


def test_a_modality_that_is_not_decoded_takes_no_space(tmp_path: Path) -> None:
    video(tmp_path / "videos" / "a.mp4", [RED, GREEN])
    clips = decode(tmp_path / "videos", video=False)
    assert clips.pixels_RTCHW.shape == (3, CLIP.frames, 3, 1, 1)
    assert clips.present_RS[:, 1].all()
    assert not clips.present_RS[:, 0].any()


def test_no_usable_file_is_an_error(tmp_path: Path) -> None:
    video(tmp_path / "videos" / "a.mp4", [RED], sound=None)
    with pytest.raises(DataError, match="no file gives a clip; 1 file left out: 1 without audio"):
        decode(tmp_path / "videos", video=False)


def test_clips_are_in_the_order_of_their_files_whatever_the_order_of_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        video(tmp_path / "videos" / f"{name}.mp4", [RED, GREEN, BLUE])
    whole = decode(tmp_path / "videos")
    pixels = [np.array(whole[row].frames.pixels_THWC) for row in range(6)]  # type: ignore[union-attr]
    # Chunks of one segment, the last one first; into the same files.
    entries = read_manifest(tmp_path / "videos")
    spec = SegmentSpec(CLIP, 1.0, even=3)
    monkeypatch.setattr(chunks_module, "segments_per_chunk", lambda clip: 1)
    chunks = [Chunk(number, entry, first) for number, entry in enumerate(entries) for first in range(3)]
    backwards = [(chunk, decode_chunk(chunk, spec)) for chunk in reversed(chunks)]
    monkeypatch.setattr(memmap_module, "decode_chunks", lambda *arguments, **options: iter(backwards))
    again = decode(tmp_path / "videos")
    assert again.ids == whole.ids
    assert again.files_R.tolist() == whole.files_R.tolist() == [0, 0, 0, 1, 1, 1]
    for row in range(6):
        got = again[row].frames
        assert got is not None
        np.testing.assert_array_equal(got.pixels_THWC, pixels[row])


def test_a_damaged_modality_is_reported_and_the_rest_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "videos" / "a.mp4", [RED, GREEN])
    (chunk,) = [Chunk(0, entry) for entry in read_manifest(tmp_path / "videos")]
    whole = decode_chunk(chunk, SegmentSpec(CLIP, 1.0, even=2))
    error = MediaError(path, "unreadable", "damaged at 1 s")
    damaged = replace(whole, samples_UN=None, audible_M=np.zeros(2, bool), errors=[error])
    monkeypatch.setattr(memmap_module, "decode_chunks", lambda *_, **__: iter([(chunk, damaged)]))
    clips = decode(tmp_path / "videos", even=2)
    assert clips.present_RS.tolist() == [[True, False], [True, False]]
    assert [(skip.reason, skip.message) for skip in clips.skips] == [
        ("unreadable", "damaged at 1 s; the rest of it is used")
    ]
    assert not clips.samples_RTN.any()


def test_a_file_that_is_silent_throughout_is_reported(tmp_path: Path) -> None:
    video(tmp_path / "videos" / "a.mp4", [RED], sound=[(0.0, 0.0, 0.0)])
    sound(tmp_path / "videos" / "b.wav", [BLUE])
    clips = decode(tmp_path / "videos", video=False, even=1)
    assert clips.files_R.tolist() == [1]
    assert [(Path(skip.path).name, skip.reason, skip.message) for skip in clips.skips] == [
        ("a.mp4", "silent", "its audio was asked for and is silent throughout")
    ]


def test_a_file_that_is_listed_twice_gives_clips_with_different_ids(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", [RED])
    (tmp_path / "m.csv").write_text("path,label\na.mp4,dog\na.mp4,cat\n")
    clips = decode(tmp_path / "m.csv", even=1)
    assert clips.ids == ["0/a.mp4#0.000-1.000", "1/a.mp4#0.000-1.000"]
    assert clips.sources == ["a", "a"]
    assert clips.labels == [None, None]
    assert [clip.id for clip in clips.read([1, 0])] == [clips.ids[1], clips.ids[0]]  # type: ignore[union-attr]
