"""Galleries: frozen, hashed, written and read strictly."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from cmmixer.errors import DataError
from cmmixer.evaluation.gallery import freeze, load_gallery, save_gallery

IDS = ["b.mp4#0-4", "a.mp4#4-8", "a.mp4#0-4"]


def test_a_gallery_is_sorted_and_named_by_its_ids() -> None:
    gallery = freeze(IDS)
    assert gallery.ids == ("a.mp4#0-4", "a.mp4#4-8", "b.mp4#0-4")
    assert len(gallery) == 3
    # sha256 of ["a.mp4#0-4","a.mp4#4-8","b.mp4#0-4"], by `printf ... | sha256sum`.
    assert gallery.sha256 == "630460c4eeec7781dc0d2e6160320aae9e7b75c7f1d307be31010e9b55d9131a"
    assert freeze(reversed(IDS)) == gallery
    assert freeze(IDS[:2]).sha256 != gallery.sha256


def test_file_round_trip(tmp_path: Path) -> None:
    gallery = freeze([*IDS, "na\u00efve \u2603.mp4#0-4", "bytes-\udcff.mp4#0-4"])
    file = tmp_path / "there" / "gallery.json"
    save_gallery(gallery, file)
    assert load_gallery(file) == gallery
    assert json.loads(file.read_text())["count"] == 5
    assert list(json.loads(file.read_text())) == ["format", "count", "sha256", "ids"]


def test_positions_of_its_clips_in_the_data() -> None:
    assert freeze(IDS).positions(["x", *IDS]) == [3, 2, 1]


def test_clips_the_data_lacks_are_named() -> None:
    with pytest.raises(
        DataError, match=r"the data lacks 2 of the gallery's 3 clips \(a.mp4#0-4, b.mp4#0-4\); evaluate on"
    ):
        freeze(IDS).positions(["a.mp4#4-8"])


def test_no_clips_and_clips_twice_are_refused() -> None:
    with pytest.raises(DataError, match="a gallery needs clips; got none"):
        freeze([])
    with pytest.raises(DataError, match=r"must be unique; 1 come more than once \(a\)"):
        freeze(["a", "b", "a", "a"])


@pytest.mark.parametrize(
    "change", [{"ids": ["a", "b"]}, {"sha256": "0" * 64}, {"ids": ["c", "b", "a"]}, {"ids": ["a", "b", "d"]}]
)
def test_a_changed_gallery_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "gallery.json"
    save_gallery(freeze(["a", "b", "c"]), file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError) as refused:
        load_gallery(file)
    expected = f"gallery {file}: changed since it was frozen (sha256 of its ids differs); freeze a new one"
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged (not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[1]", "damaged (got a JSON list, expected an object)"),
        ('{"ids": [1]}', "damaged (got format None, expected 1)"),
        ('{"format": 1, "ids": []}', "damaged (missing keys: count, sha256)"),
        ('{"format": 1, "count": 1, "sha": "", "ids": ["a"]}', "damaged (unknown keys: sha (did you mean sha256?))"),
        ('{"format": 1, "count": 1, "sha256": "", "ids": [1]}', "damaged (ids: got 1, expected str)"),
        ('{"format": 0, "ids": ["a"]}', "got format 0 of an older version of cmmixer, expected 1"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "gallery.json"
    file.write_text(content)
    with pytest.raises(DataError) as refused:
        load_gallery(file)
    assert str(refused.value) == f"gallery {file}: {message}; freeze a new one with `cmmixer evaluate --gallery`"


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    with pytest.raises(DataError) as refused:
        load_gallery(file)
    assert str(refused.value) == f"gallery {file}: cannot be read (No such file or directory)"
    file.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"damaged \(not UTF-8: invalid start byte\)"):
        load_gallery(file)
    file.write_text('{"format": 1, "count": 0, "sha256": "", "ids": []}')
    with pytest.raises(DataError, match="a gallery needs clips; got none"):
        load_gallery(file)


def test_many_missing_clips_are_abbreviated() -> None:
    with pytest.raises(
        DataError, match=r"lacks 5 of the gallery's 5 clips \(0, 1, 2, \.\.\.\); evaluate on the data it"
    ):
        freeze("01234").positions([])


def test_a_full_disk_keeps_the_old_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gallery.json"
    save_gallery(freeze(IDS), file)

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmmixer.evaluation.gallery.write_atomically", full)
    with pytest.raises(DataError, match="the disk is full"):
        save_gallery(freeze(IDS[:1]), file)
    assert load_gallery(file) == freeze(IDS)
