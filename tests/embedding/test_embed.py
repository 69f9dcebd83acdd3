"""`cmmixer embed`: rows in the order of the data, frames if asked for, reports, and outputs that cannot be written."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmmixer.config import EmbedSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.embedding import vector_table
from cmmixer.embedding.embed import EmbedReport, embed
from cmmixer.embedding.read import read_vectors
from cmmixer.errors import InputError, SettingsError, StoreError
from cmmixer.progress import NoProgress
from cmmixer.storage.folder import open_folder
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, unit, video
from tests.support.killed_indexing import decode_here


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "map_sandboxed", decode_here)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    video(folder / "b.mp4", [RED, BLUE])
    sound(folder / "c.wav", [GREEN])
    video(folder / "a.mp4", [GREEN], sound=None)
    (folder / "d.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    return folder


def _embed(data: Path, out: Path | str, progress: NoProgress | None = None, **options: Any) -> EmbedReport:
    settings = EmbedSettings(model="-", data=str(data), out=str(out), workers=1, **options)
    return embed(settings, progress, encoder=ColourEncoder())


def _near(vector: np.ndarray, colour: tuple[float, float, float]) -> bool:
    return float(vector @ unit(colour)) > 0.985


def test_parquet_has_a_row_per_moment_in_the_order_of_the_data(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "vectors.parquet"
    report = _embed(data, out)
    assert (report.out, report.videos, report.moments) == (str(out), 3, 5)
    assert report.skips.counts == {"not-media": 1, "empty": 1}
    assert report.render().plain.startswith(f"{out}: 5 moments of 3 files\n2 files left out: ")
    assert f"  {data / 'd.mp4'}: has zero bytes" in report.render().plain
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert [os.path.basename(row["path"]) for row in rows] == ["a.mp4", "b.mp4", "b.mp4", "b.mp4", "c.wav"]
    assert rows[0]["audio"] is None
    assert rows[4]["video"] is None
    assert _near(np.array(rows[1]["video"]), RED)
    metadata = json.loads(table.schema.metadata[b"cmmixer"])
    assert (metadata["model_id"], metadata["embed_dim"], metadata["clip"]["frames"]) == (ColourEncoder().id, 4, 2)
    assert list(out.parent.iterdir()) == [out]


def test_folder_holds_the_same_rows_as_the_file(data: Path, tmp_path: Path) -> None:
    in_file, in_folder = _embed(data, tmp_path / "v.parquet"), _embed(data, tmp_path / "vectors")
    assert (in_folder.videos, in_folder.moments) == (in_file.videos, in_file.moments) == (3, 5)
    assert in_folder.skips.counts == in_file.skips.counts
    assert read_vectors(tmp_path / "vectors").equals(read_vectors(tmp_path / "v.parquet"))
    assert sorted(os.listdir(tmp_path / "vectors")) == sorted(vector_table.OWN_FILES)
    metadata = vector_table.VectorsMetadata.read(open_folder(tmp_path / "vectors"))
    assert (metadata.complete, metadata.model, metadata.vectors, metadata.frames) == (
        True,
        "runs/colours",
        "fp32",
        False,
    )
    assert (metadata.segmentation.moment_seconds, metadata.segmentation.stride_seconds) == (1.0, 0.5)


def test_complete_folder_is_not_embedded_again(data: Path, tmp_path: Path) -> None:
    first = _embed(data, tmp_path / "vectors")
    encoder = ColourEncoder()
    settings = EmbedSettings(model="-", data=str(data), out=str(tmp_path / "vectors"), workers=1)
    assert embed(settings, encoder=encoder).as_json() == first.as_json()
    assert encoder.batches == []


def test_progress_counts_every_file(data: Path, tmp_path: Path) -> None:
    class Counting(NoProgress):
        def __init__(self) -> None:
            self.started: list[tuple[int | None, str]] = []
            self.steps = 0

        def start(self, total: int | None, what: str) -> None:
            self.started.append((total, what))

        def advance(self, steps: int = 1) -> None:
            self.steps += steps

    for out in ("v.parquet", "vectors"):
        progress = Counting()
        _embed(data, tmp_path / out, progress)
        assert (progress.started, progress.steps) == ([(4, "embedding videos")], 4)


def test_stride_and_length_of_moments_are_options(data: Path, tmp_path: Path) -> None:
    assert _embed(data, tmp_path / "v.parquet", stride_seconds=1.0).moments == 4
    spans = read_vectors(tmp_path / "v.parquet", ["path", "start_seconds", "end_seconds"]).to_pylist()
    assert [(row["start_seconds"], row["end_seconds"]) for row in spans if row["path"].endswith("b.mp4")] == [
        (0, 1),
        (1, 2),
    ]


def test_leftovers_of_a_killed_embed_are_removed_unless_locked(tmp_path: Path) -> None:
    video(tmp_path / "data" / "a.mp4", [RED])
    out = tmp_path / "vectors.parquet"
    left, other = tmp_path / ".tmp-1-vectors.parquet", tmp_path / ".tmp-1-my-vectors.parquet"
    locked = tmp_path / ".tmp-2-vectors.parquet"
    for path in (left, other, locked):
        path.touch()
    with locked.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _embed(tmp_path / "data", out)
    assert sorted(tmp_path.glob("*vectors.parquet")) == [other, locked, out]


def test_vectors_of_frames_are_an_option(tmp_path: Path) -> None:
    video(tmp_path / "data" / "a.mp4", [RED, BLUE], sound=None)
    _embed(tmp_path / "data", tmp_path / "vectors.parquet", frames=True)
    rows = pq.read_table(tmp_path / "vectors.parquet").to_pylist()
    assert [row["audio_frames"] for row in rows] == [None] * 3
    first, middle = np.array(rows[0]["video_frames"]), np.array(rows[1]["video_frames"])
    assert first.shape == (2, 4)
    assert all(_near(vector, RED) for vector in first)
    assert _near(middle[0], RED)
    assert _near(middle[1], BLUE)


def test_failing_run_leaves_no_file(data: Path, tmp_path: Path) -> None:
    class Failing(ColourEncoder):
        def embed_video(self, pixels_BTCHW: Any) -> Any:
            raise RuntimeError("out of order")

    settings = EmbedSettings(model="-", data=str(data), out=str(tmp_path / "out" / "v.parquet"), workers=1)
    with pytest.raises(RuntimeError, match="out of order"):
        embed(settings, encoder=Failing())
    assert list((tmp_path / "out").iterdir()) == []


def test_data_in_object_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--data: got s3://bucket/videos, expected"):
        _embed("s3://bucket/videos", tmp_path / "v.parquet")  # type: ignore[arg-type]


def test_missing_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        _embed(tmp_path / "nowhere", tmp_path / "v.parquet")
    assert not (tmp_path / "v.parquet").exists()


def test_folder_with_other_files_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("x")
    with pytest.raises(StoreError) as refused:
        _embed(data, tmp_path / "out")
    assert (
        str(refused.value) == f"{tmp_path / 'out'}: holds 'letter.txt', expected only vectors; choose an empty folder"
    )


def test_report_lists_skipped_files() -> None:
    skips = SkipReport([Skip("[red].mp4", "empty", "has zero bytes")])
    report = EmbedReport("v.parquet", 1, 3, skips)
    assert report.as_json() == {
        "out": "v.parquet",
        "videos": 1,
        "moments": 3,
        "skipped": {"empty": 1},
        "skipped_files": [{"path": "[red].mp4", "reason": "empty", "message": "has zero bytes"}],
    }
    lines = report.render().plain.splitlines()
    assert (lines[0], lines[-1]) == ("v.parquet: 3 moments of 1 files", "  [red].mp4: has zero bytes")
