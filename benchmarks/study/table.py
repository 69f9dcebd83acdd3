"""The study's document: one table and one plot for each regime, made from the stored rows and from nothing else."""

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
from benchmarks.study.results import stored

ROOT = Path(__file__).resolve().parents[2]
REAL_FILMS = ROOT / "benchmarks" / "results" / "real-films.json"
WAYS = ("video_to_audio", "audio_to_video")
FIGURES = ("R@1", "R@5", "R@10", "MedR")
CONTROL_COLOUR, OTHER_COLOUR = "#d55e00", "#0072b2"
REGIME_WORDS = {
    "pairs": "every film's picture and sound belong together, in pre-training too",
    "pools": "pre-training sees footage and sounds that do not belong together; true pairs come with the fine-tuning only",
}

Rows = Mapping[str, Sequence[dict[str, Any]]]


def write_document(results: Path, budget: str, document: Path | None = None) -> Path:
    """Writes the document and its plot beside it, and says where.

    A smoke run's goes to the cache, since its figures mean nothing; the others share `docs/study.md`.
    """
    if document is None:
        document = ROOT / (".cache/study/smoke.md" if budget == "smoke" else "docs/study.md")
    shown = ["smoke"] if budget == "smoke" else [name for name in BUDGETS if name != "smoke" and stored(results, name)]
    document.parent.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    for name in shown:
        picture = document.parent / "images" / f"study-{name}.png"
        picture.parent.mkdir(exist_ok=True)
        rows = stored(results, name)
        by_regime = {
            regime: _by_cell(rows, regime) for regime in REGIMES if any(row["regime"] == regime for row in rows)
        }
        _plot(by_regime, picture)
        parts.append(_section(name, BUDGETS[name], rows, by_regime, f"images/{picture.name}"))
    if budget != "smoke" and REAL_FILMS.exists():
        parts.append(_real_films(json.loads(REAL_FILMS.read_text())))
    document.write_text("\n".join(parts))
    return document


# Rows that the README shows.
IN_README = (
    "scratch", "plain", "cavmae", "image", "frames-canonical", "contrast-equal", "frames-half", "contrast", "contrast-canonical",
    "apart", "apart-plain", "apart-image", "apart-frames", "apart-plain-half", "apart-image-half", "apart-half", "apart-contrast",
    "scratch-pair-mix", "frames-pair-mix", "contrast-pair-mix", "apart-pair-mix", "apart-half-pair-mix", "apart-contrast-pair-mix",
)  # fmt: skip
BEGIN, END = "<!-- figures: study -->", "<!-- end of study -->"


def with_readme_table(text: str, results: Path, budget: str = "cpu") -> str:
    """The README with the study's short table between its markers."""
    rows = stored(results, budget)
    regimes = {regime: _by_cell(rows, regime) for regime in REGIMES}
    lines = [
        BEGIN,
        f"| R@1 of {BUDGETS[budget].gallery:,}, mean [lowest, highest] of the seeds | every pair known | {BUDGETS[budget].pairs} pairs known | TFLOP |",
        "|---|---|---|---|",
    ]
    for name in IN_README:
        found = {regime: cells[name] for regime, cells in regimes.items() if name in cells}
        told = [
            f"{_spread([both_ways(row) for row in found[regime]], 3)}, {len(found[regime])}"
            if regime in found
            else "not run"
            for regime in REGIMES
        ]
        if found:
            cost = _mean([row["teraflop"] for row in next(iter(found.values()))], 1)
            lines.append(f"| {CELLS[name].words} | {' | '.join(told)} | {cost} |")
    head, _, rest = text.partition(BEGIN)
    return head + "\n".join([*lines, END]) + rest.partition(END)[2]


def _real_films(result: dict[str, Any]) -> str:
    """What `benchmarks.quickstart_real_videos` found: the model as it came and fine-tuned, with bootstrap intervals."""
    before = result["before"]
    lines = [
        "## Real films: a look, not a benchmark",
        "",
        f"`{result['command']}`: a retriever trained on synthetic films, before and after fine-tuning on {result['train']['clips']} clips of "
        f"{result['train']['sources']} real source films; gallery of {before['candidates']} clips of other films ({result['gallery_films'] - before['candidates']} more are shorter than a "
        f"clip). In brackets 95 % bootstrap intervals over the queries. {result['date']}, {result['machine']['cores']} cores, GPU: {result['machine']['cuda']}.",
        "",
        "| | R@1 p→s | R@1 s→p | R@5 p→s | R@5 s→p | R@10 p→s | R@10 s→p |",
        "|---|---|---|---|---|---|---|",
    ]
    named = [("before", before), *((f"after, seed {after['seed']}", after) for after in result["after"])]
    for name, metrics in named:
        cells = []
        for figure in ("R@1", "R@5", "R@10"):
            for way in WAYS:
                low, high = metrics["intervals"][way][figure]
                cells.append(f"{metrics[way][figure]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    guess = [f"{before['chance'][figure]:.3f}" for figure in ("R@1", "R@5", "R@10") for _ in WAYS]
    return "\n".join([*lines, f"| guessing | {' | '.join(guess)} |", ""])


_HEAD = """# Study: does mixing help, and what makes retrieval best?

Written by `python -m benchmarks.study`; do not edit. Rows differ in how the towers start, and in what of the fine-tuning they name; all else
is alike. Films are the project's synthetic ones, gallery and training films of different seeds. Figures are means over seeds, with the lowest and highest seed in
brackets; R@1 (mean) is the mean of both directions. TFLOP: 10^12 floating-point operations of all matrix products of a row's training, counted; minutes are those of
noisy machines, mostly of one thread beside another row's.
"""


def _by_cell(rows: Sequence[dict[str, Any]], regime: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of a regime by cell, in the order of `CELLS`."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["regime"] == regime:
            found[row["cell"]].append(row)
    return {name: found[name] for name in CELLS if name in found}


def both_ways(row: dict[str, Any]) -> float:
    """R@1, the mean of both directions."""
    return sum(row[way]["R@1"] for way in WAYS) / len(WAYS)


def _section(
    name: str, budget: Budget, rows: Sequence[dict[str, Any]], by_regime: Mapping[str, Rows], picture: str
) -> str:
    lines = [f"## Budget `{name}`: {budget.words}", ""]
    lines += [
        f"Preset {budget.preset}, {budget.difficulty} films, {budget.films:,} of them to train on, gallery of {budget.gallery:,}. Pre-training sees "
        f"{budget.pretrain_views:,} clips in batches of {budget.pretrain_batch} (step size {budget.pretrain_lr:g}), fine-tuning {budget.finetune_views:,} in "
        f"batches of {budget.finetune_batch} ({budget.finetune_lr:g}); `contrast` gets all of these for its contrast. {_made_on(rows)}",
        "",
        f"![R@1 of every row]({picture})",
        "",
    ]
    for regime, cells in by_regime.items():
        lines += [f"### `{regime}`: {REGIME_WORDS[regime]}", ""]
        if regime == "pools":
            lines += [
                f"Pre-training has {budget.pool:,} silent films and {budget.pool:,} sounds of other films, fine-tuning {budget.pairs:,} true pairs, again of "
                "other films. `cavmae` contrasts what does not belong together, as it would there.",
                "",
            ]
        lines += [*_table(cells), "", *_findings(cells), ""]
        missing = [cell for cell in CELLS if cell not in cells]
        if missing:
            lines += [f"Not run: {', '.join(f'`{cell}`' for cell in missing)}.", ""]
    return "\n".join(lines)


def _made_on(rows: Sequence[dict[str, Any]]) -> str:
    machines = sorted(
        {
            f"{row['machine']['cores']} cores, GPU: {row['machine']['cuda']}, torch {row['machine']['torch']}"
            for row in rows
        }
    )
    dates, commits = sorted({row["date"] for row in rows}), sorted({row["commit"] for row in rows})
    return f"Machine: {'; '.join(machines)}. Date: {', '.join(dates)}. Commit: {', '.join(commits)} (`+`: with changes not yet committed)."


def _table(cells: Rows) -> list[str]:
    head = ["row", "what", "seeds", "R@1 (mean)"]
    head += [f"{figure} {arrow}" for figure in FIGURES for arrow in ("p→s", "s→p")] + ["TFLOP", "minutes"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, rows in cells.items():
        values = [_spread([both_ways(row) for row in rows], 3)]
        values += [
            _mean([row[way][figure] for row in rows], 0 if figure == "MedR" else 3)
            for figure in FIGURES
            for way in WAYS
        ]
        teraflop = _mean([row["teraflop"] for row in rows], 1)
        minutes = _mean([row["minutes"] for row in rows], 1)
        lines.append(
            f"| `{name}` | {CELLS[name].words} | {len(rows)} | {' | '.join(values)} | {teraflop} | {minutes} |"
        )
    return lines


def _findings(cells: Rows) -> list[str]:
    """What the figures say, in sentences whose numbers are computed."""
    shuffled = [row["shuffled_pairs"][way]["R@1"] for rows in cells.values() for row in rows for way in WAYS]
    first = next(iter(cells.values()))[0]
    lines = [
        f"With the pairs shuffled, R@1 lies between {min(shuffled):.4f} and {max(shuffled):.4f} over all rows; chance is {first['chance']['R@1']:.4f}."
    ]
    groups: dict[str, list[str]] = {
        "row that mixes pictures with sounds": [name for name in cells if CELLS[name].pretrain == "mixed"],
        "row that does not": [name for name in cells if CELLS[name].pretrain != "mixed"],
        "row with pair mixing": [name for name in cells if CELLS[name].pair_mix],
        "row without it": [name for name in cells if not CELLS[name].pair_mix],
        "row of ours": [name for name in cells if name not in CONTROLS],
        "control": [name for name in cells if name in CONTROLS],
        "CAV-MAE-style row": [name for name in cells if name == "cavmae"],
    }
    for words, others in (
        ("row of ours", "control"),
        ("row that mixes pictures with sounds", "row that does not"),
        ("row that mixes pictures with sounds", "CAV-MAE-style row"),
        ("row with pair mixing", "row without it"),
    ):
        if groups[words] and groups[others]:
            lines += ["", _compared(words, groups[words], others, groups[others], cells)]
    return lines


def _compared(words: str, names: Sequence[str], other_words: str, others: Sequence[str], cells: Rows) -> str:
    """The best of one group beside the best of another."""
    means = {name: sum(map(both_ways, rows)) / len(rows) for name, rows in cells.items()}
    best, other = max(names, key=means.__getitem__), max(others, key=means.__getitem__)
    relation = _relation(list(map(both_ways, cells[best])), list(map(both_ways, cells[other])))
    return (
        f"Best {words}: `{best}`, {means[best]:.3f}. Best {other_words}: `{other}`, {means[other]:.3f}. Ratio {means[best] / means[other]:.2f}; "
        f"{relation}."
    )


def _relation(row: Sequence[float], other: Sequence[float]) -> str:
    """How the seeds of one row stand to those of another."""
    seeds = f"{len(row)} and {len(other)} seeds"
    if len(row) == len(other) == 1:
        return f"too few to say more ({seeds})"
    if min(row) > max(other):
        return f"every seed of the first is above every seed of the second ({seeds})"
    if max(row) < min(other):
        return f"every seed of the first is below every seed of the second ({seeds})"
    return f"their seeds overlap ({seeds})"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{_mean(values, digits)} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{sum(values) / len(values):.{digits}f}"


def _plot(by_regime: Mapping[str, Rows], path: Path) -> None:
    """A dot for every row's mean, a tick for every seed; one panel a regime."""
    longest = max(len(cells) for cells in by_regime.values())
    figure = Figure(figsize=(5.2 * len(by_regime), 1.2 + 0.27 * longest), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for position, (regime, cells) in enumerate(by_regime.items(), start=1):
        axes = figure.add_subplot(1, len(by_regime), position)
        for place, (name, rows) in enumerate(reversed(list(cells.items()))):
            values = [both_ways(row) for row in rows]
            colour = CONTROL_COLOUR if name in CONTROLS else OTHER_COLOUR
            axes.plot(values, [place] * len(values), "|", color=colour, markersize=9)
            axes.plot([sum(values) / len(values)], [place], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(cells)), list(reversed(list(cells))), fontsize=8)
        axes.set_title(f"{regime}: R@1, mean of both directions", fontsize=9, loc="left")
        axes.margins(x=0.06)
        axes.set_xlim(left=0.0)
        axes.grid(axis="x", color="#d9dee4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
