"""Runs the quickstart with several seeds, each with its own videos and weights, and writes the table in docs/quickstart.md.

    python -m benchmarks.quickstart_seeds --seeds 0 1 2
    python -m benchmarks.quickstart_seeds --table     # writes the table from the stored results, runs nothing

Each finished seed is stored in `benchmarks/results/quickstart-seed-N.json` and not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "quickstart.md"
BEGIN, END = "<!-- figures: quickstart -->", "<!-- end of figures -->"
DIRECTIONS = {"video_to_audio": "silent video → its sound", "audio_to_video": "sound → its video"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the seeds that are missing, then writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="write the table from the stored results, run nothing")
    options = parser.parse_args(arguments)
    if not options.table:
        for seed in options.seeds:
            run(seed, options.runs / f"quickstart-seed-{seed}")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), table(load_results())))


def run(seed: int, out: Path) -> None:
    """Runs a quickstart, unless its result is stored."""
    result = RESULTS / f"quickstart-seed-{seed}.json"
    if result.exists():
        return
    command = [sys.executable, "-m", "cmmixer", "quickstart", "--seed", str(seed), "--out", str(out)]
    subprocess.run(command, check=True)
    metrics = json.loads((out / "metrics.json").read_text())
    metrics["command"] = f"cmmixer quickstart --seed {seed}"
    result.write_text(json.dumps(metrics, indent=1) + "\n")


def load_results() -> list[dict[str, Any]]:
    """Loads the stored results, by seed."""
    files = sorted(RESULTS.glob("quickstart-seed-*.json"))
    return sorted((json.loads(file.read_text()) for file in files), key=lambda result: int(result["seed"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table of R@1 with and without pre-training, with shuffled pairs, and at chance: of one run, or the mean over seeds."""
    first = rows[0]
    statistic = (
        "one run [95 % interval over the queries]; other seeds have other videos and other figures"
        if len(rows) == 1
        else f"mean over {len(rows)} seeds [lowest, highest]; each seed has its own videos"
    )
    lines = [
        f"R@1 on {first['candidates']} unseen videos, {statistic}:",
        "",
        "| direction | with pre-training | no pre-training (baseline) | shuffled pairs | chance |",
        "|---|---|---|---|---|",
    ]
    for way, direction in DIRECTIONS.items():
        baseline = [row["baseline"] for row in rows]
        shuffled = sum(row["shuffled_pairs"][way]["R@1"] for row in rows) / len(rows)
        figures = (
            mean_and_range(rows, way),
            mean_and_range(baseline, way),
            f"{shuffled:.3f}",
            f"{first['chance']['R@1']:.3f}",
        )
        lines.append(f"| {direction} | {' | '.join(figures)} |")
    others = ", ".join(str(row["seed"]) for row in rows[1:])
    and_others = f", and the same with {others}" if others else ""
    minutes = ", ".join(f"{row['minutes']['total']:.1f}" for row in rows)
    lines += [
        "",
        f"`cmmixer quickstart --seed {first['seed']}`{and_others}: {first['train_clips']} training clips, {minutes} minutes on {first['machine']['cores']} cores "
        f"(x86-64 with AVX2, no GPU), torch {first['machine']['torch']}, {first['date']}. Stored in `benchmarks/results/` and written by "
        "`python -m benchmarks.quickstart_seeds`.",
    ]
    return "\n".join(lines)


def mean_and_range(rows: Sequence[Mapping[str, Any]], way: str) -> str:
    """Formats the mean R@1 with the lowest and highest seed, or with the 95 % interval of a single run."""
    values = [row[way]["R@1"] for row in rows]
    low, high = rows[0]["intervals"][way]["R@1"] if len(rows) == 1 else (min(values), max(values))
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"


def with_table(text: str, lines: str) -> str:
    """Returns the document with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


if __name__ == "__main__":
    main()
