"""The index's folder: what is written is read, what a kill leaves is cleaned up, and moments count only while a row names them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest

from cmmixer.config import SegmentSettings
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import ANNSettings, FileRow
from cmmixer.retrieval.tables import WRITING
from tests.support import vector_library as vectors
from tests.support.coloured_videos import ColourEncoder

FRAMES, DIM = 2, 4


def _unit(count: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _moment(row: FileRow, start: float, vector_E: np.ndarray, *, audio: bool = True) -> dict[str, Any]:
    shared = {name: getattr(row, name) for name in ("batch", "path", "audio_path", "source", "label")}
    frames = np.stack([vector_E, -vector_E]).astype(np.float16).reshape(-1)
    return {
        "id": f"{row.name}#{start}", **shared, "start_seconds": start, "end_seconds": start + 1.0,
        "video": vector_E, "audio": -vector_E if audio else None, "any": vector_E,
        "video_frames": frames, "audio_frames": -frames if audio else None,
    }  # fmt: skip


def _fill(folder: Path, files: int = 3, moments: int = 2) -> list[FileRow]:
    rows = [vectors.file_row(number) for number in range(files)]
    drawn = _unit(files * moments)
    with MomentIndex.writing(folder, ColourEncoder()) as library:
        for number, row in enumerate(rows):
            own = [_moment(row, 0.5 * n, drawn[moments * number + n], audio=n > 0) for n in range(moments)]
            library.put(row, own, None)
    return rows


@contextmanager
def _interrupted(folder: Path) -> Iterator[MomentIndex]:
    """Opens the index for writing, and interrupts the writer at the end."""
    with suppress(KeyboardInterrupt), MomentIndex.writing(folder) as library:
        yield library
        raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library"


def _stored_keys(folder: Path) -> list[str]:
    return sorted(lancedb.connect(folder).open_table("moments").to_arrow()["batch"].to_pylist())


def test_what_is_put_is_read(folder: Path) -> None:
    rows = _fill(folder)
    library = MomentIndex.open(folder)
    assert sorted(library.files(), key=lambda row: row.name) == rows
    assert library.count() == 6
    assert library.named(["b0", "b2", "b9"]) == {"b0", "b2"}
    assert (folder / WRITING).read_bytes() == b""


def test_moments_of_a_file_are_in_order_of_time(folder: Path) -> None:
    _fill(folder)
    library = MomentIndex.open(folder)
    first, second = library.moments_of("b1", frames=True)
    assert (first["start_seconds"], second["start_seconds"]) == (0.0, 0.5)
    assert first["audio"] is None
    assert first["audio_frames"] is None
    vector_E = _unit(6)[3]
    np.testing.assert_allclose(second["video"], vector_E, atol=1e-6)
    np.testing.assert_allclose(second["audio_frames"], [-vector_E, vector_E], atol=1e-3)
    assert second["video_frames"].shape == (FRAMES, DIM)
    assert second["video_frames"].dtype == np.float32
    assert "video_frames" not in library.moments_of("b1")[0]
    assert library.moments_of("b9") == []


def test_time_ranges_reach_from_the_first_start_to_the_last_end(folder: Path) -> None:
    _fill(folder, moments=3)
    assert MomentIndex.open(folder).time_ranges() == {f"b{number}": (0.0, 2.0) for number in range(3)}


def test_nearest_equals_plain_loops_with_frames(folder: Path) -> None:
    _fill(folder, files=10, moments=3)
    library, drawn, queries = MomentIndex.open(folder), _unit(30), _unit(2, seed=1)
    rows = library.nearest(queries, "video", 5, frames=True)
    assert [row["query"] for row in rows] == [0] * 5 + [1] * 5
    for query in (0, 1):
        own = [row for row in rows if row["query"] == query]
        expected = vectors.slow_nearest(drawn, queries[query], 5)
        assert [(row["path"], row["start_seconds"]) for row in own] == [
            (f"/sounds/{place // 3}.wav", 0.5 * (place % 3)) for place in expected
        ]
        for row, place in zip(own, expected, strict=True):
            assert row["score"] == pytest.approx(float(drawn[place] @ queries[query]), abs=1e-5)
            np.testing.assert_allclose(row["frames"], [drawn[place], -drawn[place]], atol=1e-3)
    assert "frames" not in library.nearest(queries, "video", 1)[0]
    assert "video" not in rows[0]


def test_nearest_can_be_limited_to_keys(folder: Path) -> None:
    _fill(folder, files=10)
    library = MomentIndex.open(folder)
    rows = library.nearest(_unit(1, seed=1), "audio", 9, batches=["b4", "b7"])
    assert {row["batch"] for row in rows} == {"b4", "b7"}
    assert len(rows) == 2  # of each file one moment has audio
    assert library.nearest(_unit(1, seed=1), "audio", 9, batches=["it's none"]) == []


@pytest.mark.parametrize("shape", [(4,), (1, 3), (1, 4, 4)])
def test_vectors_of_another_shape_are_refused(folder: Path, shape: tuple[int, ...]) -> None:
    _fill(folder)
    with pytest.raises(SearchIndexError) as refused:
        MomentIndex.open(folder).nearest(np.zeros(shape, np.float32), "video", 3)
    assert str(refused.value) == (
        f"{folder}: got vectors of shape {shape}, expected (queries, 4); embed the query with the model that made the index"
    )


def test_put_replaces_the_moments_of_the_row_before(folder: Path) -> None:
    rows = _fill(folder)
    new = dataclasses.replace(rows[1], batch="new", moments=1)
    with MomentIndex.writing(folder) as library:
        library.put(new, [_moment(new, 3.0, _unit(1)[0])], rows[1])
        assert library.uncommitted_rows == 2
        library.commit()
        assert library.uncommitted_rows == 0
        assert library.count() == 5
    assert _stored_keys(folder) == ["b0", "b0", "b2", "b2", "new"]
    assert {row.batch for row in MomentIndex.open(folder).files()} == {"b0", "b2", "new"}


def test_put_of_the_same_batch_keeps_its_moments(folder: Path) -> None:
    rows = _fill(folder)
    with MomentIndex.writing(folder) as library:
        library.put(dataclasses.replace(rows[1], label="bell"), [], rows[1])
    library = MomentIndex.open(folder)
    assert library.count() == 6
    assert [row.label for row in library.files() if row.name == rows[1].name] == ["bell"]


def test_removed_files_take_their_moments_along(folder: Path) -> None:
    rows = _fill(folder)
    with MomentIndex.writing(folder) as library:
        library.remove([rows[0], dataclasses.replace(rows[2], batch=None)])
    assert [row.name for row in MomentIndex.open(folder).files()] == [rows[1].name]
    assert _stored_keys(folder) == ["b1", "b1", "b2", "b2"]


def test_next_writer_deletes_moments_that_no_row_names(folder: Path) -> None:
    rows = _fill(folder)
    orphan = vectors.file_row(9)
    with _interrupted(folder) as library:
        library.put(orphan, [_moment(orphan, 0.0, _unit(1)[0])], None)
        library.commit()
        library._files.delete(f"name = '{orphan.name}'")  # as if killed between moments and row
    assert "b9" in _stored_keys(folder)
    assert MomentIndex.open(folder).named(["b9"]) == set()
    with MomentIndex.writing(folder):
        pass
    assert _stored_keys(folder) == [key for row in rows for key in [row.batch] * 2]


def test_uncommitted_files_are_lost_with_an_interruption(folder: Path) -> None:
    _fill(folder)
    with _interrupted(folder) as library:
        library.put(vectors.file_row(9), [], None)
    assert len(list(MomentIndex.open(folder).files())) == 3


def test_next_writer_forgets_ann_indexes_that_do_not_exist(folder: Path) -> None:
    _fill(folder)
    lost = ANNSettings(kind="ivf_sq", why="-", rows=6, name="audio-1-ivf_sq", partitions=1, probes=1)
    exact = ANNSettings(kind="exact", why="6 moments are fewer than 1000", rows=6)
    with _interrupted(folder) as library:
        library.write_ann_settings("audio", lost)
        library.write_ann_settings("video", exact)
    opened = MomentIndex.open(folder)
    assert opened.metadata.ann_settings == {"audio": lost, "video": exact}
    assert opened.ann_settings("audio") is None  # the search is exact all the same
    assert opened.ann_settings("video") is None
    assert opened.ann_settings("any") is None
    with MomentIndex.writing(folder) as library:
        assert library.metadata.ann_settings == {"video": exact}
        assert library.unindexed_rows("video") == 0
    assert MomentIndex.open(folder).metadata.ann_settings == {"video": exact}


def test_readers_keep_their_version_while_a_writer_commits(folder: Path) -> None:
    _fill(folder)
    reader = MomentIndex.open(folder)
    with MomentIndex.writing(folder) as library:
        row = vectors.file_row(9)
        library.put(row, [_moment(row, 0.0, _unit(1)[0])], None)
        library.commit()
        assert library.count() == 7
    assert (reader.count(), MomentIndex.open(folder).count()) == (6, 7)


def test_tidy_merges_fragments_and_keeps_every_row(folder: Path) -> None:
    with MomentIndex.writing(folder, ColourEncoder()) as library:
        for number in range(4):
            row = vectors.file_row(number)
            library.put(row, [_moment(row, 0.0, _unit(4)[number])], None)
            library.commit()
        fragments = len(library.moments.get_fragments())
        library.tidy()
        assert (fragments, len(library.moments.get_fragments())) == (4, 1)
        assert library.count() == 4


def test_skips_are_written_for_people_and_machines(folder: Path) -> None:
    _fill(folder)
    with MomentIndex.writing(folder) as library:
        library.write_skips(SkipReport([Skip("a.mp4", "empty", "has zero bytes")]))
    assert "a.mp4: has zero bytes" in (folder / "skipped.txt").read_text()
    assert SkipReport.read(folder).counts == {"empty": 1}


def test_an_index_without_tables_is_refused(folder: Path) -> None:
    with MomentIndex.writing(folder, ColourEncoder(), SegmentSettings(shots=True)):
        pass
    assert MomentIndex.open(folder).metadata.segmentation.shots
    os.rename(folder / "files.lance", folder / "gone")
    with pytest.raises(SearchIndexError) as refused:
        MomentIndex.open(folder)
    assert str(refused.value) == f"{folder}: is damaged or was never filled; run `cmmixer index` on it again"


def test_leftovers_of_a_killed_writer_are_removed(folder: Path) -> None:
    _fill(folder)
    (folder / ".tmp-1-index.json").write_text("{")
    with MomentIndex.writing(folder):
        pass
    assert not (folder / ".tmp-1-index.json").exists()


def test_many_keys_are_looked_up_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmmixer.retrieval.index._KEYS_PER_STATEMENT", 2)
    rows = _fill(folder, files=5)
    library = MomentIndex.open(folder)
    keys = [row.batch for row in rows if row.batch is not None]
    assert library.named([*keys, "b9", "it's none"]) == set(keys)
    with MomentIndex.writing(folder) as writer:
        writer.remove(rows[1:])
    assert _stored_keys(folder) == ["b0", "b0"]
