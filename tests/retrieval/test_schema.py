"""Metadata of an index, its tables' columns, and the JSON of a manifest's other columns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cmmixer.config import SegmentSettings
from cmmixer.embedding.pipeline import Moment
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.schema import (
    FILES_SCHEMA,
    FORMAT,
    METADATA,
    VECTOR_COLUMNS,
    ANNSettings,
    FileRow,
    IndexMetadata,
    extra_json,
    moments_schema,
    read_metadata,
)
from cmmixer.version import __version__
from tests.support.coloured_videos import CLIP, ColourEncoder
from tests.support.vector_library import file_row

MADE = IndexMetadata.of(ColourEncoder(), SegmentSettings())
ANN = ANNSettings(
    kind="ivf_sq", why="the video vectors of 40 moments", rows=4000, name="audio-1-ivf_sq", partitions=63, probes=8,
    candidates=50, recall=0.9875, target=0.98, p50_ms=1.25, exact_p50_ms=4.5, build_seconds=2.4, bytes_per_row=36.0,
)  # fmt: skip


def _write(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / METADATA).write_text(json.dumps(values))
    return folder


def test_new_metadata_describes_the_model_and_the_segmentation() -> None:
    encoder = ColourEncoder()
    assert (MADE.model_id, MADE.model, MADE.embed_dim, MADE.clip) == (encoder.id, "runs/colours", 4, CLIP)
    assert MADE.segmentation == SegmentSettings(moment_seconds=1.0, stride_seconds=0.5, shots=False)
    assert MADE.created_by == f"cmmixer {__version__}"
    assert MADE.ann_settings == {}
    assert MADE.frames == CLIP.frames


def test_longer_moments_have_more_frames() -> None:
    metadata = IndexMetadata.of(ColourEncoder(), SegmentSettings(moment_seconds=3.0))
    assert metadata.frames == 3 * CLIP.frames
    assert metadata.moments_schema() == moments_schema(4, 6)
    assert metadata.segmentation.stride_seconds == 1.5


def test_metadata_survives_a_round_trip(tmp_path: Path) -> None:
    metadata = dataclasses.replace(
        MADE, ann_settings={"audio": ANN, "video": ANNSettings(kind="exact", why="-", rows=3)}
    )
    (tmp_path / METADATA).write_text(metadata.to_text())
    assert read_metadata(tmp_path) == metadata


def test_metadata_file_has_readable_keys() -> None:
    values = json.loads(dataclasses.replace(MADE, ann_settings={"audio": ANN}).to_text())
    assert list(values) == [
        "format", "model_id", "model", "embed_dim", "clip", "segmentation", "created_by", "ann_settings",
    ]  # fmt: skip
    assert values["format"] == FORMAT == 3
    assert values["ann_settings"]["audio"]["probes"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"index\.json: got format 2 .*, expected 3; make an index in a new folder"),
        ({"format": None}, r"index\.json: damaged \(got format None, expected 3\); make an index in a new folder"),
        (
            {"embed_dim": "4"},
            r'index\.json: damaged \(embed_dim: got "4", expected int\); make an index in a new folder',
        ),
        ({"embed_dims": 4}, r"damaged \(unknown keys: embed_dims \(did you mean embed_dim\?\)\)"),
        ({"clip": {"frames": 2}}, r"damaged \(missing keys: clip\.height, clip\.width, .*\)"),
        ({"ann_settings": {"audio": {"kind": "exact"}}}, r"damaged \(missing keys: ann_settings\.audio\.why, .*\)"),
        ({"segmentation": {"stride_seconds": -1.0}}, r"damaged \(.*--stride_seconds: got -1\.0, expected a value in"),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = _write(tmp_path / "library", {**json.loads(MADE.to_text()), **change})
    with pytest.raises(SearchIndexError, match=message) as refused:
        read_metadata(folder)
    assert "\n" not in str(refused.value)


def test_folders_that_are_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(SearchIndexError) as refused:
        read_metadata(tmp_path / "none")
    assert str(refused.value) == (
        f"{tmp_path}/none: no index there (index.json is missing); "
        f"make one with `cmmixer index --model RUN --data DIR --index {tmp_path}/none`"
    )
    with pytest.raises(SearchIndexError) as refused:
        read_metadata(tmp_path)
    assert str(refused.value) == f"{tmp_path}: is not an index: no index.json; make an index in a new folder"
    (tmp_path / "moments.lance").mkdir()
    with pytest.raises(SearchIndexError) as refused:
        read_metadata(tmp_path)
    assert str(refused.value) == f"{tmp_path}: is damaged: index.json is missing; make an index in a new folder"


def test_another_model_is_refused_with_both_ids() -> None:
    other = ColourEncoder("other", "runs/other")
    with pytest.raises(SearchIndexError) as refused:
        MADE.check_encoder(other, Path("library"))
    assert str(refused.value) == (
        f"library: its vectors are of model {MADE.model_id[:16]} (runs/colours), got model {other.id[:16]} (runs/other); "
        "use that model, or make an index in a new folder"
    )
    MADE.check_encoder(ColourEncoder(), Path("library"))


def test_altered_metadata_is_noticed() -> None:
    altered = dataclasses.replace(MADE, embed_dim=8)
    with pytest.raises(SearchIndexError, match=r"library: made with 8 values a vector and .*index\.json was altered"):
        altered.check_encoder(ColourEncoder(), Path("library"))


def test_ann_settings_read_as_one_line() -> None:
    assert ANN.message == (
        "ivf_sq, 8 of 63 cells read; measured with the video vectors of 40 moments: recall@10 0.988 (required: 0.98), "
        "1.2 ms a search against 4.5 ms; built in 2 s, 36 bytes a moment"
    )
    assert ANNSettings(kind="exact", why="7 moments are fewer than 1000", rows=7).message == (
        "exact search: 7 moments are fewer than 1000"
    )


@pytest.mark.parametrize(
    ("candidates", "limit", "factor"), [(0, 10, None), (50, 10, 5), (50, 16, 4), (50, 64, 1), (50, 1000, 1), (1, 1, 1)]
)
def test_rescoring_covers_the_candidates(candidates: int, limit: int, factor: int | None) -> None:
    got = dataclasses.replace(ANN, candidates=candidates).refine_factor(limit)
    assert got == factor
    assert got is None or got * limit >= candidates


def test_columns_of_moments_hold_unit_vectors_and_half_precision_frames() -> None:
    schema = moments_schema(4, 2)
    for name in VECTOR_COLUMNS:
        assert schema.field(name).type == pa.list_(pa.float32(), 4)
        assert hasattr(Moment, name) or name in Moment.__dataclass_fields__
    assert [name for name in VECTOR_COLUMNS if not schema.field(name).nullable] == ["any"]
    for name in ("video_frames", "audio_frames"):
        assert schema.field(name).type == pa.list_(pa.float16(), 8)


def test_columns_of_files_are_the_fields_of_a_row() -> None:
    assert FILES_SCHEMA.names == [field.name for field in dataclasses.fields(FileRow)]
    table = pa.Table.from_pylist([dataclasses.asdict(file_row(7))], schema=FILES_SCHEMA)
    assert FileRow(**table.to_pylist()[0]) == file_row(7)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({}, None),
        ({"": "x", "a": None, "b": "  "}, None),
        ({"take": 3, "camera": "B"}, '{"camera": "B", "take": 3}'),
        ({"name": "Ö, N"}, '{"name": "Ö, N"}'),
        ({"level": float("inf"), "low": [float("nan"), 1.5]}, '{"level": null, "low": [null, 1.5]}'),
        ({"deep": {"x": float("-inf"), "y": [{"z": 1}]}}, '{"deep": {"x": null, "y": [{"z": 1}]}}'),
        ({"broken": "\ud800!"}, '{"broken": "?!"}'),
        ({"zero": 0, "no": False}, '{"no": false, "zero": 0}'),
    ],
)
def test_other_columns_become_json(extra: dict[str, Any], text: str | None) -> None:
    assert extra_json(extra) == text
    row = dataclasses.replace(file_row(0), extra=text)
    assert row.metadata == ({} if text is None else json.loads(text))
