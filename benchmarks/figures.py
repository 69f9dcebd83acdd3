"""The speeds that were measured, each beside its floor: the table of figures in the README, and `make bench`.

    python -m benchmarks.figures                  # measures what takes some minutes, then writes the tables
    python -m benchmarks.figures --all            # also what takes longer
    python -m benchmarks.figures --only data      # one of them
    python -m benchmarks.figures --table          # writes the tables from what is there, runs nothing

A floor is arithmetic or bytes: what the machine's own best matrix product, memory reads, JPEG decoding or FFmpeg's own command
would take, measured in the same run. Whoever adds a benchmark adds a row to `BENCHES`.
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
from benchmarks.speed.settings import SUBJECTS

ROOT = Path(__file__).resolve().parents[1]
RESULTS, README = ROOT / "benchmarks" / "results", ROOT / "README.md"
BEGIN, END = "<!-- figures: speed -->", "<!-- end of speed -->"
# Of one benchmark; what takes longer is left to --all.
SOME_MINUTES = 6.0
NOT_MEASURED = "not measured"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: is measured.
        measured: with its unit, or "not measured".
        floor: what it cannot be better than, with its unit.
        share: of the floor that is reached, 1 at best; None where nothing was measured.
        of: what the floor is made of.
    """

    what: str
    measured: str
    floor: str
    share: float | None
    of: str

    def line(self) -> str:
        share = "" if self.share is None else f"{self.share:.0%}"
        return f"| {self.what} | {self.measured} | {self.floor} | {share} | {self.of} |"


@dataclass(frozen=True)
class Bench:
    """One benchmark.

    Attributes:
        name: its figures are in `benchmarks/results/NAME.json`.
        run: a command line, "{python}" and "{result}" in it filled in.
        minutes: about how long it takes on two cores.
        rows: its lines of the table.
    """

    name: str
    run: str
    minutes: float
    rows: Callable[[Figures], Iterator[Row]]

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def is_known(self) -> bool:
        """Whether `cmmixer bench` has it, where it is one of those."""
        return " bench " not in self.run or self.name in SUBJECTS

    def measure(self) -> None:
        """Runs it; its result is written by the command."""
        # Relative, since the command stands in the result.
        result = os.path.relpath(self.result, ROOT)
        words = [word.format(python=sys.executable, result=result) for word in shlex.split(self.run)]
        subprocess.run(words, check=True, cwd=ROOT, stdout=sys.stderr)


# ------------------------------------------------------------------------------------------------- the rows of each one


def _step_rows(figures: Figures) -> Iterator[Row]:
    for preset in ("tiny", "base"):
        for precision in steps.PRECISIONS:
            what = f"training step, {preset}, {precision}"
            row = figures.get(f"{preset}-{precision}")
            if row is None:
                yield Row(what, NOT_MEASURED, "", None, "")
                continue
            ours = row["steps"]["network"]
            yield Row(
                f"{what}; {row['times_transformers_processor']:.2f} times transformers'",
                f"{1000 * ours['processor_seconds'] / row['batch_size']:.0f} core-ms a clip",
                f"{1000 * ours['share_of_peak'] * ours['processor_seconds'] / row['batch_size']:.0f} core-ms",
                ours["share_of_peak"],
                f"{1000 * ours['teraflop'] / row['batch_size']:.1f} GFLOP a clip at the machine's best matrix product",
            )
    for preset in steps.GPU_PRESETS:
        yield Row(f"training step, {preset}, on a GPU", f"{NOT_MEASURED}: no GPU at hand", "", None, "")


def _data_rows(figures: Figures) -> Iterator[Row]:
    reading, prepared = figures["reading"], figures["prepare"]
    of = {name: row["clips_per_processor_second"] for name, row in reading.items()}
    sizes = f"{figures['frames']} frames of {figures['height']} x {figures['width']}"
    yield Row(
        f"clips from the store, {sizes}; {figures['store_times_films_processor']:.0f} times reading films",
        f"{1000 / of['store']:.1f} core-ms a clip",
        f"{1000 / of['jpeg']:.1f} core-ms",
        figures["store_share_of_ceiling_processor"],
        "decoding its JPEGs alone",
    )
    measured = f"{prepared['processor_seconds'] / prepared['clips']:.3f} core-s a clip"
    beside = prepared["ffmpeg"]
    if beside is None:
        yield Row(f"`prepare`, {sizes}", measured, NOT_MEASURED, None, "ffmpeg was not installed")
    else:
        yield Row(
            f"`prepare`, {sizes}",
            measured,
            f"{beside['processor_seconds'] / prepared['clips']:.3f} core-s",
            1 / prepared["times_ffmpeg_processor"],
            "FFmpeg's own command, the same seeks and scaling, as many processes",
        )


def _embed_rows(figures: Figures) -> Iterator[Row]:
    for preset in embedding.SIZES:
        row = figures.get(preset)
        if row is None:
            yield Row(f"embedding films, {preset}", NOT_MEASURED, "", None, "")
            continue
        whole = row["parts"]["end to end"]["films_per_second"]
        yield Row(
            f"embedding films, {preset}; {row['decode_share']:.0%} of the processor's time is decoding",
            f"{whole:.2f} films/s",
            f"{whole / row['share_of_floor']:.2f} films/s",
            row["share_of_floor"],
            "decoding alone, the model alone, or the cores they share: what is slowest",
        )


def _search_rows(figures: Figures) -> Iterator[Row]:
    row = next(row for row in figures["engines"] if row["name"] == f"cmmixer, {figures['plan']['kind']}")
    among = f"among {figures['rows']:,} of {figures['dim']} values"
    yield Row(
        f"one search {among}, recall@10 {row['recall']:.3f}",
        f"{row['p50_ms']:.1f} ms",
        f"{row['floor_ms']:.1f} ms",
        row["floor_ms"] / row["p50_ms"],
        "the bytes it must read, at the rate of memory",
    )
    yield Row(
        f"searches in batches of 100 {among}",
        f"{row['queries_per_second']:.0f}/s",
        f"{row['floor_queries_per_second']:.0f}/s",
        row["queries_per_second"] / row["floor_queries_per_second"],
        "the same bytes",
    )


def _startup_rows(figures: Figures) -> Iterator[Row]:
    after, torch = (figures[name]["processor_seconds"] for name in ("after", "torch"))
    yield Row(
        "start of `cmmixer search`", f"{after:.1f} core-s", f"{torch:.1f} core-s", torch / after, "`import torch`"
    )


BENCHES = (
    Bench(
        "step",
        "env OMP_NUM_THREADS=1 {python} -m benchmarks.steps --only tiny-32-true tiny-bf16-mixed",
        4,
        _step_rows,
    ),
    Bench("data", "{python} -m cmmixer bench data --rounds 5 --out {result}", 4, _data_rows),
    Bench("embed", "env OMP_NUM_THREADS=1 {python} -m benchmarks.embedding --only nano", 4, _embed_rows),
    Bench("search", "{python} -m cmmixer bench search --out {result}", 25, _search_rows),
    # Compares with an older revision, which one checks out beforehand.
    Bench("search-startup", "", float("inf"), _startup_rows),
)


# ------------------------------------------------------------------------------------------------------------ the tables


def stored() -> dict[str, Figures]:
    """The figures that are there, by the name of their benchmark."""
    return {bench.name: json.loads(bench.result.read_text()) for bench in BENCHES if bench.result.exists()}


def table(figures: dict[str, Figures]) -> str:
    """The README's table, in Markdown."""
    lines = [
        "| | measured | floor | share of the floor | the floor is |",
        "|---|---|---|---|---|",
    ]
    for bench in BENCHES:
        if bench.name in figures:
            lines += [row.line() for row in bench.rows(figures[bench.name])]
        else:
            lines.append(f"| {bench.name} | {NOT_MEASURED} | | | |")
    machines = {(f["machine"]["cores"], f["machine"]["cuda"]) for f in _runs(figures)}
    told = "; ".join(f"{cores} cores, {'no GPU' if cuda == 'none' else cuda}" for cores, cuda in sorted(machines))
    loads = [run["load_average"] for run in _runs(figures) if "load_average" in run]
    dates = sorted({run["date"] for run in _runs(figures)})
    lines += [
        "",
        f"Measured on {told}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, beside other work (load average {min(loads):.0f} to {max(loads):.0f}): core-ms are "
        "processor time, which other work takes nothing from; FFmpeg's command is no floor but a yardstick, which opens a film anew for every picture; what is told by the clock is too slow by as much as it waited. `make bench` measures anew "
        "and writes this table from `benchmarks/results/`; [docs/scale.md](docs/scale.md) says what follows for a billion clips.",
    ]
    return "\n".join(lines)


def _runs(figures: dict[str, Figures]) -> list[Figures]:
    """Every run of a command by itself."""
    nested = ("embed", "step")
    return [run for name, its in figures.items() for run in (its.values() if name in nested else [its])]


def with_table(text: str, speeds: str) -> str:
    """The README's text with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{speeds}\n{END}{after}"


def write_tables() -> None:
    """Writes whatever is made from the stored figures: the README's table, docs/step.md, docs/embedding.md and docs/scale.md."""
    steps.main(["--table"])
    embedding.main(["--table"])
    search_scale.main()
    scale.main()
    README.write_text(with_table(README.read_text(), table(stored())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, then writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    runnable = [bench for bench in BENCHES if bench.run]
    parser.add_argument("--only", nargs="+", choices=[bench.name for bench in runnable], help="measure these")
    parser.add_argument("--all", action="store_true", help="measure also what takes longer than some minutes")
    parser.add_argument("--table", action="store_true", help="write the tables from what is there, run nothing")
    options = parser.parse_args(arguments)
    for bench in [] if options.table else runnable:
        if not bench.is_known:
            print(f"{bench.name}: this version has no such benchmark", file=sys.stderr)
        elif options.only is None and not options.all and bench.minutes > SOME_MINUTES:
            print(f"{bench.name}: left as it is; about {bench.minutes:g} minutes with --all", file=sys.stderr)
        elif options.only is None or bench.name in options.only:
            print(f"{bench.name}: about {bench.minutes:g} minutes", file=sys.stderr)
            bench.measure()
    write_tables()


if __name__ == "__main__":
    main()
