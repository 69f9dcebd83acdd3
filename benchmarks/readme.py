"""Writes the table of results in README.md from the stored results.

python -m benchmarks.readme
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import quickstart_seeds
from benchmarks.quickstart_seeds import mean_and_range
from benchmarks.study.budgets import BUDGETS
from benchmarks.study.cells import CELLS
from benchmarks.study.results import RESULTS, load_rows

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
# The best cell of the study, then its closest relative without mixing, and contrastive training alone with the same towers.
STUDY_BUDGET, STUDY_CELLS = "cpu", ("frame-level-swap-half", "frame-level-plain-half", "frame-level-contrastive")
DIRECTIONS = ("video_to_audio", "audio_to_video")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table; the rest of README.md stays as it is."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    README.write_text(with_table(README.read_text(), table()))


def table() -> str:
    """Returns the table, in Markdown: means over seeds, with the lowest and the highest seed in brackets."""
    quickstarts, study = quickstart_seeds.load_results(), load_rows(RESULTS, STUDY_BUDGET)
    budget = BUDGETS[STUDY_BUDGET]
    clips = f"{quickstarts[0]['train_clips']:,} synthetic clips"
    lines = [
        "| what was trained | training data | R@1 video → audio | R@1 audio → video | gallery |",
        "|---|---|---|---|---|",
        _line("quickstart, with pre-training", clips, quickstarts),
        _line("quickstart, no pre-training (baseline)", clips, [row["baseline"] for row in quickstarts]),
    ]
    for name in STUDY_CELLS:
        rows = [row for row in study if (row["regime"], row["cell"]) == ("pairs", name)]
        lines.append(
            _line(f"study: {CELLS[name].title}", f"{budget.videos:,} synthetic clips, {_views(name):,} views", rows)
        )
    lines.append(_chance_line([quickstarts[0], next(row for row in study if row["regime"] == "pairs")]))
    lines += [
        "",
        f"R@1: the right one is ranked first. Means over {len(quickstarts)} seeds [lowest, highest]; views: clips seen in training.",
    ]
    return "\n".join(lines)


def _views(name: str) -> int:
    cell, budget = CELLS[name], BUDGETS[STUDY_BUDGET]
    pretrained = 0 if cell.pretrain == "none" else round((1.0 - cell.contrastive_share) * budget.pretrain_views)
    return pretrained + budget.finetune_views + round(cell.contrastive_share * budget.pretrain_views)


def _line(title: str, data: str, rows: Sequence[Mapping[str, Any]]) -> str:
    values = [mean_and_range(rows, direction) for direction in DIRECTIONS]
    return f"| {title} | {data} | {' | '.join(values)} | {rows[0]['candidates']:,} |"


def _chance_line(results: Sequence[Mapping[str, Any]]) -> str:
    values = " / ".join(f"{result['chance']['R@1']:.3f}" for result in results)
    sizes = " / ".join(f"{result['candidates']:,}" for result in results)
    return f"| chance | | {values} | {values} | {sizes} |"


def with_table(text: str, lines: str) -> str:
    """Returns the text with the table between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md: expected the markers {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    main()
