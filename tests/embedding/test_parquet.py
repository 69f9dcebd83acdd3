"""The Parquet file: quantized vectors are right to the bit and read back as unit vectors, every row survives, foreign files are refused."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cmmixer.config import EmbedSettings
from cmmixer.data.manifest import Entry
from cmmixer.embedding import parquet, read
from cmmixer.embedding.embed import embed
from cmmixer.embedding.parquet import dequantize, parquet_schema, parquet_writer, quantize
from cmmixer.embedding.pipeline import EmbeddedFile, Moment
from cmmixer.embedding.read import read_vectors, vector_batches
from cmmixer.errors import DataError, SettingsError
from cmmixer.types import Span
from tests.reference.parquet_slow import bf16_bits, bf16_value, int8_values, unit
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video

KINDS = ("fp32", "bf16", "int8")
# Of a unit vector's 256 values: bfloat16 is off by 2^-9 of each at most, int8 by half a step of the largest.
LEAST_COSINE = {"fp32": 1.0 - 1e-7, "bf16": 1.0 - 1e-5, "int8": 1.0 - 2e-4}


def _unit_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_quantized_values_equal_the_slow_twin() -> None:
    vectors = _unit_vectors(20, 33)
    vectors[0] = 0.0
    vectors[0, 3] = -1.0
    vectors[1, :4] = np.array([0x3F808000, 0x3F818000, 0x00018000, 0x80000000], np.uint32).view(
        np.float32
    )  # ties, tiny, -0
    bf16, int8 = quantize(vectors, "bf16"), quantize(vectors, "int8")
    assert (bf16.values_NE.dtype, int8.values_NE.dtype) == (np.uint16, np.int8)
    assert bf16.scale_N is None
    assert bf16.values_NE.tolist() == [[bf16_bits(value) for value in vector] for vector in vectors.tolist()]
    torch_bits = torch.from_numpy(vectors).to(torch.bfloat16).view(torch.uint16)
    assert np.array_equal(bf16.values_NE, torch_bits.numpy())
    assert int8.values_NE.tolist() == [int8_values(vector) for vector in vectors.tolist()]
    assert np.abs(int8.values_NE).max(axis=1).tolist() == [127] * 20
    slow = [unit([bf16_value(bits) for bits in row]) for row in bf16.values_NE.tolist()]
    np.testing.assert_allclose(dequantize(bf16, "bf16"), slow, atol=1e-6)
    np.testing.assert_allclose(dequantize(int8, "int8"), [unit(row) for row in int8.values_NE.tolist()], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dequantized_vectors_are_unit_vectors_near_the_originals(kind: str) -> None:
    vectors = _unit_vectors(500, 256)
    again = dequantize(quantize(vectors, kind), kind)
    assert again.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1.0, atol=1e-6)
    cosines = (vectors.astype(np.float64) * again).sum(1)
    assert cosines.min() >= LEAST_COSINE[kind]
    if kind != "fp32":
        assert cosines.max() < 1.0 - 1e-8  # some precision is lost


class _Encoder(ColourEncoder):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


def _videos(count: int, dim: int) -> list[EmbeddedFile]:
    """Some moments lack a modality; those of a video have T = 3 frames."""
    videos = []
    for number in range(count):
        video, audio = _unit_vectors(2, dim, number)
        frames = _unit_vectors(6, dim, 1000 + number).reshape(2, 3, dim)
        has_video, has_audio = number % 3 != 1, number % 3 != 2
        moment = Moment(
            Span(0.0, 1.0 + number),
            video if has_video else None,
            audio if has_audio else None,
            frames[0] if has_video else None,
            frames[1] if has_audio else None,
        )
        entry = Entry(f"{number}.mp4", f"{number}.mp4", "s", audio_path=None if number % 2 else "a.wav", label="l")
        videos.append(EmbeddedFile(number, entry, [moment], []))
    return videos


def _write(path: Path, videos: list[EmbeddedFile], kind: str, dim: int, *, frames: bool = True) -> Path:
    with parquet_writer(path, _Encoder(dim), kind, frames=frames) as writer:
        for file in videos:
            writer.write(file)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group_bytes", [1, 1000, 10**9])
def test_every_row_survives_any_row_group_size(
    kind: str, group_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", group_bytes)
    monkeypatch.setattr(read, "_READ_ROWS", 4)
    videos = _videos(11, 16)
    path = _write(tmp_path / "v.parquet", videos, kind, 16)
    stored = pq.read_schema(path)
    assert stored.remove_metadata() == parquet_schema(kind, frames=True)
    assert pq.ParquetFile(path).num_row_groups == {1: 11, 1000: 4, 10**9: 1}[group_bytes]
    table = read_vectors(path)
    assert table.schema.remove_metadata() == parquet_schema(frames=True)
    metadata = json.loads(table.schema.metadata[b"cmmixer"])
    assert (metadata["vectors"], metadata["embed_dim"], metadata["model_id"]) == ("fp32", 16, ColourEncoder().id)
    assert json.loads(stored.metadata[b"cmmixer"])["vectors"] == kind
    for row, file in zip(table.to_pylist(), videos, strict=True):
        (moment,) = file.moments
        assert (row["path"], row["audio_path"], row["source"], row["label"], row["start_seconds"], row["end_seconds"]) == (
            file.entry.path, file.entry.audio_path, "s", "l", 0.0, moment.span.end_seconds,
        )  # fmt: skip
        for name in ("video", "audio", "video_frames", "audio_frames"):
            wanted = getattr(moment, name)
            if wanted is None:
                assert row[name] is None
                continue
            got = np.array(row[name], np.float64)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 1.0, atol=1e-6)
            assert (got * wanted).sum(-1).min() >= 1.0 - {"fp32": 1e-6, "bf16": 1e-5, "int8": 1e-3}[kind]
    some = read_vectors(path, ["path", "audio"])
    assert some.schema.names == ["path", "audio"]
    assert some.column("audio").equals(table.column("audio"))
    assert sum(batch.num_rows for batch in vector_batches(path)) == 11


def test_int8_times_its_scale_is_a_unit_vector(tmp_path: Path) -> None:
    videos = _videos(5, 16)
    rows = pq.read_table(_write(tmp_path / "v.parquet", videos, "int8", 16)).to_pylist()
    for row, file in zip(rows, videos, strict=True):
        if row["audio"] is not None:
            vector = row["audio_scale"] * np.array(row["audio"])
            assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)
            assert vector @ file.moments[0].audio > 0.999
        else:
            assert row["audio_scale"] is None


def test_quantized_files_are_smaller(tmp_path: Path) -> None:
    videos = _videos(600, 128)
    sizes = {kind: _write(tmp_path / kind, videos, kind, 128, frames=False).stat().st_size for kind in KINDS}
    values = 128 * sum(
        vector is not None for file in videos for vector in (file.moments[0].video, file.moments[0].audio)
    )
    assert sizes["fp32"] / values < 4.2
    assert sizes["bf16"] / values < 2.0
    assert sizes["int8"] / values < 1.25


def test_file_without_rows_has_its_columns(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.parquet", [], "int8", 8)
    assert read_vectors(path).schema.names == parquet_schema(frames=True).names
    assert read_vectors(path).num_rows == 0


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"text.parquet: cannot be read as Parquet"):
        read_vectors(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"gone.parquet: cannot be read as Parquet"):
        next(vector_batches(tmp_path / "gone.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(
        DataError,
        match=r"not a file of `cmmixer embed`: its metadata has no key cmmixer; write one with `cmmixer embed`",
    ):
        read_vectors(tmp_path / "other.parquet")
    path = _write(tmp_path / "v.parquet", _videos(1, 8), "int8", 8, frames=False)
    with pytest.raises(DataError, match=r"got columns sound, audio_scale, expected some of path, audio_path, source"):
        read_vectors(path, ["sound", "audio_scale", "audio"])
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[b"cmmixer"])
    unknown = table.replace_schema_metadata({"cmmixer": json.dumps({**metadata, "vectors": "int4"})})
    pq.write_table(unknown, tmp_path / "unknown.parquet")
    with pytest.raises(DataError, match=r"stores vectors as 'int4', expected fp32, bf16, int8; read it with a newer"):
        read_vectors(tmp_path / "unknown.parquet")
    before = table.replace_schema_metadata(
        {"cmmixer": json.dumps({k: v for k, v in metadata.items() if k != "vectors"})}
    )
    pq.write_table(before.drop_columns(["video", "audio", "video_scale", "audio_scale"]), tmp_path / "old.parquet")
    assert read_vectors(tmp_path / "old.parquet").num_rows == 1  # fp32 is the default


@pytest.mark.parametrize("kind", KINDS)
def test_embed_stores_vectors_as_asked(kind: str, tmp_path: Path) -> None:
    video(tmp_path / "data" / "a.mp4", [RED, BLUE])
    sound(tmp_path / "data" / "b.wav", [GREEN])
    out = tmp_path / "v.parquet"
    embed(
        EmbedSettings(model="-", data=str(tmp_path / "data"), out=str(out), workers=1, vectors=kind, frames=True),
        encoder=ColourEncoder(),
    )
    assert pq.read_schema(out).field("video").type == parquet_schema(kind).field("video").type
    rows = read_vectors(out).to_pylist()
    assert [row["path"].rsplit("/", 1)[1] for row in rows] == ["a.mp4"] * 3 + ["b.wav"]
    assert np.array(rows[0]["video"]) @ np.array(rows[0]["audio"]) > 0.98
    with pytest.raises(SettingsError, match="--vectors: got 'fp16', expected one of fp32, bf16, int8"):
        EmbedSettings(model="-", data="-", out="-", vectors="fp16")


def test_unlocked_temporary_files_of_the_same_name_are_removed(tmp_path: Path) -> None:
    kept = [".tmp-1-v[1].parquet", ".tmp-2-other.parquet", ".tmp-x-v[1].parquet"]
    for name in (*kept, ".tmp-2-v[1].parquet"):
        (tmp_path / name).write_text("")
    with (tmp_path / kept[0]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        out = _write(tmp_path / "v[1].parquet", _videos(2, 8), "fp32", 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, out.name])
