"""The section "Search" of docs/scale.md, made from the stored figures of `cmmixer bench search` and `benchmarks.search_startup`.

cmmixer bench search --rows 1000000 --dim 256 --out benchmarks/results/search.json
python -m benchmarks.search_scale
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results", ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- figures: search -->", "<!-- end of search -->"
START = """# Scale

What was measured on one machine, each figure beside its floor. Parts between markers are written by scripts; do not edit them.

"""


def main() -> None:
    """Writes the section; the rest of the document stays as it is."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else f"{START}{BEGIN}\n{END}\n"
    DOCUMENT.write_text(with_section(text, section(_read("search.json"), _read("search-startup.json"))))


def with_section(text: str, figures: str) -> str:
    """The document with the section between its markers; at its end if it has none yet."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def _beside(search: dict[str, Any]) -> str:
    """Whether other work took the cores meanwhile: the load average counts what was measured, too."""
    load = search["load_average"]
    if load <= search["machine"]["cores"]:
        return f"the machine otherwise idle (load average {load:.1f})"
    return f"with other work on the machine (load average {load:.1f}), so that times are high for all"


def section(search: dict[str, Any], startup: dict[str, Any]) -> str:
    """The section, in Markdown."""
    plan, floors, vectors, machine = search["plan"], search["floors"], search["vectors"], search["machine"]
    ours, flat = _engine(search, f"cmmixer, {plan['kind']}"), _engine(search, "faiss flat, 1 thread")
    graph = search["engines"][-1]
    lines = [
        "## Search",
        "",
        "Written by `python -m benchmarks.search_scale`. Measured with",
        "",
        f"    {search['command']}",
        "",
        f"on {machine['cores']} cores (GPU: {machine['cuda']}), {search['date']}, {_beside(search)}; they took turns, {search['queries']} queries in ten rounds.",
        "",
        f"A library of {search['rows']:,} sounds with vectors of {search['dim']} values, searched through `MomentIndex.nearest`. The index was built by what "
        f"`cmmixer index --optimize` does: {plan['kind']}, {plan['partitions']} cells, of which {plan['probes']} are read, {plan['candidates']} candidates "
        f"scored anew with their full vectors. It was tuned to a recall of {plan['target']:g} with {plan['why']}, drawn from the library and not from the "
        f"queries below, and measured {plan['recall']:.3f} with them. Building took {plan['build_seconds'] / 60:.1f} minutes, with tuning "
        f"{search['optimised_seconds'] / 60:.1f}.",
        "",
        "| | recall@10 | p50 ms | p99 ms | floor ms | queries/s in batches of 100 | floor allows | build min | bytes a row |",
        "|---|---|---|---|---|---|---|---|---|",
        *(f"| {_row(row)} |" for row in search["engines"]),
        "",
        f"The floor of a single query is the bytes it must read over the rate at which this machine reads memory ({floors['bytes_per_second'] / 1e9:.1f} GB/s, both "
        f"cores, measured in the same run). For batches it is the same where every query reads its own cells; where a batch shares one reading of all rows it is "
        f"the multiplications over the rate of a large matrix product ({floors['flops'] / 1e9:.0f} GFLOP/s). "
        f"A row's own vector takes {4 * search['dim']} bytes, and every engine keeps it. faiss's graph was tuned with a fifth of the queries it is then asked, "
        "the index here with none of them. Looking at all, LanceDB answers a query at a time, so its batch is one query.",
        "",
        f"Against the targets: recall@10 {ours['recall']:.3f} (0.98 wanted); p50 {ours['p50_ms']:.1f} ms (10 ms wanted"
        f"{': missed in this run' if ours['p50_ms'] > 10 else ''}; minutes earlier, while it was tuned, {plan['p50_ms']:.1f} ms), {ours['p50_ms'] / ours['floor_ms']:.1f} times its floor and "
        f"{flat['p50_ms'] / ours['p50_ms']:.1f} times faster than faiss-flat on one thread; in batches {ours['queries_per_second'] / flat['queries_per_second']:.1f} times "
        f"the queries of faiss-flat on one thread (1 wanted). {graph['name']} found {graph['recall']:.3f}.",
        "",
        "**The vectors** are made (`benchmarks.speed.search_engines`): kinds of content with log-normal weights, films of 20 moments around a kind, moments around their "
        "film, queries around a moment; all noise has a variance that falls as 1/i over the directions. They fill "
        f"{vectors['directions']:.0f} directions (participation ratio), their intrinsic dimension is {vectors['intrinsic']:.0f} (two nearest neighbours), and a query's cosine "
        f"to its own moment is {vectors['query_to_its_row']:.2f} (median). In the quickstart's index of 200 real embeddings (128 values) a picture's cosine to its own sound is "
        "0.69, they fill 12 directions and their dimension is 7 to 11: the made ones are harder to tell apart. Queries as far from the rows as these are what makes an "
        "index read so many of its cells (docs/lab-notebook.md, 2026-11-25).",
        "",
        "**Freshness and truth.** Moments added after `--optimize` are all looked at beside the index until the next one; removed ones are passed over. Scores are cosines of "
        "the full vectors, whatever the index stores. A library of fewer than 100,000 moments is searched exactly, as is any with `search --exact`.",
        "",
        "### Start-up of a search",
        "",
        f"`cmmixer search` on a warm index of 200 moments, median of {startup['rounds']} runs in turns, same machine (load average {startup['load_average']:.1f}), {startup['date']}:",
        "",
        "| | seconds | processor seconds |",
        "|---|---|---|",
        *(
            f"| {told} | {startup[name]['seconds']:.1f} | {startup[name]['processor_seconds']:.2f} |"
            for name, told in (
                ("before", f"revision {startup['revision']}, LanceDB imported"),
                ("after", "now, Lance read directly"),
                ("torch", "floor: `import torch` alone"),
            )
        ),
        "",
        f"{startup['before']['seconds'] / startup['after']['seconds']:.2f} times faster by the clock, "
        f"{startup['before']['processor_seconds'] / startup['after']['processor_seconds']:.2f} times by processor time. What is left is "
        f"{startup['torch']['processor_seconds'] / startup['after']['processor_seconds']:.0%} torch.",
    ]
    return "\n".join(lines)


def _engine(search: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in search["engines"] if row["name"] == name)


def _row(row: dict[str, Any]) -> str:
    values = (row["p50_ms"], row["p99_ms"], row["floor_ms"])
    rates = (row["queries_per_second"], row["floor_queries_per_second"])
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
