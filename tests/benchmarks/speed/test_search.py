"""The benchmark of search: its vectors resemble embeddings, its figures are right at a small size, its document matches the results."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.search_scale import DOCUMENT, RESULTS, section, with_section
from benchmarks.speed import search
from benchmarks.speed.bench import bench
from benchmarks.speed.search import exact_neighbours
from benchmarks.speed.search_engines import draw_library, matmul_flops, memory_bytes_per_second, vector_statistics
from benchmarks.speed.settings import BenchSettings
from cmmixer.errors import SettingsError


def test_synthetic_vectors_are_clustered_and_queries_are_near_rows() -> None:
    drawn, again = draw_library(4000, 64, 200, seed=3), draw_library(4000, 64, 200, seed=3)
    assert np.array_equal(drawn.rows_NE, again.rows_NE)
    assert np.array_equal(drawn.queries_QE, again.queries_QE)
    assert not np.array_equal(drawn.rows_NE, draw_library(4000, 64, 200, seed=4).rows_NE)
    for vectors in (drawn.rows_NE, drawn.queries_QE):
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)
    own = (drawn.queries_QE * drawn.rows_NE[drawn.origins_Q]).sum(1)
    assert 0.6 < np.median(own) < 0.8
    assert own.max() < 0.99
    within = [drawn.rows_NE[20 * video : 20 * video + 20] for video in range(200)]
    together = np.mean([(video @ video.T)[~np.eye(20, dtype=bool)].mean() for video in within])
    apart = (drawn.rows_NE[:2000] @ drawn.rows_NE[2000:].T).mean()
    assert together > 0.7
    assert apart < 0.2


def test_vector_statistics_count_directions() -> None:
    generator = np.random.default_rng(0)
    flat = np.zeros((3000, 50), np.float32)
    flat[:, :3] = generator.normal(size=(3000, 3))
    shape = vector_statistics(flat / np.linalg.norm(flat, axis=1, keepdims=True), seed=0)
    assert shape["directions"] == pytest.approx(3.0, abs=0.1)
    assert shape["intrinsic"] == pytest.approx(2.0, abs=0.2)  # the surface of a ball


def test_exact_neighbours_equal_a_full_sort() -> None:
    drawn = draw_library(300, 16, 5, seed=0)
    for query, places in zip(drawn.queries_QE, exact_neighbours(drawn.rows_NE, drawn.queries_QE), strict=True):
        slow = sorted(range(300), key=lambda place: -float(drawn.rows_NE[place] @ query))[:10]
        assert set(places.tolist()) == set(slow)


def test_machine_rates_are_plausible() -> None:
    assert 1e7 < memory_bytes_per_second(64) < 1e13
    assert 1e8 < matmul_flops(512, 256) < 1e15


def test_search_benchmark_on_3000_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "memory_bytes_per_second", partial(memory_bytes_per_second, 16))
    monkeypatch.setattr(search, "matmul_flops", partial(matmul_flops, 512, 256))
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'cmmixer[bench]'")
    settings = BenchSettings(
        what="search", rows=3000, dim=32, queries=20, out=str(tmp_path / "results" / "search.json")
    )
    threads = torch.get_num_threads()
    report = bench(settings)
    assert torch.get_num_threads() == threads
    figures = json.loads((tmp_path / "results" / "search.json").read_text())
    assert figures == report.figures
    names = [row["name"] for row in figures["engines"]]
    assert names[1] == "cmmixer, exact"
    assert names[2] == "faiss flat, 1 thread"
    for row in figures["engines"]:
        assert row["recall"] == 1.0 or row["name"] in (names[0], names[-1])
        assert row["recall"] > 0.85
        assert row["bytes_per_row"] >= 4 * 32
        assert 0.0 < row["p50_ms"] <= row["p99_ms"]
        assert row["bound_ms"] > 0.0
    exact = figures["engines"][1]
    assert exact["bound_ms"] == pytest.approx(1000 * 3000 * 32 * 4 / figures["machine_rates"]["bytes_per_second"])
    assert exact["bound_queries_per_second"] == pytest.approx(figures["machine_rates"]["flops"] / (2 * 3000 * 32))
    assert figures["command"].startswith("python -m benchmarks.speed search --rows 3000 --dim 32")
    assert len(report.rows) == len(names)


def test_search_benchmark_refuses_bad_settings() -> None:
    with pytest.raises(
        SettingsError, match="--what: got 'serch', expected one of data, embed, search, step; did you mean 'search'"
    ):
        BenchSettings(what="serch")
    with pytest.raises(SettingsError, match="--rows: got 10, expected 1000 or more"):
        BenchSettings(what="search", rows=10)


def test_missing_faiss_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['faiss'] = None; from benchmarks.speed.__main__ import BENCH, run_command; "
        "sys.exit(run_command(BENCH, ['search']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "benchmarks.speed search needs faiss, which is not installed; pip install 'cmmixer[bench]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_search_section_matches_stored_results() -> None:
    figures, startup = (json.loads((RESULTS / name).read_text()) for name in ("search.json", "search-startup.json"))
    assert DOCUMENT.read_text() == with_section(DOCUMENT.read_text(), section(figures, startup))


def test_section_replaces_its_markers_only() -> None:
    text = "# Scale\n\n<!-- figures: search -->\nold\n<!-- end of search -->\n\n## Step\n"
    assert with_section(text, "new") == "# Scale\n\n<!-- figures: search -->\nnew\n<!-- end of search -->\n\n## Step\n"
    assert with_section("# Scale\n", "new") == "# Scale\n\n<!-- figures: search -->\nnew\n<!-- end of search -->\n"
