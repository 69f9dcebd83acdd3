"""Writes the section "Search" of docs/scale.md from the stored figures of two benchmarks.

python -m benchmarks.speed search --rows 1000000 --dim 256 --out benchmarks/results/search.json
python -m benchmarks.search_startup ...
python -m benchmarks.search_scale
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results", ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- figures: search -->", "<!-- end of search -->"
START = """# Scale

Figures measured on one machine, each next to its lower bound. Parts between markers are written by scripts; do not edit them.

"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the section and leaves the rest of the document as it is."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    text = DOCUMENT.read_text() if DOCUMENT.exists() else f"{START}{BEGIN}\n{END}\n"
    DOCUMENT.write_text(with_section(text, section(_read("search.json"), _read("search-startup.json"))))


def with_section(text: str, figures: str) -> str:
    """Returns the document with the section between its markers, or at its end if it has no markers."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def _other_work(search: dict[str, Any]) -> str:
    """Says whether other work used the cores; the load average includes the benchmark itself."""
    load = search["load_average"]
    if load <= search["machine"]["cores"]:
        return f"the machine otherwise idle (load average {load:.1f})"
    return f"beside other work (load average {load:.1f}), so that all times are high"


def section(search: dict[str, Any], startup: dict[str, Any]) -> str:
    """Returns the section, in Markdown."""
    ann, rates, vectors, machine = search["ann_settings"], search["machine_rates"], search["vectors"], search["machine"]
    ours, flat = _engine(search, f"cmmixer, {ann['kind']}"), _engine(search, "faiss flat, 1 thread")
    graph = search["engines"][-1]
    lines = [
        "## Search",
        "",
        "Written by `python -m benchmarks.search_scale`. Measured with",
        "",
        f"    {search['command']}",
        "",
        f"on {machine['cores']} cores (GPU: {machine['cuda']}), {search['date']}, {_other_work(search)}. The engines took turns, {search['queries']} queries in ten rounds.",
        "",
        f"A library of {search['rows']:,} audio vectors of {search['dim']} values, searched through `MomentIndex.nearest`. The index was built as by "
        f"`cmmixer index --optimize`: {ann['kind']}, {ann['partitions']} cells, of which a query reads {ann['probes']}, and {ann['candidates']} candidates "
        f"re-scored with their full vectors. It was tuned to a recall of {ann['target']:g} with {ann['why']}, drawn from the library and not from the "
        f"queries below, with a measured recall of {ann['recall']:.3f}. Building took {ann['build_seconds'] / 60:.1f} minutes, including tuning "
        f"{search['optimized_seconds'] / 60:.1f}.",
        "",
        "| engine | recall@10 | p50 ms | p99 ms | lower bound ms | queries/s in batches of 100 | upper bound queries/s | build min | bytes per row |",
        "|---|---|---|---|---|---|---|---|---|",
        *(f"| {_row(row)} |" for row in search["engines"]),
        "",
        f"The lower bound of a single query is the bytes it has to read over the rate at which this machine reads memory ({rates['bytes_per_second'] / 1e9:.1f} GB/s, both "
        f"cores, measured in the same run). The bound of batches is the same if every query reads its own cells. If a batch reads all rows once, it is "
        f"the FLOP over the rate of a large matrix product ({rates['flops'] / 1e9:.0f} GFLOP/s). "
        f"The vector of a row takes {4 * search['dim']} bytes, and every engine stores it. The graph of faiss was tuned with a fifth of the queries it is measured with, "
        "the index of CMMixer with none of them. In exact search, LanceDB answers one query at a time, so its batch is one query.",
        "",
        f"Targets: recall@10 {ours['recall']:.3f} (target 0.98); p50 {ours['p50_ms']:.1f} ms (target 10 ms"
        f"{': missed in this run' if ours['p50_ms'] > 10 else ''}; minutes earlier, during tuning, {ann['p50_ms']:.1f} ms), {ours['p50_ms'] / ours['bound_ms']:.1f} times its lower bound and "
        f"{flat['p50_ms'] / ours['p50_ms']:.1f} times faster than exact faiss on one thread; in batches {ours['queries_per_second'] / flat['queries_per_second']:.1f} times "
        f"the queries per second of exact faiss on one thread (target 1). {graph['name']} has a recall of {graph['recall']:.3f}.",
        "",
        "**The vectors** are synthetic (`benchmarks.speed.search_engines`): kinds of content with log-normal weights, videos of 20 moments around a kind, moments around their "
        "video, queries around a moment; the variance of all noise decreases as 1/i over the directions. They fill "
        f"{vectors['directions']:.0f} directions (participation ratio), their intrinsic dimension is {vectors['intrinsic']:.0f} (two nearest neighbours), and the cosine of a query "
        f"to its moment is {vectors['query_cosine']:.2f} (median). In the quickstart's index of 200 real embeddings (128 values) the cosine of a video to its sound is "
        "0.69, they fill 12 directions and their dimension is 7 to 11: the synthetic ones are harder to distinguish. Because queries are so far from the rows, an "
        "index has to read many cells (docs/lab-notebook.md, 2026-11-25).",
        "",
        "**Freshness and exactness.** Moments added after `--optimize` are searched exactly until the next `--optimize`; removed ones are skipped. Scores are cosines of "
        "the full vectors, whatever the index stores. A library with fewer than 100,000 moments is searched exactly, as is any library with `search --exact`.",
        "",
        "### Start-up of a search",
        "",
        f"`cmmixer search` on a warm index of 200 moments, median of {startup['rounds']} runs in turns, same machine (load average {startup['load_average']:.1f}), {startup['date']}:",
        "",
        "| | seconds | CPU seconds |",
        "|---|---|---|",
        *(
            f"| {title} | {startup[name]['seconds']:.1f} | {startup[name]['cpu_seconds']:.2f} |"
            for name, title in (
                ("before", f"revision {startup['revision']}, with LanceDB imported"),
                ("after", "now, reading Lance directly"),
                ("torch", "lower bound: `import torch`"),
            )
        ),
        "",
        f"{startup['before']['seconds'] / startup['after']['seconds']:.2f} times faster in wall time, "
        f"{startup['before']['cpu_seconds'] / startup['after']['cpu_seconds']:.2f} times in CPU time. Of what remains, "
        f"{startup['torch']['cpu_seconds'] / startup['after']['cpu_seconds']:.0%} is torch.",
    ]
    return "\n".join(lines)


def _engine(search: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in search["engines"] if row["name"] == name)


def _row(row: dict[str, Any]) -> str:
    values = (row["p50_ms"], row["p99_ms"], row["bound_ms"])
    rates = (row["queries_per_second"], row["bound_queries_per_second"])
    return " | ".join(
        [
            row["name"],
            f"{row['recall']:.3f}",
            *(f"{value:.1f}" for value in values),
            *(f"{rate:,.0f}" for rate in rates),
            f"{row['build_minutes']:.1f}",
            f"{row['bytes_per_row']:,.0f}",
        ]
    )


def _read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return values


if __name__ == "__main__":
    main()
