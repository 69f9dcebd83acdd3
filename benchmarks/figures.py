"""Measures the speeds and writes the documents about them: docs/benchmarks.md, step.md, embedding.md and scale.md (`make bench`).

    python -m benchmarks.figures                  # measures what takes a few minutes, then writes the documents
    python -m benchmarks.figures --all            # also what takes longer
    python -m benchmarks.figures --only data      # one benchmark
    python -m benchmarks.figures --table          # writes the documents from the stored results, runs nothing

Every speed is next to a bound, measured in the same run: the machine's fastest matrix product, its memory bandwidth, JPEG decoding or
FFmpeg's own command. A new benchmark needs an entry in `BENCHES`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import embedding, scale, search_scale, steps

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: speed -->", "<!-- end of speed -->"
# Benchmarks that take longer are run by --all only.
MAX_MINUTES = 6.0
NOT_MEASURED = "not measured"
START = f"""# Benchmarks

Speeds on one machine, each next to the bound that it cannot beat, measured in the same run. The table is written by `python -m benchmarks.figures`;
do not edit it.

{BEGIN}
{END}

Details: [training step](step.md), [embedding](embedding.md), [search, and a billion clips](scale.md). How well the methods work is in the
[study](study.md).
"""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: what is measured.
        measured: with its unit, or "not measured".
        bound: best possible value, with its unit.
        share: fraction of the bound that is reached, at most 1; None if not measured.
        bound_by: what the bound is made of.
    """

    title: str
    measured: str
    bound: str
    share: float | None
    bound_by: str

    def line(self) -> str:
        share = "" if self.share is None else f"{self.share:.0%}"
        return f"| {self.title} | {self.measured} | {self.bound} | {share} | {self.bound_by} |"


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        name: its results are in `benchmarks/results/NAME.json`.
        command: command line with the placeholders "{python}" and "{result}"; empty if it is run by hand.
        minutes: approximate time on two cores.
        rows: returns its rows of the table.
    """

    name: str
    command: str
    minutes: float
    rows: Callable[[Figures], Iterator[Row]]

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def measure(self) -> None:
        """Runs the command, which stores the results."""
        # Relative, because the results contain the command.
        result = os.path.relpath(self.result, ROOT)
        arguments = [word.format(python=sys.executable, result=result) for word in shlex.split(self.command)]
        subprocess.run(arguments, check=True, cwd=ROOT, stdout=sys.stderr)


def _step_rows(figures: Figures) -> Iterator[Row]:
    for preset in ("tiny", "base"):
        for precision in steps.PRECISIONS:
            title = f"training step, {preset}, {precision}"
            row = figures.get(f"{preset}-{precision}")
            if row is None:
                yield Row(title, NOT_MEASURED, "", None, "")
                continue
            ours = row["steps"]["network"]
            yield Row(
                f"{title}; {row['times_transformers_cpu']:.2f} times as fast as transformers",
                f"{1000 * ours['cpu_seconds'] / row['batch_size']:.0f} core-ms per clip",
                f"{1000 * ours['share_of_peak'] * ours['cpu_seconds'] / row['batch_size']:.0f} core-ms",
                ours["share_of_peak"],
                f"{1000 * ours['teraflop'] / row['batch_size']:.1f} GFLOP per clip at the rate of the machine's fastest matrix product",
            )
    for preset in steps.GPU_PRESETS:
        yield Row(f"training step, {preset}, on a GPU", f"{NOT_MEASURED}: no GPU available", "", None, "")


def _data_rows(figures: Figures) -> Iterator[Row]:
    reading, prepared = figures["reading"], figures["prepare"]
    rates = {name: row["clips_per_cpu_second"] for name, row in reading.items()}
    sizes = f"{figures['frames']} frames of {figures['height']} x {figures['width']}"
    yield Row(
        f"loading clips from the store, {sizes}; {figures['store_times_videos_cpu']:.0f} times as fast as from videos",
        f"{1000 / rates['store']:.1f} core-ms per clip",
        f"{1000 / rates['jpeg']:.1f} core-ms",
        figures["store_share_of_ceiling_cpu"],
        "decoding its JPEGs alone",
    )
    measured = f"{prepared['cpu_seconds'] / prepared['clips']:.3f} core-s per clip"
    ffmpeg = prepared["ffmpeg"]
    if ffmpeg is None:
        yield Row(f"`prepare`, {sizes}", measured, NOT_MEASURED, None, "ffmpeg was not installed")
    else:
        yield Row(
            f"`prepare`, {sizes}",
            measured,
            f"{ffmpeg['cpu_seconds'] / prepared['clips']:.3f} core-s",
            1 / prepared["times_ffmpeg_cpu"],
            "FFmpeg's own command, same seeks and scaling, as many processes",
        )


def _embed_rows(figures: Figures) -> Iterator[Row]:
    for preset in embedding.SIZES:
        row = figures.get(preset)
        if row is None:
            yield Row(f"embedding videos, {preset}", NOT_MEASURED, "", None, "")
            continue
        whole = row["parts"]["end to end"]["videos_per_second"]
        yield Row(
            f"embedding videos, {preset}; {row['decode_share']:.0%} of the CPU time is decoding",
            f"{whole:.2f} videos/s",
            f"{whole / row['share_of_bound']:.2f} videos/s",
            row["share_of_bound"],
            "the slowest of decoding only, model only, and the cores they share",
        )


def _search_rows(figures: Figures) -> Iterator[Row]:
    row = next(row for row in figures["engines"] if row["name"] == f"cmmixer, {figures['ann_settings']['kind']}")
    among = f"among {figures['rows']:,} of {figures['dim']} values"
    yield Row(
        f"one search {among}, recall@10 {row['recall']:.3f}",
        f"{row['p50_ms']:.1f} ms",
        f"{row['bound_ms']:.1f} ms",
        row["bound_ms"] / row["p50_ms"],
        "the bytes it has to read, at memory bandwidth",
    )
    yield Row(
        f"searches in batches of 100 {among}",
        f"{row['queries_per_second']:.0f}/s",
        f"{row['bound_queries_per_second']:.0f}/s",
        row["queries_per_second"] / row["bound_queries_per_second"],
        "the same bytes",
    )


def _startup_rows(figures: Figures) -> Iterator[Row]:
    after, torch = (figures[name]["cpu_seconds"] for name in ("after", "torch"))
    yield Row(
        "start-up of `cmmixer search`", f"{after:.1f} core-s", f"{torch:.1f} core-s", torch / after, "`import torch`"
    )


BENCHES = (
    Bench(
        "step",
        "env OMP_NUM_THREADS=1 {python} -m benchmarks.steps --only tiny-32-true tiny-bf16-mixed",
        4,
        _step_rows,
    ),
    Bench("data", "{python} -m benchmarks.speed data --rounds 5 --out {result}", 4, _data_rows),
    Bench("embed", "env OMP_NUM_THREADS=1 {python} -m benchmarks.embedding --only nano", 4, _embed_rows),
    Bench("search", "{python} -m benchmarks.speed search --out {result}", 25, _search_rows),
    # Compares with an older revision, which has to be checked out first.
    Bench("search-startup", "", float("inf"), _startup_rows),
)


def load_figures() -> dict[str, Figures]:
    """Loads the stored results, by name of the benchmark."""
    return {bench.name: json.loads(bench.result.read_text()) for bench in BENCHES if bench.result.exists()}


def table(figures: dict[str, Figures]) -> str:
    """Returns the table of speeds, in Markdown."""
    lines = [
        "| speed | measured | bound | share of the bound | bounded by |",
        "|---|---|---|---|---|",
    ]
    for bench in BENCHES:
        if bench.name in figures:
            lines += [row.line() for row in bench.rows(figures[bench.name])]
        else:
            lines.append(f"| {bench.name} | {NOT_MEASURED} | | | |")
    machines = {(f["machine"]["cores"], f["machine"]["cuda"]) for f in _runs(figures)}
    machine = "; ".join(f"{cores} cores, {'no GPU' if cuda == 'none' else cuda}" for cores, cuda in sorted(machines))
    loads = [run["load_average"] for run in _runs(figures) if "load_average" in run]
    dates = sorted({run["date"] for run in _runs(figures)})
    lines += [
        "",
        f"Measured on {machine}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, beside other work (load average {min(loads):.0f} to {max(loads):.0f}). Core-ms are "
        "CPU time, which other work does not change; wall times include waiting for it. FFmpeg's command is a reference, not a bound: it opens a video again for every frame. `make bench` measures again "
        "and writes this table from `benchmarks/results/`.",
    ]
    return "\n".join(lines)


def _runs(figures: dict[str, Figures]) -> list[Figures]:
    """Returns the results of every single run."""
    nested = ("embed", "step")
    return [run for name, its in figures.items() for run in (its.values() if name in nested else [its])]


def with_table(text: str, lines: str) -> str:
    """Returns the document with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def write_tables() -> None:
    """Writes all documents about speed from the stored results."""
    steps.main(["--table"])
    embedding.main(["--table"])
    search_scale.main([])
    scale.main([])
    text = DOCUMENT.read_text() if DOCUMENT.exists() else START
    DOCUMENT.write_text(with_table(text, table(load_figures())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmarks, then writes the documents."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    runnable = [bench for bench in BENCHES if bench.command]
    parser.add_argument("--only", nargs="+", choices=[bench.name for bench in runnable], help="run these benchmarks")
    parser.add_argument("--all", action="store_true", help="also run benchmarks that take more than a few minutes")
    parser.add_argument("--table", action="store_true", help="write the documents from the stored results, run nothing")
    options = parser.parse_args(arguments)
    for bench in [] if options.table else runnable:
        if options.only is None and not options.all and bench.minutes > MAX_MINUTES:
            print(f"{bench.name}: skipped; about {bench.minutes:g} minutes with --all", file=sys.stderr)
        elif options.only is None or bench.name in options.only:
            print(f"{bench.name}: about {bench.minutes:g} minutes", file=sys.stderr)
            bench.measure()
    write_tables()


if __name__ == "__main__":
    main()
