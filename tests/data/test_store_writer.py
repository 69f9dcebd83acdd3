"""Writing rows to a store: nothing shows before the commit, and of a worker's part only the accepted rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cmmixer.data.clip_encoding import EncodedClip, EncodedMedia
from cmmixer.data.manifest import Entry
from cmmixer.data.store import SCHEMA
from cmmixer.data.store_writer import StoreWriter, WrittenPart, rows_of, write_part
from cmmixer.errors import StoreError
from cmmixer.storage.files import LOCK
from cmmixer.storage.folder import LocalFolder
from cmmixer.types import Span
from tests.support.small_stores import table_rows


def entry(name: str) -> Entry:
    return Entry(f"/x/{name}.mp4", f"{name}.mp4", name, label="dog", split="train")


def media(name: str, clips: int) -> EncodedMedia:
    encoded = [
        EncodedClip(f"{name}.mp4#{index}", Span(index, index + 1.0), [index + 0.5], [b"jpeg", b"!"], b"\1\2\3\4")
        for index in range(clips)
    ]
    return EncodedMedia(encoded, f"sha of {name}", -20.0, None)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StoreWriter]:
    folder = LocalFolder(tmp_path)
    with folder.lock(LOCK, StoreError("busy")) as lock:
        yield StoreWriter(folder, lock)


def ids(folder: Path) -> list[str]:
    return list(table_rows(folder)["id"].to_pylist())


def test_rows_hold_what_the_clips_do() -> None:
    (row, _) = rows_of(entry("a"), media("a", 2), 8000)
    assert list(row) == SCHEMA.names
    assert (row["id"], row["entry"], row["path"], row["source"]) == ("a.mp4#0", "a.mp4", "/x/a.mp4", "a")
    assert (row["label"], row["split"], row["sample_rate_hz"]) == ("dog", "train", 8000)
    assert (row["start_seconds"], row["end_seconds"], row["frame_times"]) == (0, 1.0, [0.5])
    assert (row["frame_bytes"], row["frames"], row["windows"]) == ([4, 1], b"jpeg!", b"\1\2\3\4")
    assert row["video_fingerprint"] == "sha of a"


def test_added_videos_show_with_the_commit(writer: StoreWriter, tmp_path: Path) -> None:
    assert writer.videos() == {}
    writer.add(entry("a"), media("a", 2), 8000)
    assert writer.pending_bytes == media("a", 2).bytes == 2 * (5 + 4)
    assert ids(tmp_path) == []
    writer.commit()
    assert writer.pending_bytes == 0
    assert ids(tmp_path) == ["a.mp4#0", "a.mp4#1"]
    assert writer.videos() == {"a.mp4": ("/x/a.mp4", "sha of a")}
    writer.commit()  # nothing is pending
    assert ids(tmp_path) == ["a.mp4#0", "a.mp4#1"]


def test_a_part_shows_with_the_commit_and_without_its_duplicates(writer: StoreWriter, tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    whole = write_part(folder, rows_of(entry("a"), media("a", 2), 8000))
    partly = write_part(folder, rows_of(entry("b"), media("b", 3), 8000))
    unused = write_part(folder, rows_of(entry("c"), media("c", 1), 8000))
    assert whole.keys == [("a.mp4", "a.mp4#0"), ("a.mp4", "a.mp4#1")]
    writer.add_part(whole, whole.keys)
    writer.add_part(partly, {("b.mp4", "b.mp4#2"), ("b.mp4", "b.mp4#0")})
    writer.add_part(unused, set())
    assert ids(tmp_path) == []
    writer.commit()
    assert ids(tmp_path) == ["a.mp4#0", "a.mp4#1", "b.mp4#0", "b.mp4#2"]
    assert len(list((tmp_path / "clips.lance/data").iterdir())) == 4
    writer.tidy()
    assert len(list((tmp_path / "clips.lance/data").iterdir())) == 2  # the files of rows that nothing uses are gone
    assert ids(tmp_path) == ["a.mp4#0", "a.mp4#1", "b.mp4#0", "b.mp4#2"]


def test_parts_add_up(tmp_path: Path) -> None:
    one, other = WrittenPart(["f"], [("a", "1")]), WrittenPart(["g"], [("b", "2")])
    assert one + other == WrittenPart(["f", "g"], [("a", "1"), ("b", "2")])
    assert write_part(LocalFolder(tmp_path), []) == WrittenPart([], [])
