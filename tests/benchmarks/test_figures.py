"""The README's table of speeds and the arithmetic of docs/scale.md are made from the stored results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import figures, scale
from benchmarks.figures import BENCHES, README, Bench, Row, stored, table, with_table
from benchmarks.scale import DOCUMENT, Assumed, Measured, section, with_section
from cmmixer.cli.commands import COMMANDS
from cmmixer.cli.parser import parse


def test_the_readme_s_table_is_made_from_the_stored_results() -> None:
    assert README.read_text() == with_table(README.read_text(), table(stored()))


def test_the_arithmetic_is_made_from_the_stored_results() -> None:
    assert DOCUMENT.read_text() == with_section(DOCUMENT.read_text(), section(*scale.stored()))


def test_every_figure_stands_beside_a_floor_that_it_does_not_beat() -> None:
    for bench in BENCHES:
        if bench.name not in stored():
            continue
        rows = list(bench.rows(stored()[bench.name]))
        assert rows
        for row in rows:
            if row.share is None:
                assert "not measured" in row.measured + row.floor
            else:
                assert row.floor
                assert row.of
                # FFmpeg's command is a yardstick, which may be beaten.
                assert 0 < row.share <= 1.02 or "FFmpeg" in row.of


@pytest.mark.parametrize("bench", [bench for bench in BENCHES if bench.is_known and " bench " in bench.run])
def test_what_make_bench_runs_are_commands_that_write_where_the_tables_look(bench: Bench) -> None:
    words = bench.run.split()
    assert words[:4] == ["{python}", "-m", "cmmixer", "bench"]
    settings, _ = parse(COMMANDS["bench"], [word.format(result="x.json") for word in words[4:]])
    assert (settings.what, settings.out) == (bench.name, "x.json")


def test_a_gpu_is_not_measured_here_and_the_table_says_so() -> None:
    told = table(stored())
    for preset in ("tiny", "base", "large"):
        assert f"| training step, {preset}, on a GPU | not measured: no GPU at hand | " in told


MEASURED = Measured(
    prepare_core_seconds=0.036,
    store_bytes=1e6,
    read_core_seconds=0.002,
    step_core_seconds=0.8,
    step_teraflop=0.1,
    embed_core_seconds=None,
    row_bytes=1000.0,
    quick_bytes=50.0,
    build_core_seconds=3.6e-4,
    query_core_seconds=6.4e-8,
    query_bytes=30.0,
)


@pytest.mark.parametrize(
    ("what", "one", "million", "billion"),
    [
        ("`prepare`: core-hours", "36 core-ms", "10", "10,000"),
        # 36e6 core-seconds / (64 cores x 7 days)
        ("`prepare`: machines for it", "", "1", "1"),
        ("clip store: bytes", "1 MB", "1 TB", "1 PB"),
        ("pre-training, all visits: EFLOP", "100 GFLOP a visit", "1", "1,000"),
        # 10 visits x 0.1 TFLOP / (1000 x 0.5 TFLOP/s) = 2 ms a clip
        ("pre-training: GPU-hours, assumed", "0.20 GPU-ms a visit", "0.56", "560"),
        ("pre-training: GPUs for it", "", "1", "4"),
        ("feeding each of those GPUs: cores that read the store", "2.0 core-ms", "10.0", "10.0"),
        ("feeding each of those GPUs: bytes a second", "1 MB", "5 GB", "5 GB"),
        ("pre-training on processors instead: core-hours", "0.80 core-s a visit", "2,200", "2,200,000"),
        ("`embed`: core-hours", "", "not measured", "not measured"),
        ("index: of these, what wants memory", "50 B", "50 MB", "50 GB"),
        ("index: bytes", "1 kB", "1 GB", "1 TB"),
        ("index: parts", "", "1", "1,000"),
        ("index: core-hours to build", "360 core-µs", "0.1", "100"),
        ("a query of all parts: core-seconds", "64 core-ns", "0.064", "64"),
        ("a query of all parts: bytes read", "30 B", "30 MB", "30 GB"),
        ("machines that compute it within a second", "", "1", "1"),
    ],
)
def test_the_arithmetic_by_hand(what: str, one: str, million: str, billion: str) -> None:
    assumed = Assumed(gpu_teraflops=1000.0, gpu_utilisation=0.5)
    line = next(line for line in scale.LINES if line.what == what)
    assert line.one(MEASURED, assumed) == one
    assert line.many(MEASURED, assumed, 10**6) == million
    assert line.many(MEASURED, assumed, 10**9) == billion


def test_what_was_measured_is_taken_from_the_right_places() -> None:
    data = {
        "prepare": {"processor_seconds": 6.0, "clips": 30},
        "store": {"bytes_per_clip": 7.0},
        "reading": {"store": {"clips_per_processor_second": 400.0}},
    }
    step = {"steps": {"network and its inputs": {"processor_seconds": 3.0, "teraflop": 0.4}}, "batch_size": 2}
    search = {
        "rows": 1000,
        "plan": {"kind": "ivf_rq", "bytes_per_row": 4.0},
        "machine": {"cores": 2},
        "floors": {"bytes_per_second": 5e9},
        "engines": [
            {"name": "cmmixer, ivf_rq", "bytes_per_row": 9.0, "build_minutes": 0.5, "p50_ms": 10.0, "floor_ms": 2.0}
        ],
    }
    embed = {"processor_seconds_per_film": {"decoding": 1.0, "model": 2.0}, "films": 5, "moments": 50}
    assert Measured.of(data, step, search, embed) == Measured(
        prepare_core_seconds=0.2,
        store_bytes=7.0,
        read_core_seconds=0.0025,
        step_core_seconds=1.5,
        step_teraflop=0.2,
        embed_core_seconds=0.3,
        row_bytes=9.0,
        quick_bytes=4.0,
        build_core_seconds=0.06,
        query_core_seconds=pytest.approx(2e-5),
        query_bytes=pytest.approx(1e4),
    )
    assert Measured.of(data, step, search, None).embed_core_seconds is None


def test_embedding_gets_its_line_once_it_is_measured() -> None:
    embed = {
        "base": {"parts": {"end to end": {"films_per_second": 2.0}}, "decode_share": 0.25, "share_of_floor": 0.8},
        "stored": {},
    }
    bench = next(bench for bench in BENCHES if bench.name == "embed")
    assert [row.line() for row in bench.rows(embed)] == [
        "| embedding films, nano | not measured |  |  |  |",
        "| embedding films, base; 25% of the processor's time is decoding | 2.00 films/s | 2.50 films/s | 80% | "
        "decoding alone, the model alone, or the cores they share: what is slowest |",
    ]


def test_a_run_measures_what_takes_minutes_and_writes_every_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(its: dict[str, float]) -> list[Row]:
        return [Row("w", f"{its['speed']}", "2", its["speed"] / 2, "arithmetic")]

    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "README", tmp_path / "README.md")
    monkeypatch.setattr(Bench, "measure", _measure)
    names = {"quick": (1, "x"), "slow": (30, "x"), "later": (1, "x bench later"), "old": (1, "")}
    benches = tuple(Bench(name, run, minutes, rows) for name, (minutes, run) in names.items())
    monkeypatch.setattr(figures, "BENCHES", benches)
    written = []
    for module in (figures.steps, figures.embedding, figures.search_scale, scale):
        monkeypatch.setattr(module, "main", lambda *arguments, name=module.__name__: written.append(name))
    (tmp_path / "README.md").write_text(f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n")
    figures.main([])
    assert written == [f"benchmarks.{name}" for name in ("steps", "embedding", "search_scale", "scale")]
    told = (tmp_path / "README.md").read_text()
    assert told.startswith(f"before\n{figures.BEGIN}\n| | measured | floor |")
    assert "| w | 1.0 | 2 | 50% | arithmetic |\n| slow | not measured | | | |\n" in told
    assert "Measured on 4 cores, no GPU, 2026-11-25, beside other work (load average 3 to 3)" in told
    assert told.endswith(f"{figures.END}\nafter\n")
    assert "slow: left as it is; about 30 minutes with --all" in capsys.readouterr().err
    assert not (tmp_path / "slow.json").exists()
    assert "later: this version has no such benchmark" in _told(["--table", "--all"], capsys) + _told(["--all"], capsys)
    assert (tmp_path / "slow.json").exists()


def _told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    figures.main(arguments)
    return capsys.readouterr().err


def _measure(bench: Bench) -> None:
    """Without a shell or a command line in between."""
    if bench.run.strip():
        bench.result.write_text(
            json.dumps(
                {"speed": 1.0, "machine": {"cores": 4, "cuda": "none"}, "date": "2026-11-25", "load_average": 3.0}
            )
        )


def test_a_benchmark_is_a_command_that_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    code = "import sys; open(sys.argv[1], 'w').write('{{}}')"
    Bench("one", f'{{python}} -c "{code}" {{result}}', 1, lambda its: iter(())).measure()
    assert (tmp_path / "one.json").read_text() == "{}"
    with pytest.raises(SystemExit):
        figures.main(["--only", "nothing"])
