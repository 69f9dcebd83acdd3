from __future__ import annotations

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


def test_written_and_read_back(tmp_path: Path) -> None:
    gallery = freeze([*IDS, "na\u00efve \u2603.mp4#0-4", "bytes-\udcff.mp4#0-4"])
    file = tmp_path / "there" / "gallery.json"
    save_gallery(gallery, file)
    assert load_gallery(file) == gallery
    assert json.loads(file.read_text())["count"] == 5


def test_where_its_clips_stand_in_the_data() -> None:
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


@pytest.mark.parametrize("change", [{"ids": ["a", "b"]}, {"sha256": "0" * 64}, {"ids": ["c", "b", "a"]}])
def test_a_changed_gallery_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "gallery.json"
    save_gallery(freeze(["a", "b", "c"]), file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=r"gallery .*gallery.json: changed since it was frozen"):
        load_gallery(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[1]", "no list of `ids`"),
        ('{"ids": [1]}', "no list of `ids`"),
        ('{"format": 9, "ids": ["a"]}', "got format 9, expected 1"),
        ('{"format": 1, "ids": []}', "a gallery needs clips"),
    ],
)
def test_what_is_no_gallery_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "gallery.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        load_gallery(file)


def test_a_missing_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        load_gallery(tmp_path / "none.json")
