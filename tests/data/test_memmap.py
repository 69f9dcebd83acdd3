"""Spooled clips are what decoding them one by one gives; what a file lacks is marked, what is broken is listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmmixer.config import ClipSettings
from cmmixer.data import memmap as spool_module
from cmmixer.data.manifest import read_manifest
from cmmixer.data.memmap import SpooledClips, spool_clips
from cmmixer.data.moments import Cut, Piece, decode_piece
from cmmixer.errors import DataError
from cmmixer.media.decode import read_clip
from cmmixer.progress import NoProgress
from cmmixer.types import Span
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, film, sound


def spool(
    folder: Path, even: int = 3, *, picture: bool = True, hear: bool = True, clip: ClipSettings = CLIP
) -> SpooledClips:
    return spool_clips(
        read_manifest(folder), clip, folder.parent / "spool", even=even, picture=picture, sound=hear, workers=1,
        file_seconds=30.0, progress=NoProgress(),
    )  # fmt: skip


def test_clips_are_those_that_decoding_one_by_one_gives(tmp_path: Path) -> None:
    path = film(tmp_path / "films" / "a.mp4", [RED, GREEN, BLUE])
    clips = spool(tmp_path / "films")
    assert [span.start_seconds for span in clips.spans] == [0.0, 1.0, 2.0]
    assert clips.there_RS.all()
    for row, start in enumerate((0.0, 1.0, 2.0)):
        expected = read_clip(path, Span(start, start + 1.0), CLIP, id="a", source="a", file_seconds=30.0)
        assert expected.frames is not None
        assert expected.sound is not None
        got = clips[row]
        assert got.frames is not None
        assert got.sound is not None
        np.testing.assert_array_equal(got.frames.pixels_THWC, expected.frames.pixels_THWC)
        # One decoder reads the whole film here; its AAC state moves a sample by one step now and then.
        np.testing.assert_allclose(got.sound.samples_TN.astype(int), expected.sound.samples_TN.astype(int), atol=2)
        np.testing.assert_allclose(got.frames.times_seconds_T, expected.frames.times_seconds_T)


def test_rows_are_the_clips_asked_for_in_that_order(tmp_path: Path) -> None:
    film(tmp_path / "films" / "a.mp4", [RED, GREEN, BLUE])
    clips = spool(tmp_path / "films")
    some = clips.rows(np.array([2, 0]))
    assert (len(some), some.ids) == (2, [clips.ids[2], clips.ids[0]])
    again = some.rows(np.array([1]))
    for got, row in ((some[0], 2), (some[1], 0), (again[0], 0)):
        assert got.id == clips.ids[row]
        expected = clips[row].frames
        assert got.frames is not None
        assert expected is not None
        np.testing.assert_array_equal(got.frames.pixels_THWC, expected.pixels_THWC)


def test_what_a_file_lacks_is_marked_and_what_is_broken_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    film(folder / "a.mp4", [RED, GREEN], sound=None)
    sound(folder / "b.wav", [BLUE], seconds_each=0.5)
    (folder / "c.mp4").write_bytes(b"no film")
    clips = spool(folder, even=2)
    assert clips.files_R.tolist() == [0, 0, 1]
    assert clips.there_RS.tolist() == [[True, False], [True, False], [False, True]]
    assert clips.is_short.tolist() == [False, False, True]
    assert [skip.path for skip in clips.skips] == [str(folder / "c.mp4")]
    silent = clips[0].sound
    assert silent is not None
    assert not silent.samples_TN.any()


def test_a_sense_that_is_not_asked_for_takes_no_room(tmp_path: Path) -> None:
    film(tmp_path / "films" / "a.mp4", [RED, GREEN])
    clips = spool(tmp_path / "films", picture=False)
    assert clips.pixels_RTCHW.shape == (3, CLIP.frames, 3, 1, 1)
    assert clips.there_RS[:, 1].all()
    assert not clips.there_RS[:, 0].any()


def test_nothing_that_can_be_used_is_an_error(tmp_path: Path) -> None:
    film(tmp_path / "films" / "a.mp4", [RED], sound=None)
    with pytest.raises(DataError, match="no file gives a clip; 1 file left out: 1 without sound"):
        spool(tmp_path / "films", picture=False)


def test_clips_stand_in_the_order_of_their_files_however_pieces_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        film(tmp_path / "films" / f"{name}.mp4", [RED, GREEN, BLUE])
    whole = spool(tmp_path / "films")
    pictures = [np.array(whole[row].frames.pixels_THWC) for row in range(6)]  # type: ignore[union-attr]
    # Pieces of one moment, the last first; into the same files.
    entries = read_manifest(tmp_path / "films")
    cut = Cut(CLIP, 1.0, even=3)
    monkeypatch.setattr(Cut, "piece_moments", property(lambda self: 1))
    pieces = [Piece(number, entry, first) for number, entry in enumerate(entries) for first in range(3)]
    backwards = [(piece, decode_piece(piece, cut)) for piece in reversed(pieces)]
    monkeypatch.setattr(spool_module, "decode_films", lambda *arguments, **options: iter(backwards))
    again = spool(tmp_path / "films")
    assert again.ids == whole.ids
    assert again.files_R.tolist() == whole.files_R.tolist() == [0, 0, 0, 1, 1, 1]
    for row in range(6):
        got = again[row].frames
        assert got is not None
        np.testing.assert_array_equal(got.pixels_THWC, pictures[row])
