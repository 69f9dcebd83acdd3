"""The folder of vectors: an interrupted run resumes file by file; anything else in its place is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmmixer.config import EmbedSettings, SegmentSettings
from cmmixer.data.manifest import Entry, Listing
from cmmixer.data.skips import SkipReport
from cmmixer.embedding import embed as embed_module
from cmmixer.embedding import vector_table
from cmmixer.embedding.embed import embed
from cmmixer.embedding.parquet import parquet_schema
from cmmixer.embedding.pipeline import EmbeddedFile, Moment
from cmmixer.embedding.read import read_vectors
from cmmixer.embedding.vector_table import VectorFolder, VectorsMetadata, in_groups, vectors_table, write_files
from cmmixer.errors import MediaError, StoreError
from cmmixer.progress import NoProgress
from cmmixer.storage.folder import LocalFolder, open_folder
from cmmixer.types import Span
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, video


class _Stopped(NoProgress):
    """Interrupts the run in the middle, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def test_interrupted_run_resumes_to_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_table, "COMMIT_SECONDS", 0.0)
    data = tmp_path / "data"
    for number, colour in enumerate((RED, GREEN, BLUE, RED, GREEN, BLUE)):
        video(data / f"{number}.mp4", [colour, GREEN])
    (data / "2 broken.mp4").write_bytes(b"not a video")

    def run(out: Path, progress: NoProgress | None = None) -> Any:
        settings = EmbedSettings(model="-", data=str(data), out=str(out), workers=1, batch_size=1, vectors="int8")
        return embed(settings, progress, encoder=ColourEncoder())

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", _Stopped(after=4))
    metadata = vector_table.VectorsMetadata.read(open_folder(tmp_path / "out"))
    half = set(vector_table.vectors_table(open_folder(tmp_path / "out")).to_table()["entry"].to_pylist())
    assert (metadata.complete, 0 < len(half) < 6) == (False, True)
    embedded: list[str] = []
    real = embed_module.embed_moments

    def noted(entries: Any, *rest: Any, **options: Any) -> Any:
        embedded.extend(entry.key for entry in entries)
        return real(entries, *rest, **options)

    monkeypatch.setattr(embed_module, "embed_moments", noted)
    again = run(tmp_path / "out")
    assert half.isdisjoint(embedded)
    assert half | set(embedded) - {"2 broken.mp4"} == {f"{number}.mp4" for number in range(6)}
    assert again.as_json() == whole.as_json() | {"out": str(tmp_path / "out")}
    assert (again.videos, again.skips.counts) == (6, {"unreadable": 1})
    assert read_vectors(tmp_path / "out").equals(read_vectors(tmp_path / "whole"))
    assert vector_table.VectorsMetadata.read(open_folder(tmp_path / "out")).complete
    assert (tmp_path / "out/skipped.txt").read_text() == (tmp_path / "whole/skipped.txt").read_text()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no vectors there \(vectors\.json is missing\)"):
        read_vectors(tmp_path)
    (tmp_path / "vectors.json").write_text("{")
    with pytest.raises(StoreError, match=r"vectors\.json: damaged"):
        read_vectors(tmp_path)
    video(tmp_path / "data/a.mp4", [RED])
    (tmp_path / "file").write_text("x")
    settings = EmbedSettings(model="-", data=str(tmp_path / "data"), out=str(tmp_path / "file"), workers=1)
    with pytest.raises(
        StoreError, match=r"file: is a file; vectors go into a folder, or into a file named \*\.parquet"
    ):
        embed(settings, encoder=ColourEncoder())


def _moments(count: int, start: float = 0.0) -> list[Moment]:
    vectors = np.eye(4, dtype=np.float32)
    return [Moment(Span(start + n, start + n + 1), vectors[n % 4], vectors[(n + 1) % 4]) for n in range(count)]


def _file(number: int, moments: int, errors: list[MediaError] | None = None) -> EmbeddedFile:
    return EmbeddedFile(number, _entry(number), _moments(moments), errors or [])


def _entry(number: int) -> Entry:
    return Entry(f"/v/{number}.mp4", f"{number}.mp4", "s")


def _metadata(**changes: Any) -> VectorsMetadata:
    made = VectorsMetadata.of(ColourEncoder(), SegmentSettings(), "fp32", frames=False)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    (tmp_path / "vectors").mkdir()
    return LocalFolder(tmp_path / "vectors")


@contextmanager
def _open(folder: LocalFolder, metadata: VectorsMetadata | None = None) -> Iterator[VectorFolder]:
    with folder.lock(vector_table.LOCK, StoreError("busy")) as lock:
        yield VectorFolder(folder, lock, metadata or _metadata())


def _listing(numbers: range) -> Listing:
    return Listing([_entry(number) for number in numbers], SkipReport())


def test_files_are_visible_after_a_commit(folder: LocalFolder) -> None:
    with _open(folder) as vectors:
        vectors.add(write_files(folder, vectors.metadata, [_file(0, 2), _file(1, 3)]))
        assert vectors_table(folder).count_rows() == 0
        assert [entry.name for entry in vectors.missing([_entry(n) for n in range(3)])] == ["2.mp4"]
        vectors.commit()
        assert vectors_table(folder).to_table(columns=["entry"])["entry"].to_pylist() == ["0.mp4"] * 2 + ["1.mp4"] * 3
    with _open(folder) as vectors:
        assert [entry.name for entry in vectors.missing([_entry(n) for n in range(3)])] == ["2.mp4"]


def test_uncommitted_files_are_embedded_again(folder: LocalFolder) -> None:
    with _open(folder) as vectors:
        vectors.add(write_files(folder, vectors.metadata, [_file(0, 2)]))
    with _open(folder) as vectors:
        assert [entry.name for entry in vectors.missing([_entry(0)])] == ["0.mp4"]
    assert vectors_table(folder).count_rows() == 0


def test_many_rows_are_committed_at_once(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_table, "COMMIT_ROWS", 4)
    with _open(folder) as vectors:
        vectors.add(write_files(folder, vectors.metadata, [_file(0, 3)]))
        assert vectors_table(folder).count_rows() == 0
        vectors.add(write_files(folder, vectors.metadata, [_file(1, 1)]))
        assert vectors_table(folder).count_rows() == 4


def test_finish_reports_files_without_moments_and_files_with_only_some(folder: LocalFolder) -> None:
    broken = MediaError("/v/1.mp4", "unreadable", "cannot be decoded")
    cut_off = MediaError("/v/2.mp4", "time-limit", "took longer than 60 s")
    with _open(folder) as vectors:
        vectors.add(write_files(folder, vectors.metadata, [_file(0, 1), _file(1, 0, [broken]), _file(2, 2, [cut_off])]))
        used, moments, skips = vectors.finish(_listing(range(3)))
    assert (used, moments) == (2, 3)
    assert [(skip.path, skip.reason, skip.clips_used) for skip in skips] == [
        ("/v/1.mp4", "unreadable", 0),
        ("/v/2.mp4", "time-limit", 2),
    ]
    assert VectorsMetadata.read(folder).complete
    assert "/v/2.mp4" in (folder.path / "skipped.txt").read_text()
    with _open(folder) as vectors:  # a file that failed is not tried again
        assert vectors.missing([_entry(n) for n in range(3)]) == []
    assert not VectorsMetadata.read(folder).complete


def test_files_listed_twice_are_embedded_once(folder: LocalFolder) -> None:
    with _open(folder) as vectors:
        assert [entry.name for entry in vectors.missing([_entry(0), _entry(1), _entry(0)])] == ["0.mp4", "1.mp4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": "int8"}, "vectors: got int8, holds fp32"),
        ({"frames": True}, "frames: got True, holds False"),
        ({"model_id": "other"}, f"model_id: got other, holds {ColourEncoder().id}"),
        ({"embed_dim": 8, "vectors": "bf16"}, "embed_dim: got 8, holds 4; vectors: got bf16, holds fp32"),
    ],
)
def test_vectors_made_differently_are_refused(folder: LocalFolder, changes: dict[str, Any], message: str) -> None:
    with _open(folder):
        pass
    with pytest.raises(StoreError) as refused, _open(folder, _metadata(**changes)):
        pass
    assert str(refused.value) == f"{folder}: holds vectors made differently: {message}; choose another folder"


def test_model_may_have_moved_and_the_version_changed(folder: LocalFolder) -> None:
    with _open(folder):
        pass
    with _open(folder, _metadata(model="elsewhere", created_by="cmmixer 0.0.1")) as vectors:
        assert vectors.metadata.model == "elsewhere"


def test_metadata_survives_a_round_trip(folder: LocalFolder) -> None:
    metadata = _metadata(complete=True)
    metadata.write(folder)
    assert VectorsMetadata.read(folder) == metadata
    values = json.loads((folder.path / "vectors.json").read_text())
    assert values["format"] == vector_table.FORMAT == 2
    assert values["segmentation"] == {"moment_seconds": 1.0, "stride_seconds": 0.5, "shots": False}


def test_another_format_is_refused(folder: LocalFolder) -> None:
    (folder.path / "vectors.json").write_text(json.dumps({**_metadata().as_json(), "format": 1}))
    with pytest.raises(StoreError, match=r"vectors\.json: got format 1 .*, expected 2; embed into another folder"):
        VectorsMetadata.read(folder)


def test_schema_names_the_model(folder: LocalFolder) -> None:
    schema = _metadata(vectors="int8", frames=True).schema()
    assert schema.names == [*parquet_schema("int8", frames=True).names, "entry"]
    about = json.loads(schema.metadata[b"cmmixer"])
    assert (about["model_id"], about["embed_dim"], about["vectors"]) == (ColourEncoder().id, 4, "int8")
    assert set(about) == {"model_id", "embed_dim", "clip", "vectors"}


def test_files_are_grouped_by_rows_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [_file(number, 2) for number in range(5)]
    assert list(in_groups(files)) == [files]
    monkeypatch.setattr(vector_table, "COMMIT_ROWS", 4)
    assert [[file.number for file in group] for group in in_groups(files)] == [[0, 1], [2, 3], [4]]
    monkeypatch.setattr(vector_table, "COMMIT_SECONDS", -1.0)
    assert [[file.number for file in group] for group in in_groups(files)] == [[0], [1], [2], [3], [4]]
    assert list(in_groups([])) == []
