"""Metadata files: written whole as readable JSON, read strictly, refused in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from cmmixer.errors import SettingsError, StoreError
from cmmixer.storage.folder import LocalFolder
from cmmixer.storage.metadata import FolderMetadata, MetadataFile


@dataclass(frozen=True)
class Size:
    """A part of the metadata that checks itself."""

    height: int
    width: int = 64
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.height < 1:
            raise SettingsError(f"--height: got {self.height}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class ShelfMetadata(FolderMetadata):
    """What an imaginary folder holds."""

    FILE: ClassVar[MetadataFile] = MetadataFile(
        "shelf", "shelf.json", 3, StoreError, "make one with `shelf --out {folder}`", "make it again"
    )

    size: Size
    owner: str
    by_name: dict[str, Size] = field(default_factory=dict)
    complete: bool = False


SHELF = ShelfMetadata(size=Size(32, scale=(1.0, 2.5)), owner="Ada", by_name={"small": Size(8)}, complete=True)


def _refused(text: str) -> str:
    with pytest.raises(StoreError) as refused:
        ShelfMetadata.from_text(text, "x/shelf.json")
    return str(refused.value)


def _altered(**changes: object) -> str:
    return json.dumps({**SHELF.as_json(), **changes})


def test_metadata_round_trip(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    SHELF.write(folder)
    assert ShelfMetadata.read(folder) == SHELF
    assert [path.name for path in tmp_path.iterdir()] == ["shelf.json"]


def test_written_file_is_readable_and_starts_with_the_format() -> None:
    lines = SHELF.to_text().splitlines()
    assert lines[:4] == ["{", ' "format": 3,', ' "size": {', '  "height": 32,']
    assert lines[-1] == "}"
    assert SHELF.to_text().endswith("}\n")


def test_defaults_may_be_left_out() -> None:
    text = json.dumps({"format": 3, "size": {"height": 7}, "owner": "Bo"})
    assert ShelfMetadata.from_text(text, "x") == ShelfMetadata(size=Size(7), owner="Bo")


def test_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing", tmp_path / "file" / "below"):
        (tmp_path / "file").touch()
        with pytest.raises(StoreError) as refused:
            ShelfMetadata.read(LocalFolder(folder))
        expected = f"{folder}: no shelf there (shelf.json is missing); make one with `shelf --out {folder}`"
        assert str(refused.value) == expected


def test_a_folder_in_place_of_the_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "shelf.json").mkdir()
    with pytest.raises(StoreError, match=r"no shelf there \(shelf\.json is missing\)"):
        ShelfMetadata.read(LocalFolder(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x/shelf.json: damaged (not JSON: Expecting value: line 1 column 1 (char 0)); make it again"),
        (
            '{"format": 3',
            "x/shelf.json: damaged (not JSON: Expecting ',' delimiter: line 1 column 13 (char 12)); make it again",
        ),
        ("[1]", "x/shelf.json: damaged (got a JSON list, expected an object); make it again"),
        ("{}", "x/shelf.json: damaged (got format None, expected 3); make it again"),
        (_altered(format="3"), "x/shelf.json: damaged (got format '3', expected 3); make it again"),
        (
            _altered(format=2, owner=0),
            "x/shelf.json: got format 2 of an older version of cmmixer, expected 3; make it again",
        ),
        (
            _altered(format=4, owners=[]),
            "x/shelf.json: got format 4 of a newer version of cmmixer, expected 3; use that version",
        ),
    ],
)
def test_damaged_or_outdated_text_is_refused(text: str, message: str) -> None:
    assert _refused(text) == message


def test_deeply_nested_json_is_damaged_not_a_crash() -> None:
    assert _refused("[" * 100_000).startswith("x/shelf.json: damaged (not JSON: maximum recursion depth exceeded")


def test_bytes_that_are_not_text_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "shelf.json").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError) as refused:
        ShelfMetadata.read(LocalFolder(tmp_path))
    assert str(refused.value) == f"{tmp_path}/shelf.json: damaged (not UTF-8: invalid start byte); make it again"


def test_unknown_and_missing_keys_are_named_all_at_once() -> None:
    values = {"format": 3, "size": {"hight": 3, "colour": 1}, "by_name": {"small": {}}, "colour": 2}
    assert _refused(json.dumps(values)) == (
        "x/shelf.json: damaged (unknown keys: colour, size.colour, size.hight (did you mean height?); "
        "missing keys: owner, by_name.small.height); make it again"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"owner": 3}, "owner: got 3, expected str"),
        ({"complete": 1}, "complete: got 1, expected bool"),
        ({"size": "large"}, 'size: got "large", expected object'),
        ({"by_name": [1]}, "by_name: got [1], expected object"),
        ({"size": {"height": True}}, "size.height: got true, expected int"),
        ({"size": {"height": 2.0}}, "size.height: got 2.0, expected int"),
        ({"size": {"height": 2, "scale": [1, 2, 3]}}, "size.scale: got [1, 2, 3], expected tuple"),
        ({"size": {"height": 2, "scale": [1, "2"]}}, 'size.scale: got "2", expected float'),
        ({"owner": None, "complete": None}, "owner: got null, expected str; complete: got null, expected bool"),
        ({"size": {"height": 0}}, "--height: got 0, expected 1 or more"),
    ],
)
def test_values_of_another_type_are_refused(changes: dict[str, object], why: str) -> None:
    assert _refused(_altered(**changes)) == f"x/shelf.json: damaged ({why}); make it again"


def test_whole_numbers_are_floats_too_and_lists_become_tuples() -> None:
    read = ShelfMetadata.from_text(_altered(size={"height": 2, "scale": [1, 2]}), "x")
    assert read.size.scale == (1, 2)
