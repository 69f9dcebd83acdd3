"""Writes docs/study.md from the stored rows: a table and a plot per regime, and sentences with computed numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.study.budgets import BUDGETS, REGIMES, Budget
from benchmarks.study.cells import CELLS, CONTROLS
from benchmarks.study.results import load_rows

ROOT = Path(__file__).resolve().parents[2]
REAL_VIDEOS = ROOT / "benchmarks" / "results" / "real-videos.json"
DIRECTIONS = ("video_to_audio", "audio_to_video")
METRICS = ("R@1", "R@5", "R@10", "MedR")
CONTROL_COLOR, OTHER_COLOR = "#d55e00", "#0072b2"
REGIME_TITLES = {
    "pairs": "all training videos have their own sound, in pre-training too",
    "pools": "pre-training has silent videos and unrelated sounds; only fine-tuning has true pairs",
}

Rows = Mapping[str, Sequence[dict[str, Any]]]


def write_document(results: Path, budget: str, document: Path | None = None) -> Path:
    """Writes the document and its plots, and returns the path of the document.

    All budgets share `docs/study.md`, except `smoke`, whose figures mean nothing; its document goes to the cache.
    """
    if document is None:
        document = ROOT / (".cache/study/smoke.md" if budget == "smoke" else "docs/study.md")
    shown = (
        ["smoke"] if budget == "smoke" else [name for name in BUDGETS if name != "smoke" and load_rows(results, name)]
    )
    document.parent.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    for name in shown:
        plot = document.parent / "images" / f"study-{name}.png"
        plot.parent.mkdir(exist_ok=True)
        rows = load_rows(results, name)
        by_regime = {
            regime: _by_cell(rows, regime) for regime in REGIMES if any(row["regime"] == regime for row in rows)
        }
        _plot(by_regime, plot)
        parts.append(_section(name, BUDGETS[name], rows, by_regime, f"images/{plot.name}"))
    if budget != "smoke" and REAL_VIDEOS.exists():
        parts.append(_real_videos(json.loads(REAL_VIDEOS.read_text())))
    document.write_text("\n".join(parts))
    return document


def _real_videos(result: dict[str, Any]) -> str:
    """Section on `benchmarks.quickstart_real_videos`: before and after fine-tuning, with bootstrap intervals."""
    before = result["before"]
    lines = [
        "## Real videos: a small test, not a benchmark",
        "",
        f"`{result['command']}`: a retriever trained on synthetic videos, before and after fine-tuning on {result['train']['clips']} clips of "
        f"{result['train']['sources']} real source videos; gallery of {before['candidates']} clips of other videos ({result['gallery_videos'] - before['candidates']} more are shorter than a "
        f"clip). In brackets: 95 % bootstrap intervals over the queries. {result['date']}, {result['machine']['cores']} cores, GPU: {result['machine']['cuda']}.",
        "",
        "| | R@1 v→a | R@1 a→v | R@5 v→a | R@5 a→v | R@10 v→a | R@10 a→v |",
        "|---|---|---|---|---|---|---|",
    ]
    named = [("before", before), *((f"after, seed {after['seed']}", after) for after in result["after"])]
    for name, metrics in named:
        cells = []
        for metric in ("R@1", "R@5", "R@10"):
            for way in DIRECTIONS:
                low, high = metrics["intervals"][way][metric]
                cells.append(f"{metrics[way][metric]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    chance = [f"{before['chance'][metric]:.3f}" for metric in ("R@1", "R@5", "R@10") for _ in DIRECTIONS]
    return "\n".join([*lines, f"| chance | {' | '.join(chance)} |", ""])


_HEAD = """# Study: does mixing help, and what makes retrieval best?

Written by `python -m benchmarks.study`; do not edit. Rows differ in how the towers are initialized, and in what they say about fine-tuning;
everything else is the same. Videos are synthetic; gallery and training videos have different seeds. Figures are means over seeds, with the lowest
and the highest seed in brackets. R@1 (mean) is the mean of both directions, v→a: video to audio, a→v: audio to video. TFLOP: 10^12 floating-point
operations of all matrix products of a row's training, counted. Minutes were measured on busy machines, mostly with one thread beside another row.
"""


def _by_cell(rows: Sequence[dict[str, Any]], regime: str) -> dict[str, list[dict[str, Any]]]:
    """Groups the rows of a regime by cell, in the order of `CELLS`."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["regime"] == regime:
            found[row["cell"]].append(row)
    return {name: found[name] for name in CELLS if name in found}


def mean_r1(row: dict[str, Any]) -> float:
    """Returns R@1, the mean of both directions."""
    return sum(row[way]["R@1"] for way in DIRECTIONS) / len(DIRECTIONS)


def _section(
    name: str, budget: Budget, rows: Sequence[dict[str, Any]], by_regime: Mapping[str, Rows], plot: str
) -> str:
    lines = [f"## Budget `{name}`: {budget.description}", ""]
    lines += [
        f"Preset {budget.preset}, {budget.difficulty} videos, {budget.videos:,} training videos, gallery of {budget.gallery:,}. Pre-training sees "
        f"{budget.pretrain_views:,} clips in batches of {budget.pretrain_batch} (learning rate {budget.pretrain_lr:g}), fine-tuning {budget.finetune_views:,} in "
        f"batches of {budget.finetune_batch} ({budget.finetune_lr:g}); `contrastive` sees all of these in contrastive training. {_provenance(rows)}",
        "",
        f"![R@1 of all rows]({plot})",
        "",
    ]
    for regime, cells in by_regime.items():
        lines += [f"### `{regime}`: {REGIME_TITLES[regime]}", ""]
        if regime == "pools":
            lines += [
                f"Pre-training has {budget.pool:,} silent videos and {budget.pool:,} sounds of other videos, fine-tuning {budget.pairs:,} true pairs of yet "
                "other videos. `cavmae` contrasts the unrelated pairs, as it would in practice.",
                "",
            ]
        lines += [*_table(cells), "", *_findings(cells), ""]
        missing = [cell for cell in CELLS if cell not in cells]
        if missing:
            lines += [f"Not run: {', '.join(f'`{cell}`' for cell in missing)}.", ""]
    return "\n".join(lines)


def _provenance(rows: Sequence[dict[str, Any]]) -> str:
    machines = sorted(
        {
            f"{row['machine']['cores']} cores, GPU: {row['machine']['cuda']}, torch {row['machine']['torch']}"
            for row in rows
        }
    )
    dates, commits = sorted({row["date"] for row in rows}), sorted({row["commit"] for row in rows})
    return f"Machine: {'; '.join(machines)}. Date: {', '.join(dates)}. Commit: {', '.join(commits)} (`+`: with uncommitted changes)."


def _table(cells: Rows) -> list[str]:
    head = ["row", "training", "seeds", "R@1 (mean)"]
    head += [f"{metric} {arrow}" for metric in METRICS for arrow in ("v→a", "a→v")] + ["TFLOP", "minutes"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, rows in cells.items():
        values = [_mean_and_range([mean_r1(row) for row in rows], 3)]
        values += [
            _mean([row[way][metric] for row in rows], 0 if metric == "MedR" else 3)
            for metric in METRICS
            for way in DIRECTIONS
        ]
        teraflop = _mean([row["teraflop"] for row in rows], 1)
        minutes = _mean([row["minutes"] for row in rows], 1)
        lines.append(
            f"| `{name}` | {CELLS[name].title} | {len(rows)} | {' | '.join(values)} | {teraflop} | {minutes} |"
        )
    return lines


def _findings(cells: Rows) -> list[str]:
    """States the findings in sentences with computed numbers."""
    shuffled = [row["shuffled_pairs"][way]["R@1"] for rows in cells.values() for row in rows for way in DIRECTIONS]
    first = next(iter(cells.values()))[0]
    lines = [
        f"With shuffled pairs, R@1 is between {min(shuffled):.4f} and {max(shuffled):.4f} over all rows; chance is {first['chance']['R@1']:.4f}."
    ]
    groups: dict[str, list[str]] = {
        "row with mixing": [name for name in cells if CELLS[name].pretrain == "mixed"],
        "row without mixing": [name for name in cells if CELLS[name].pretrain != "mixed"],
        "row with cross-clip frame mixup": [name for name in cells if CELLS[name].frame_mixup],
        "row without frame mixup": [name for name in cells if not CELLS[name].frame_mixup],
        "row of ours": [name for name in cells if name not in CONTROLS],
        "control": [name for name in cells if name in CONTROLS],
        "CAV-MAE-style row": [name for name in cells if name == "cavmae"],
    }
    for group, other_group in (
        ("row of ours", "control"),
        ("row with mixing", "row without mixing"),
        ("row with mixing", "CAV-MAE-style row"),
        ("row with cross-clip frame mixup", "row without frame mixup"),
    ):
        if groups[group] and groups[other_group]:
            lines += ["", _compare(group, groups[group], other_group, groups[other_group], cells)]
    return lines


def _compare(group: str, names: Sequence[str], other_group: str, others: Sequence[str], cells: Rows) -> str:
    """Compares the best row of one group with the best of another."""
    means = {name: sum(map(mean_r1, rows)) / len(rows) for name, rows in cells.items()}
    best, other = max(names, key=means.__getitem__), max(others, key=means.__getitem__)
    relation = _relation(list(map(mean_r1, cells[best])), list(map(mean_r1, cells[other])))
    return (
        f"Best {group}: `{best}`, {means[best]:.3f}. Best {other_group}: `{other}`, {means[other]:.3f}. Ratio {means[best] / means[other]:.2f}; "
        f"{relation}."
    )


def _relation(row: Sequence[float], other: Sequence[float]) -> str:
    """Compares the seeds of two rows."""
    seeds = f"{len(row)} and {len(other)} seeds"
    if len(row) == len(other) == 1:
        return f"too few to say more ({seeds})"
    if min(row) > max(other):
        return f"every seed of the first is above every seed of the second ({seeds})"
    if max(row) < min(other):
        return f"every seed of the first is below every seed of the second ({seeds})"
    return f"their seeds overlap ({seeds})"


def _mean_and_range(values: Sequence[float], digits: int) -> str:
    return f"{_mean(values, digits)} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{sum(values) / len(values):.{digits}f}"


def _plot(by_regime: Mapping[str, Rows], path: Path) -> None:
    """Draws a dot per row for the mean and a tick per seed; one panel per regime."""
    longest = max(len(cells) for cells in by_regime.values())
    figure = Figure(figsize=(5.2 * len(by_regime), 1.2 + 0.27 * longest), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for position, (regime, cells) in enumerate(by_regime.items(), start=1):
        axes = figure.add_subplot(1, len(by_regime), position)
        for place, (name, rows) in enumerate(reversed(list(cells.items()))):
            values = [mean_r1(row) for row in rows]
            color = CONTROL_COLOR if name in CONTROLS else OTHER_COLOR
            axes.plot(values, [place] * len(values), "|", color=color, markersize=9)
            axes.plot([sum(values) / len(values)], [place], "o", color=color, markersize=5)
        axes.set_yticks(range(len(cells)), list(reversed(list(cells))), fontsize=8)
        axes.set_title(f"{regime}: R@1, mean of both directions", fontsize=9, loc="left")
        axes.margins(x=0.06)
        axes.set_xlim(left=0.0)
        axes.grid(axis="x", color="#d9dee4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
