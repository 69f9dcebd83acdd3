"""Optimized indexes: the required recall is reached, added rows are found, deleted ones are not, and kills leave a valid index."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from lancedb.index import IvfSq
from lancedb.table import LanceTable

from cmmixer.config import IndexSettings, SearchSettings
from cmmixer.embedding.pipeline import Moment
from cmmixer.errors import SearchIndexError, SettingsError
from cmmixer.retrieval.ann import exact_nearest
from cmmixer.retrieval.build import index
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import ANNSettings
from cmmixer.retrieval.search import search
from cmmixer.types import Span
from tests.support import vector_library as vectors

ROWS, QUERIES = 4000, 30
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def _few_queries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmmixer.retrieval.ann._QUERIES", 40)
        yield


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return vectors.random_vectors(ROWS, QUERIES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[np.ndarray, np.ndarray]) -> Path:
    """An index of sounds that is not optimized; read-only."""
    folder = tmp_path_factory.mktemp("plain") / "library"
    vectors.fill(folder, drawn[0])
    return folder


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Path:
    """The same, optimized; read-only."""
    folder = tmp_path_factory.mktemp("optimized") / "library"
    shutil.copytree(plain, folder)
    _force(folder, "ivf_flat")
    return folder


@pytest.fixture
def library(tmp_path: Path, optimized: Path) -> Path:
    shutil.copytree(optimized, tmp_path / "library")
    return tmp_path / "library"


def _force(folder: Path, kind: str, **options: Any) -> Any:
    """Optimizes and accepts the ANN index although exact search of 4,000 rows is as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmmixer.retrieval.ann._exact_ms", lambda *arguments: 1e9)
        return index(vectors.settings(folder, index_kind=kind, **options))


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_pq", "ivf_sq", "ivf_flat", "ivf_hnsw_sq"])
def test_every_kind_reaches_the_required_recall(
    plain: Path, drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path, kind: str
) -> None:
    shutil.copytree(plain, tmp_path / "library")
    report = _force(tmp_path / "library", kind, recall_target=0.95)
    library = MomentIndex.open(tmp_path / "library")
    ann = library.ann_settings("audio")
    assert ann is not None
    assert (ann.kind, ann.rows, ann.target) == (kind, ROWS, 0.95)
    assert ann.recall >= 0.95
    assert ann.name in [entry.name for entry in library.moments.describe_indices()]
    got = vectors.found(library, drawn[1])
    measured = vectors.recall(got, *drawn)
    assert measured >= 0.95 - 3 * (0.05 * 0.95 / (10 * QUERIES)) ** 0.5  # three standard errors of 30 queries
    assert f"audio: {kind}, {ann.probes} of {ann.partitions} cells read" in report.render().plain
    assert report.as_json()["ann_settings"]["audio"]["recall"] == ann.recall
    # Scores are computed from the full vectors, not from the quantized ones.
    for row in library.nearest(drawn[1][:1], "audio", 5):
        assert row["score"] == pytest.approx(float(drawn[0][int(row["id"])] @ drawn[1][0]), abs=1e-5)


def test_one_probe_has_a_lower_recall_than_all_cells(library: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    _set_ann(library, probes=1)
    one_cell = vectors.recall(vectors.found(MomentIndex.open(library), drawn[1]), *drawn)
    _set_ann(library, probes=63)
    all_cells = MomentIndex.open(library)
    assert one_cell < 0.7
    assert vectors.found(all_cells, drawn[1]) == [vectors.slow_nearest(drawn[0], query, 10) for query in drawn[1]]


def test_old_ann_index_answers_while_a_new_one_is_built(library: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    with MomentIndex.writing(library) as writer:
        old = writer.ann_settings("audio")
        assert old is not None
        name = f"audio-{time.time_ns():016x}-ivf_sq"
        writer.table.create_index("audio", config=IvfSq(distance_type="cosine", num_partitions=10), name=name)
    opened = MomentIndex.open(library)
    assert opened.ann_settings("audio") == old
    nearest = {"column": "audio", "q": drawn[1][0], "k": 3, "metric": "cosine"}
    scanner = opened.moments.scanner(columns=["id", "_distance"], nearest=nearest)
    scan = getattr(scanner, "explain_plan")()  # noqa: B009 - the name is Lance's
    assert f"name={old.name}," in scan
    assert name not in scan


def test_search_is_exact_on_request_and_above_1000_rows(library: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    _set_ann(library, probes=1)
    opened = MomentIndex.open(library)
    expected = [vectors.slow_nearest(drawn[0], query, 1200) for query in drawn[1][:2]]
    assert vectors.found(opened, drawn[1][:2], exact=True) == [places[:10] for places in expected]
    assert vectors.found(opened, drawn[1][:2], limit=1200) == expected


def test_exact_nearest_equals_the_slow_twin(plain: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    moments = MomentIndex.open(plain).moments
    rows = {row["_rowid"]: row["id"] for row in moments.to_table(columns=["id"], with_row_id=True).to_pylist()}
    ids, scores = exact_nearest(moments, "audio", drawn[1][:5], 20)
    for query, row_ids, values in zip(drawn[1], ids, scores, strict=False):
        expected = vectors.slow_nearest(drawn[0], query, 20)
        assert [int(rows[row]) for row in row_ids] == expected
        assert values == pytest.approx([float(drawn[0][place] @ query) for place in expected], abs=1e-5)
    assert exact_nearest(moments, "video", drawn[1][:2], 5)[0].shape == (2, 0)  # no moment has video


def test_few_moments_and_missing_modalities_are_searched_exactly(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "library")
    settings = replace(vectors.settings(tmp_path / "library"), exact_below=ROWS + 1)
    report = index(settings)
    assert report.ann_settings["audio"].why == "4000 moments are fewer than 4001"
    assert report.ann_settings["video"] == ANNSettings(kind="exact", why="0 moments are fewer than 4001", rows=0)
    assert MomentIndex.open(tmp_path / "library").ann_settings("audio") is None
    assert "audio: exact search: 4000 moments are fewer than 4001" in report.render().plain


def test_ann_index_slower_than_exact_search_is_dropped(
    library: Path, monkeypatch: pytest.MonkeyPatch, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.setattr("cmmixer.retrieval.ann._exact_ms", lambda *arguments: 1e-6)
    ann = index(vectors.settings(library, index_kind="ivf_flat")).ann_settings["audio"]
    assert ann.kind == "exact"
    assert re.fullmatch(r"ivf_flat has a recall of [01]\.\d{3} in [\d.]+ ms; exact search takes 0\.0 ms", ann.why)
    opened = MomentIndex.open(library)
    assert opened.moments.describe_indices() == []
    assert vectors.found(opened, drawn[1][:2]) == [vectors.slow_nearest(drawn[0], query, 10) for query in drawn[1][:2]]


def test_audio_is_tuned_with_the_video_vectors_of_its_moments(
    tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    vectors.fill(tmp_path / "library", drawn[0][:1500], modalities=("video", "audio"))
    found = _force(tmp_path / "library", "ivf_flat").ann_settings
    assert found["audio"].why == "the video vectors of 40 moments"
    assert found["video"].why == "the audio vectors of 40 moments"
    assert found["any"].why == "vectors of 40 moments, perturbed to a cosine near 0.7"


def test_added_rows_are_found_before_a_rebuild_and_removed_ones_are_not(
    library: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    _set_ann(library, probes=1)
    query = drawn[1][:1]
    assert vectors.found(MomentIndex.open(library), -query)[0] != [ROWS]
    with MomentIndex.writing(library, vectors.VectorEncoder(), None) as writer:  # type: ignore[arg-type]
        writer.put(vectors.file_row(ROWS), [vectors.moment(ROWS, -query[0], ("audio",))], None)
    with MomentIndex.writing(library) as writer:
        assert (writer.unindexed_rows("audio"), writer.unindexed_rows("any")) == (1, 1)
    opened = MomentIndex.open(library)
    (row, *_) = opened.nearest(-query, "audio", 10)
    assert (int(row["id"]), row["score"]) == (ROWS, pytest.approx(1.0, abs=1e-5))
    with MomentIndex.writing(library) as writer:
        writer.remove([vectors.file_row(ROWS), vectors.file_row(vectors.slow_nearest(drawn[0], query[0], 1)[0])])
        writer.tidy()
    _set_ann(library, probes=63)
    opened = MomentIndex.open(library)
    assert vectors.found(opened, -query)[0] == vectors.slow_nearest(drawn[0], -query[0], 10)
    assert vectors.found(opened, query)[0] == vectors.slow_nearest(drawn[0], query[0], 11)[1:]


def test_added_rows_are_searched_exactly_until_the_next_optimize(
    library: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    more, queries = vectors.random_vectors(1000, 20, seed=1)
    vectors.fill(library, more, first=ROWS)
    with MomentIndex.writing(library) as writer:
        before = [entry.index_uuid for entry in writer.table.list_indices()]
        writer.tidy()
        assert [entry.index_uuid for entry in writer.table.list_indices()] == before
        assert writer.unindexed_rows("audio") == 1000
    everything = np.concatenate([drawn[0], more])
    opened = MomentIndex.open(library)
    for some in (queries, drawn[1]):
        assert vectors.recall(vectors.found(opened, some), everything, some) >= 0.95
    report = _force(library, "ivf_flat")
    assert report.unindexed == {"video": 0, "audio": 0, "any": 0}
    assert MomentIndex.open(library).metadata.ann_settings["audio"].rows == ROWS + 1000


def test_search_through_an_ann_index_ignores_unnamed_moments(
    library: Path, drawn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = drawn[1][0]
    moments = [Moment(Span(0.0, 1.0), query, query)]
    monkeypatch.setattr("cmmixer.retrieval.query.embed_file", lambda *arguments, **options: moments)
    expected = vectors.slow_nearest(drawn[0], query, 11)
    lancedb.connect(library).open_table("files").delete(f"name = '/sounds/{expected[0]}.wav'")  # as after a kill

    def ask(**options: Any) -> Any:
        settings = SearchSettings(query="query.mp4", index=str(library), **options)
        return search(settings, encoder=vectors.VectorEncoder())  # type: ignore[arg-type]

    for target in ("audio", "any"):
        result = ask(target=target)
        hits = [int(Path(hit.path).stem) for hit in result.hits]
        assert expected[0] not in hits
        assert len(set(hits) & set(expected)) >= 9
        assert result.as_json()["index_kind"] == "ivf_flat"
        assert result.as_json()["recall"] == MomentIndex.open(library).metadata.ann_settings[target].recall >= 0.98
    exact = ask(target="audio", exact=True)
    assert [int(Path(hit.path).stem) for hit in exact.hits] == expected[1:]
    assert (exact.index_kind, exact.recall) == ("exact", 1.0)


def test_vectors_of_another_length_are_refused(library: Path) -> None:
    with pytest.raises(
        SearchIndexError, match=r"got vectors of shape \(2, 31\), expected \(queries, 32\); embed the query"
    ):
        MomentIndex.open(library).nearest(np.zeros((2, 31), np.float32), "audio", 3)


def test_index_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"--index_kind: got 'ivf_rk', expected one of .*; did you mean 'ivf_rq'\?"):
        IndexSettings(index="library", optimize=True, index_kind="ivf_rk")
    with pytest.raises(SettingsError, match="missing: --data, the files to index; or --optimize"):
        IndexSettings(index="library")
    with pytest.raises(SettingsError, match="missing: --model, the run that embeds the data"):
        IndexSettings(index="library", data="videos", optimize=True)
    with pytest.raises(SettingsError, match="--sync: compares the index with its data; add --data"):
        IndexSettings(index="library", sync=True, optimize=True)


def test_a_kind_that_does_not_fit_the_vectors_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    rows = vectors.draw_library(1200, 12, 1, 0).rows_NE

    class Encoder(vectors.VectorEncoder):
        dim = 12

    with MomentIndex.writing(folder, Encoder(), None) as library:  # type: ignore[arg-type]
        for place, vector in enumerate(rows):
            library.put(vectors.file_row(place), [vectors.moment(place, vector, ("audio",))], None)
    with pytest.raises(
        SearchIndexError, match="ivf_rq needs vectors of a multiple of 8 values, got 12; use --index_kind ivf_sq"
    ):
        index(vectors.settings(folder, index_kind="ivf_rq"))
    assert index(vectors.settings(folder)).ann_settings["audio"].kind in ("ivf_sq", "ivf_flat", "exact")


def test_optimizing_a_missing_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SearchIndexError, match=r"none: no index there \(index.json is missing\); make one with `cmmixer index"
    ):
        index(vectors.settings(tmp_path / "none"))


def test_damaged_ann_index_is_reported_and_can_be_rebuilt(library: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    for file in (library / "moments.lance" / "_indices").rglob("*.idx"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(
        SearchIndexError,
        match=r"is damaged .*; search with --exact, or run `cmmixer index --index .* --optimize`; failing that",
    ):
        MomentIndex.open(library).nearest(drawn[1][:1], "audio", 3)
    assert len(MomentIndex.open(library).nearest(drawn[1][:1], "audio", 3, exact=True)) == 3
    _force(library, "ivf_flat")
    assert vectors.recall(vectors.found(MomentIndex.open(library), drawn[1]), *drawn) >= 0.95


def test_optimizing_a_truncated_table_fails_and_changes_nothing(library: Path) -> None:
    metadata = (library / "index.json").read_text()
    for file in (library / "moments.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(SearchIndexError, match=r"is damaged .* make an index in a new folder"):
        _force(library, "ivf_flat")
    assert (library / "index.json").read_text() == metadata


def test_full_disk_while_optimizing_leaves_the_index_unchanged(
    library: Path, drawn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vectors.found(MomentIndex.open(library), drawn[1])
    metadata = (library / "index.json").read_text()

    def full(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), writer.rs:258:9")

    monkeypatch.setattr(LanceTable, "create_index", full)
    with pytest.raises(SearchIndexError, match="the disk is full; free some space and run the same command again"):
        _force(library, "ivf_sq")
    assert (library / "index.json").read_text() == metadata
    assert vectors.found(MomentIndex.open(library), drawn[1]) == before


@pytest.mark.parametrize("step", ["built", "dropped", "tuned", "0.3"])
def test_kill_while_optimizing_leaves_a_valid_index(
    library: Path, drawn: tuple[np.ndarray, np.ndarray], step: str
) -> None:
    before = vectors.found(MomentIndex.open(library), drawn[1], exact=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.vector_library", str(library), step]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "begun\n")
    opened = MomentIndex.open(library)
    assert vectors.found(opened, drawn[1], exact=True) == before
    assert vectors.recall(vectors.found(opened, drawn[1]), *drawn) >= 0.95
    if not step[0].isdigit():  # a random moment may fall anywhere
        assert (opened.ann_settings("audio") is None) == (step in ("dropped", "tuned"))
    with MomentIndex.writing(library):  # the next writer cleans up
        pass
    metadata = json.loads((library / "index.json").read_text())
    existing = [entry.name for entry in MomentIndex.open(library).moments.describe_indices()]
    assert sorted(existing) == sorted(ann["name"] for ann in metadata["ann_settings"].values() if ann["name"])
    if step == "dropped":
        _force(library, "ivf_flat")
        assert MomentIndex.open(library).ann_settings("audio") is not None


def test_searching_while_another_process_optimizes_and_adds(
    library: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    code = (
        "import sys, pathlib; from tests.support import vector_library as v; from tests.retrieval import test_ann as t\n"
        "v.ann._QUERIES = 40\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "for number in range(2):\n"
        "    t._force(folder, 'ivf_flat')\n"
        "    v.fill(folder, v.random_vectors(100, 1, seed=number)[0] * -1, first=10_000 + 100 * number)\n"
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(library)], cwd=ROOT) as writer:
        old, searches = MomentIndex.open(library), 0
        before = vectors.found(old, drawn[1])
        while writer.poll() is None:
            assert vectors.recall(vectors.found(MomentIndex.open(library), drawn[1][:5]), drawn[0], drawn[1][:5]) >= 0.8
            assert vectors.found(old, drawn[1]) == before
            searches += 1
            time.sleep(0.05)
        assert writer.returncode == 0
    assert searches >= 3


def _set_ann(folder: Path, **options: Any) -> None:
    """Changes the ANN settings in the metadata."""
    with MomentIndex.writing(folder) as library:
        library.write_ann_settings("audio", replace(library.metadata.ann_settings["audio"], **options))
