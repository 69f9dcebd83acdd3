"""The embedding pipeline: every entry is answered, batches span files, long files come in chunks, one modality is enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmmixer.data import chunks as chunks_module
from cmmixer.data.chunks import Chunk, DecodedChunk, decode_chunk, decode_chunks, segments_per_chunk
from cmmixer.data.manifest import Entry
from cmmixer.data.segments import SegmentSpec
from cmmixer.embedding.pipeline import EmbeddedFile, embed_file, embed_moments, file_entry
from cmmixer.errors import InternalError, MediaError
from cmmixer.models.retriever import Embedding
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, ColourEncoder, sound, unit, video

CUT = SegmentSpec(CLIP, 0.5)


def _near(vector: np.ndarray | None, colour: tuple[float, float, float]) -> bool:
    return vector is not None and float(vector @ unit(colour)) > 0.985


def _embed(paths: list[Path], **options: object) -> list[EmbeddedFile]:
    videos = embed_moments(map(file_entry, paths), ColourEncoder(), workers=1, **options)  # type: ignore[arg-type]
    return sorted(videos, key=lambda it: it.number)


def test_moments_have_the_colours_and_tones_of_their_time(tmp_path: Path) -> None:
    (got,) = _embed([video(tmp_path / "a.mp4", [RED, RED, BLUE, BLUE])])
    assert got.errors == []
    spans = [(m.span.start_seconds, m.span.end_seconds) for m in got.moments]
    assert spans[:7] == [(s / 2, s / 2 + 1) for s in range(7)]
    assert all(_near(m.video, RED) and _near(m.audio, RED) for m in got.moments[:3])
    assert all(_near(m.video, BLUE) and _near(m.audio, BLUE) for m in got.moments[4:7])
    assert all(m.video is not None and np.linalg.norm(m.video) == pytest.approx(1, abs=1e-6) for m in got.moments)


def test_one_modality_is_enough_and_broken_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video at all " * 50)
    (tmp_path / "folder.mp4").mkdir()
    paths = [
        video(tmp_path / "silent.mp4", [GREEN], sound=None),
        sound(tmp_path / "bell.wav", [GREEN], seconds_each=0.3),
        video(tmp_path / "mute.mp4", [GREEN], sound=[(0.0, 0.0, 0.0)]),
        sound(tmp_path / "nothing.wav", [(0.0, 0.0, 0.0)]),
        tmp_path / "empty.mp4",
        tmp_path / "text.mp4",
        tmp_path / "folder.mp4",
        tmp_path / "gone.mp4",
    ]
    silent, bell, mute, nothing, *broken = _embed(paths)
    assert _near(silent.moments[0].video, GREEN)
    assert silent.moments[0].audio is None
    assert len(bell.moments) == 1
    assert bell.moments[0].span.duration_seconds == pytest.approx(0.3, abs=0.01)
    assert bell.moments[0].video is None
    assert _near(bell.moments[0].audio, GREEN)
    assert mute.moments[0].audio is None  # silence has no vector
    assert [f.errors[0].reason for f in (nothing, *broken)] == [
        "silent",
        "empty",
        "unreadable",
        "not-a-file",
        "missing",
    ]
    assert all(f.moments == [] for f in (nothing, *broken))


def test_batches_span_files_and_batch_size_changes_nothing(tmp_path: Path) -> None:
    paths = [video(tmp_path / f"{n}.mp4", [colour, GREEN]) for n, colour in enumerate((RED, BLUE, GREEN))]
    encoder = ColourEncoder()
    together = sorted(embed_moments(map(file_entry, paths), encoder, batch_size=8, workers=1), key=lambda it: it.number)
    assert encoder.batches[0] == 8
    for one, other in zip(_embed(paths, batch_size=1), together, strict=True):
        for a, b in zip(one.moments, other.moments, strict=True):
            assert np.allclose(a.video, b.video, atol=1e-6)
            assert np.allclose(a.audio, b.audio, atol=1e-6)


def test_chunks_of_a_long_video_join_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = video(tmp_path / "long.mp4", [RED, GREEN, BLUE] * 4)
    short = video(tmp_path / "short.mp4", [BLUE])
    whole = decode_chunk(Chunk(0, file_entry(long)), CUT)
    assert (len(whole.spans), whole.remaining) == (23, [])
    monkeypatch.setattr(chunks_module, "map_sandboxed", _here)
    monkeypatch.setattr(chunks_module, "segments_per_chunk", lambda clip: 5)
    parts = {chunk.first: chunk for chunk, _ in _decoded_here([long, short])}
    assert sorted(parts) == [0, 5, 10, 15, 20]
    again = [decode_chunk(Chunk(0, file_entry(long), first), CUT) for first in sorted(parts)]
    assert [span for part in again for span in part.spans] == whole.spans
    for part, first in zip(again, sorted(parts), strict=True):
        assert part.pixels_UCHW is not None
        assert part.samples_UN is not None
        assert whole.pixels_UCHW is not None
        assert whole.samples_UN is not None
        rows = whole.instants_MT[first : first + len(part.spans)]
        assert np.array_equal(part.pixels_UCHW[part.instants_MT], whole.pixels_UCHW[rows])
        difference = part.samples_UN[part.instants_MT].astype(int) - whole.samples_UN[rows]
        assert np.abs(difference).max() <= 2


def _decoded_here(paths: list[Path]) -> list[tuple[Chunk, DecodedChunk | MediaError]]:
    return list(decode_chunks(map(file_entry, paths), CUT, workers=1))


def test_a_video_of_many_chunks_is_yielded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "map_sandboxed", _here)
    monkeypatch.setattr(chunks_module, "_CHUNK_SEGMENTS", 3)
    paths = [video(tmp_path / "long.mp4", [RED, GREEN, BLUE, RED]), video(tmp_path / "short.mp4", [BLUE])]
    videos = _embed(paths)
    assert [f.number for f in videos] == [0, 1]
    assert [len(f.moments) for f in videos] == [7, 1]
    assert [m.span.start_seconds for m in videos[0].moments] == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def _here(function, items, *, workers, seconds_each, pool, check_cancelled):  # type: ignore[no-untyped-def]
    """map_sandboxed without processes."""
    for item in items:
        try:
            yield item, function(item)
        except MediaError as error:
            yield item, error


def test_chunks_are_bounded_for_any_geometry() -> None:
    published = SegmentSpec(
        type(CLIP)(frames=4, height=224, width=224, clip_seconds=10, window_seconds=2.6, sample_rate_hz=44100), 5
    )
    moment_bytes = 4 * (3 * 224 * 224 + 2 * 114660)
    assert segments_per_chunk(published.clip) == 24_000_000 // moment_bytes == 15
    assert segments_per_chunk(CUT.clip) == 128


def test_part_of_a_file_with_a_separate_audio_file(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", [RED, RED, GREEN, GREEN])
    other = sound(tmp_path / "b.wav", [BLUE] * 4)
    entry = Entry(
        str(path), "a.mp4", "a", audio_path=str(other), audio_name="b.wav", start_seconds=2.0, end_seconds=3.0
    )
    (got,) = embed_moments([entry], ColourEncoder(), workers=1)
    assert [(m.span.start_seconds, m.span.end_seconds) for m in got.moments] == [(2.0, 3.0)]
    assert _near(got.moments[0].video, GREEN)
    assert _near(got.moments[0].audio, BLUE)
    behind = Entry(str(path), "a.mp4", "a", start_seconds=9.0)
    (nothing,) = embed_moments([behind], ColourEncoder(), workers=1)
    assert nothing.errors[0].reason == "too-short"
    assert "its stretch begins at 9.00 s" in nothing.errors[0].message


def test_embed_file_raises_the_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"bell.wav: has no video stream, only audio"):
        embed_file(sound(tmp_path / "bell.wav", [RED]), ColourEncoder(), audio=False)
    with pytest.raises(MediaError, match=r"mute.mp4: has no audio stream, only video"):
        embed_file(video(tmp_path / "mute.mp4", [RED], sound=None), ColourEncoder(), video=False)


class _NanEncoder(ColourEncoder):
    def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
        clip_BE, frames_BTE = super().embed_video(pixels_BTCHW)
        return Embedding(clip_BE * float("nan"), frames_BTE)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="not finite; use another checkpoint"):
        embed_file(video(tmp_path / "a.mp4", [RED]), _NanEncoder())
