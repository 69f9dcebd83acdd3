"""The table of speeds and the arithmetic of docs/scale.md match the stored results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import figures, scale
from benchmarks.figures import BENCHES, DOCUMENT, START, Bench, Row, load_figures, table, with_table
from benchmarks.scale import Assumptions, Measured, section, with_section
from benchmarks.speed.__main__ import BENCH
from cmmixer.cli.parser import parse


def test_speed_table_matches_stored_results() -> None:
    assert DOCUMENT.read_text() == with_table(START, table(load_figures()))


def test_scale_arithmetic_matches_stored_results() -> None:
    text = scale.DOCUMENT.read_text()
    assert text == with_section(text, section(*scale.load_figures()))


def test_no_speed_beats_its_bound() -> None:
    for bench in BENCHES:
        if bench.name not in load_figures():
            continue
        rows = list(bench.rows(load_figures()[bench.name]))
        assert rows
        for row in rows:
            if row.share is None:
                assert "not measured" in row.measured + row.bound
            else:
                assert row.bound
                assert row.bound_by
                # FFmpeg's command is a reference, which may be beaten.
                assert 0 < row.share <= 1.02 or "FFmpeg" in row.bound_by


@pytest.mark.parametrize("bench", [bench for bench in BENCHES if " benchmarks.speed " in bench.command])
def test_benchmark_commands_parse_and_write_to_the_result(bench: Bench) -> None:
    words = bench.command.split()
    assert words[:3] == ["{python}", "-m", "benchmarks.speed"]
    settings, _ = parse(BENCH, [word.format(result="x.json") for word in words[3:]])
    assert (settings.what, settings.out) == (bench.name, "x.json")


def test_table_says_that_no_gpu_was_measured() -> None:
    message = table(load_figures())
    for preset in ("tiny", "base", "large"):
        assert f"| training step, {preset}, on a GPU | not measured: no GPU available | " in message


MEASURED = Measured(
    prepare_core_seconds=0.036,
    store_bytes=1e6,
    read_core_seconds=0.002,
    step_core_seconds=0.8,
    step_teraflop=0.1,
    embed_core_seconds=None,
    row_bytes=1000.0,
    hot_bytes=50.0,
    build_core_seconds=3.6e-4,
    query_core_seconds=6.4e-8,
    query_bytes=30.0,
)


@pytest.mark.parametrize(
    ("title", "per_clip", "million", "billion"),
    [
        ("`prepare`: core-hours", "36 core-ms", "10", "10,000"),
        # 36e6 core-seconds / (64 cores x 7 days)
        ("`prepare`: machines", "", "1", "1"),
        ("clip store: bytes", "1 MB", "1 TB", "1 PB"),
        ("pre-training, all epochs: EFLOP", "100 GFLOP per epoch", "1", "1,000"),
        # 10 epochs x 0.1 TFLOP / (1000 x 0.5 TFLOP/s) = 2 ms per clip
        ("pre-training: GPU-hours (assumed)", "0.20 GPU-ms per epoch", "0.56", "560"),
        ("pre-training: GPUs", "", "1", "4"),
        ("data loading for each GPU: cores", "2.0 core-ms", "10.0", "10.0"),
        ("data loading for each GPU: bytes per second", "1 MB", "5 GB", "5 GB"),
        ("pre-training on CPUs instead: core-hours", "0.80 core-s per epoch", "2,200", "2,200,000"),
        ("`embed`: core-hours", "", "not measured", "not measured"),
        ("index: of these, in memory", "50 B", "50 MB", "50 GB"),
        ("index: bytes", "1 kB", "1 GB", "1 TB"),
        ("index: parts", "", "1", "1,000"),
        ("index: core-hours to build", "360 core-µs", "0.1", "100"),
        ("query of all parts: core-seconds", "64 core-ns", "0.064", "64"),
        ("query of all parts: bytes read", "30 B", "30 MB", "30 GB"),
        ("query of all parts: machines to answer within a second", "", "1", "1"),
    ],
)
def test_scale_rows_match_arithmetic_by_hand(title: str, per_clip: str, million: str, billion: str) -> None:
    assumed = Assumptions(gpu_teraflops=1000.0, gpu_utilization=0.5)
    row = next(row for row in scale.ROWS if row.title == title)
    assert row.per_clip(MEASURED, assumed) == per_clip
    assert row.total(MEASURED, assumed, 10**6) == million
    assert row.total(MEASURED, assumed, 10**9) == billion


def test_measured_costs_are_derived_from_the_figures() -> None:
    data = {
        "prepare": {"cpu_seconds": 6.0, "clips": 30},
        "store": {"bytes_per_clip": 7.0},
        "reading": {"store": {"clips_per_cpu_second": 400.0}},
    }
    step = {"steps": {"network and its inputs": {"cpu_seconds": 3.0, "teraflop": 0.4}}, "batch_size": 2}
    search = {
        "rows": 1000,
        "ann_settings": {"kind": "ivf_rq", "bytes_per_row": 4.0},
        "machine": {"cores": 2},
        "machine_rates": {"bytes_per_second": 5e9},
        "engines": [
            {"name": "cmmixer, ivf_rq", "bytes_per_row": 9.0, "build_minutes": 0.5, "p50_ms": 10.0, "bound_ms": 2.0}
        ],
    }
    embed = {"cpu_seconds_per_video": {"decoding": 1.0, "model": 2.0}, "videos": 5, "moments": 50}
    assert Measured.of(data, step, search, embed) == Measured(
        prepare_core_seconds=0.2,
        store_bytes=7.0,
        read_core_seconds=0.0025,
        step_core_seconds=1.5,
        step_teraflop=0.2,
        embed_core_seconds=0.3,
        row_bytes=9.0,
        hot_bytes=4.0,
        build_core_seconds=0.06,
        query_core_seconds=pytest.approx(2e-5),
        query_bytes=pytest.approx(1e4),
    )
    assert Measured.of(data, step, search, None).embed_core_seconds is None


def test_embedding_rows_with_and_without_measurements() -> None:
    embed = {
        "base": {"parts": {"end to end": {"videos_per_second": 2.0}}, "decode_share": 0.25, "share_of_bound": 0.8},
        "stored": {},
    }
    bench = next(bench for bench in BENCHES if bench.name == "embed")
    assert [row.line() for row in bench.rows(embed)] == [
        "| embedding videos, nano | not measured |  |  |  |",
        "| embedding videos, base; 25% of the CPU time is decoding | 2.00 videos/s | 2.50 videos/s | 80% | "
        "the slowest of decoding only, model only, and the cores they share |",
    ]


def test_main_runs_quick_benchmarks_and_writes_all_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(its: dict[str, float]) -> list[Row]:
        return [Row("w", f"{its['speed']}", "2", its["speed"] / 2, "arithmetic")]

    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "DOCUMENT", tmp_path / "benchmarks.md")
    monkeypatch.setattr(Bench, "measure", _measure)
    names = {"quick": (1, "x"), "slow": (30, "x"), "old": (1, "")}
    benches = tuple(Bench(name, command, minutes, rows) for name, (minutes, command) in names.items())
    monkeypatch.setattr(figures, "BENCHES", benches)
    written = []
    for module in (figures.steps, figures.embedding, figures.search_scale, scale):
        monkeypatch.setattr(module, "main", lambda *arguments, name=module.__name__: written.append(name))
    (tmp_path / "benchmarks.md").write_text(f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n")
    figures.main([])
    assert written == [f"benchmarks.{name}" for name in ("steps", "embedding", "search_scale", "scale")]
    message = (tmp_path / "benchmarks.md").read_text()
    assert message.startswith(f"before\n{figures.BEGIN}\n| speed | measured | bound |")
    assert "| w | 1.0 | 2 | 50% | arithmetic |\n| slow | not measured | | | |\n" in message
    assert "Measured on 4 cores, no GPU, 2026-11-25, beside other work (load average 3 to 3)" in message
    assert message.endswith(f"{figures.END}\nafter\n")
    assert capsys.readouterr().err.splitlines() == [
        "quick: about 1 minutes",
        "slow: skipped; about 30 minutes with --all",
    ]
    assert not (tmp_path / "slow.json").exists()
    figures.main(["--table", "--all"])
    assert not (tmp_path / "slow.json").exists()
    figures.main(["--all"])
    assert (tmp_path / "slow.json").exists()


def _measure(bench: Bench) -> None:
    """Stores a result without running a command."""
    if bench.command:
        bench.result.write_text(
            json.dumps(
                {"speed": 1.0, "machine": {"cores": 4, "cuda": "none"}, "date": "2026-11-25", "load_average": 3.0}
            )
        )


def test_bench_measure_runs_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    code = "import sys; open(sys.argv[1], 'w').write('{{}}')"
    Bench("one", f'{{python}} -c "{code}" {{result}}', 1, lambda its: iter(())).measure()
    assert (tmp_path / "one.json").read_text() == "{}"
    with pytest.raises(SystemExit):
        figures.main(["--only", "nothing"])
