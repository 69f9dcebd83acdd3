"""Films into vectors: every entry answered for, batches of many films, bounded pieces, one sense enough, Parquet."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cmmixer.config import EmbedSettings
from cmmixer.data import moments as moments_module
from cmmixer.data.manifest import Entry
from cmmixer.data.moments import Cut, DecodedPiece, Piece, decode_films, decode_piece
from cmmixer.embedding.api import LoadedRun
from cmmixer.embedding.embed import embed
from cmmixer.embedding.pipeline import EmbeddedFilm, both_senses, embed_file, embed_moments, file_entry
from cmmixer.errors import InternalError, MediaError, SettingsError
from cmmixer.models.retriever import Embedding
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, ColourEncoder, film, sound, unit

CUT = Cut(CLIP, 0.5)


def _near(vector: np.ndarray | None, colour: tuple[float, float, float]) -> bool:
    return vector is not None and float(vector @ unit(colour)) > 0.985


def _embed(paths: list[Path], **options: object) -> list[EmbeddedFilm]:
    films = embed_moments(map(file_entry, paths), ColourEncoder(), workers=1, **options)  # type: ignore[arg-type]
    return sorted(films, key=lambda it: it.number)


def test_moments_of_a_film_have_its_colours_and_tones_in_time(tmp_path: Path) -> None:
    (got,) = _embed([film(tmp_path / "a.mp4", [RED, RED, BLUE, BLUE])])
    assert got.faults == []
    spans = [(m.span.start_seconds, m.span.end_seconds) for m in got.moments]
    assert spans[:7] == [(s / 2, s / 2 + 1) for s in range(7)]
    assert all(_near(m.video, RED) and _near(m.audio, RED) for m in got.moments[:3])
    assert all(_near(m.video, BLUE) and _near(m.audio, BLUE) for m in got.moments[4:7])
    assert all(m.video is not None and np.linalg.norm(m.video) == pytest.approx(1, abs=1e-6) for m in got.moments)


def test_one_sense_is_enough_and_broken_files_are_answered_for(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a film at all " * 50)
    (tmp_path / "folder.mp4").mkdir()
    paths = [
        film(tmp_path / "silent.mp4", [GREEN], sound=None),
        sound(tmp_path / "bell.wav", [GREEN], seconds_each=0.3),
        film(tmp_path / "mute.mp4", [GREEN], sound=[(0.0, 0.0, 0.0)]),
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
    assert mute.moments[0].audio is None  # silence is nothing to be found by
    assert [f.faults[0].reason for f in (nothing, *broken)] == [
        "silent",
        "empty",
        "unreadable",
        "not-a-file",
        "missing",
    ]
    assert all(f.moments == [] for f in (nothing, *broken))


def test_moments_of_many_films_share_batches_and_batch_size_changes_nothing(tmp_path: Path) -> None:
    paths = [film(tmp_path / f"{n}.mp4", [colour, GREEN]) for n, colour in enumerate((RED, BLUE, GREEN))]
    encoder = ColourEncoder()
    together = sorted(embed_moments(map(file_entry, paths), encoder, batch_size=8, workers=1), key=lambda it: it.number)
    assert encoder.batches[0] == 8
    for one, other in zip(_embed(paths, batch_size=1), together, strict=True):
        for a, b in zip(one.moments, other.moments, strict=True):
            assert np.allclose(a.video, b.video, atol=1e-6)
            assert np.allclose(a.audio, b.audio, atol=1e-6)


def test_long_films_come_in_pieces_that_join_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = film(tmp_path / "long.mp4", [RED, GREEN, BLUE] * 4)
    short = film(tmp_path / "short.mp4", [BLUE])
    whole = decode_piece(Piece(0, file_entry(long)), CUT)
    assert (len(whole.spans), whole.further) == (23, [])
    monkeypatch.setattr(moments_module, "map_isolated", _here)
    monkeypatch.setattr(Cut, "piece_moments", property(lambda self: 5))
    parts = {piece.first: piece for piece, _ in _decoded_here([long, short])}
    assert sorted(parts) == [0, 5, 10, 15, 20]
    again = [decode_piece(Piece(0, file_entry(long), first), CUT) for first in sorted(parts)]
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


def _decoded_here(paths: list[Path]) -> list[tuple[Piece, DecodedPiece | MediaError]]:
    return list(decode_films(map(file_entry, paths), CUT, workers=1))


def test_a_film_in_pieces_is_yielded_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "map_isolated", _here)
    monkeypatch.setattr(moments_module, "_PIECE_MOMENTS", 3)
    paths = [film(tmp_path / "long.mp4", [RED, GREEN, BLUE, RED]), film(tmp_path / "short.mp4", [BLUE])]
    films = _embed(paths)
    assert [f.number for f in films] == [0, 1]
    assert [len(f.moments) for f in films] == [7, 1]
    assert [m.span.start_seconds for m in films[0].moments] == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def _here(function, items, *, workers, seconds_each, pool, going_on):  # type: ignore[no-untyped-def]
    """map_isolated without processes."""
    for item in items:
        try:
            yield item, function(item)
        except MediaError as error:
            yield item, error


def test_pieces_are_small_whatever_the_geometry() -> None:
    published = Cut(
        type(CLIP)(frames=4, height=224, width=224, clip_seconds=10, window_seconds=2.6, sample_rate_hz=44100), 5
    )
    moment_bytes = 4 * (3 * 224 * 224 + 2 * 114660)
    assert published.piece_moments == 24_000_000 // moment_bytes == 15
    assert CUT.piece_moments == 128


def test_a_stretch_and_a_separate_sound_file(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [RED, RED, GREEN, GREEN])
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
    assert nothing.faults[0].reason == "too-short"
    assert "its stretch begins at 9.00 s" in nothing.faults[0].message


def test_embed_file_gives_the_fault(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"bell.wav: has no picture, only sound"):
        embed_file(sound(tmp_path / "bell.wav", [RED]), ColourEncoder(), sound=False)
    with pytest.raises(MediaError, match=r"mute.mp4: has no sound, only a picture"):
        embed_file(film(tmp_path / "mute.mp4", [RED], sound=None), ColourEncoder(), picture=False)


class _NanEncoder(ColourEncoder):
    def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
        clip_BE, frames_BTE = super().embed_video(pixels_BTCHW)
        return Embedding(clip_BE * float("nan"), frames_BTE)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="not finite; take another checkpoint"):
        embed_file(film(tmp_path / "a.mp4", [RED]), _NanEncoder())


def test_loaded_run_gives_one_unit_vector_a_file(tmp_path: Path) -> None:
    paths = [film(tmp_path / "a.mp4", [RED]), film(tmp_path / "b.mp4", [GREEN, BLUE])]
    run = LoadedRun(ColourEncoder())
    video, audio = run.embed_video(paths), run.embed_audio([str(path) for path in paths])
    assert (video.dtype, video.shape) == (np.float32, (2, 4))
    assert np.allclose(np.linalg.norm(video, axis=1), 1.0, atol=1e-6)
    assert video[0] @ unit(RED) > 0.985
    assert video[1] @ unit((0.0, 0.5, 0.5)) > 0.97
    assert (video * audio).sum(1).min() > 0.97
    assert run.embed_video([]).shape == (0, 4)
    with pytest.raises(SettingsError, match="got one path, expected a list"):
        run.embed_video("a.mp4")
    with pytest.raises(MediaError, match="no such file"):
        run.embed_video([paths[0], tmp_path / "gone.mp4"])


def test_a_film_s_vector_is_the_middle_of_its_senses_or_the_one_it_has(tmp_path: Path) -> None:
    run = LoadedRun(ColourEncoder())
    paths = [
        film(tmp_path / "both.mp4", [RED], sound=[GREEN]),
        film(tmp_path / "mute.mp4", [RED], sound=None),
        sound(tmp_path / "heard.wav", [GREEN]),
    ]
    middle = unit(RED) + unit(GREEN)
    expected = [middle / np.linalg.norm(middle), unit(RED), unit(GREEN)]
    np.testing.assert_allclose(run.embed_film(paths), expected, atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(run.embed_film(paths), axis=1), 1.0, atol=1e-6)
    assert both_senses(unit(RED), None).tolist() == pytest.approx(unit(RED).tolist(), abs=1e-7)
    with pytest.raises(ValueError, match="without picture and sound"):
        both_senses(None, None)


def test_embed_writes_parquet_in_order(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "deep" / "vectors.parquet"
    film(data / "b.mp4", [RED, BLUE])
    sound(data / "c.wav", [GREEN])
    film(data / "a.mp4", [GREEN], sound=None)
    (data / "d.mp4").write_bytes(b"")
    (data / "notes.txt").write_text("x")
    settings = EmbedSettings(model="-", data=str(data), out=str(out), workers=1)
    report = embed(settings, encoder=ColourEncoder())
    assert (report.films, report.moments) == (3, 5)
    assert report.skips.counts == {"not-media": 1, "empty": 1}
    assert json.dumps(report.as_json())
    assert report.render().plain.startswith(f"{out}: 5 moments of 3 files\n2 files left out: ")
    assert f"  {data / 'd.mp4'}: has zero bytes" in report.render().plain
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert [os.path.basename(row["path"]) for row in rows] == ["a.mp4", "b.mp4", "b.mp4", "b.mp4", "c.wav"]
    assert rows[0]["audio"] is None
    assert rows[4]["video"] is None
    assert _near(np.array(rows[1]["video"]), RED)
    card = json.loads(table.schema.metadata[b"cmmixer"])
    assert (card["model_id"], card["embed_dim"], card["clip"]["frames"]) == (ColourEncoder().id, 4, 2)
    assert list(out.parent.iterdir()) == [out]


def test_what_a_killed_embed_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    film(tmp_path / "data" / "a.mp4", [RED])
    out = tmp_path / "vectors.parquet"
    left, other = tmp_path / ".tmp-1-vectors.parquet", tmp_path / ".tmp-1-my-vectors.parquet"
    held = tmp_path / ".tmp-2-vectors.parquet"
    for path in (left, other, held):
        path.touch()
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        embed(EmbedSettings(model="-", data=str(tmp_path / "data"), out=str(out), workers=1), encoder=ColourEncoder())
    assert sorted(tmp_path.glob("*vectors.parquet")) == [other, held, out]


def test_frames_are_written_beside_the_moments(tmp_path: Path) -> None:
    film(tmp_path / "data" / "a.mp4", [RED, BLUE], sound=None)
    out = tmp_path / "vectors.parquet"
    embed(
        EmbedSettings(model="-", data=str(tmp_path / "data"), out=str(out), workers=1, frames=True),
        encoder=ColourEncoder(),
    )
    rows = pq.read_table(out).to_pylist()
    assert [row["audio_frames"] for row in rows] == [None] * 3
    first, middle = np.array(rows[0]["video_frames"]), np.array(rows[1]["video_frames"])
    assert first.shape == (2, 4)
    assert all(_near(vector, RED) for vector in first)
    assert _near(middle[0], RED)
    assert _near(middle[1], BLUE)
