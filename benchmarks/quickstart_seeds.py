"""The quickstart under several seeds: other films, other weights, other draws each time.

    python -m benchmarks.quickstart_seeds --seeds 0 1 2

Each finished seed is kept in `benchmarks/results/quickstart-seed-N.json` and not run again. The table between the README's
markers is written from these files, by this script or by `--table` alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: quickstart -->", "<!-- end of figures -->"
WAYS = {"video_to_audio": "silent film → its sound", "audio_to_video": "sound → its film"}


def main() -> None:
    """Runs the seeds that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs are kept")
    parser.add_argument(
        "--table", action="store_true", help="write the table from the results that are there, run nothing"
    )
    options = parser.parse_args()
    if not options.table:
        for seed in options.seeds:
            run(seed, options.runs / f"quickstart-seed-{seed}")
    text = README.read_text()
    README.write_text(with_table(text, table(results())))


def run(seed: int, out: Path) -> None:
    """One quickstart, unless its result is there."""
    result = RESULTS / f"quickstart-seed-{seed}.json"
    if result.exists():
        return
    command = [sys.executable, "-m", "cmmixer", "quickstart", "--seed", str(seed), "--out", str(out)]
    subprocess.run(command, check=True)
    metrics = json.loads((out / "metrics.json").read_text())
    metrics["command"] = f"cmmixer quickstart --seed {seed}"
    result.write_text(json.dumps(metrics, indent=1) + "\n")


def results() -> list[dict[str, Any]]:
    """The stored results, by seed."""
    files = sorted(RESULTS.glob("quickstart-seed-*.json"))
    return sorted((json.loads(file.read_text()) for file in files), key=lambda result: int(result["seed"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """R@1 with pre-training, from scratch, shuffled and guessing: of one run, or the mean over several seeds."""
    first = rows[0]
    told = (
        "one run [95 % interval over the queries]; other seeds give other films and other figures"
        if len(rows) == 1
        else f"mean over {len(rows)} seeds [lowest, highest]; every seed has its own films"
    )
    lines = [
        f"R@1 on {first['candidates']} unseen films, {told}:",
        "",
        "| | with pre-training | from scratch | pairs shuffled | guessing |",
        "|---|---|---|---|---|",
    ]
    for way, words in WAYS.items():
        scratch = [row["from_scratch"] for row in rows]
        shuffled = sum(row["shuffled_pairs"][way]["R@1"] for row in rows) / len(rows)
        figures = (
            _first_places(rows, way),
            _first_places(scratch, way),
            f"{shuffled:.3f}",
            f"{first['chance']['R@1']:.3f}",
        )
        lines.append(f"| {words} | {' | '.join(figures)} |")
    others = ", ".join(str(row["seed"]) for row in rows[1:])
    and_others = f" and the same with {others}" if others else ""
    minutes = ", ".join(f"{row['minutes']['total']:.1f}" for row in rows)
    lines += [
        "",
        f"`cmmixer quickstart --seed {first['seed']}`{and_others}: {first['train_clips']} training clips, {minutes} minutes on {first['machine']['cores']} cores "
        f"(x86-64 with AVX2, no GPU), torch {first['machine']['torch']}, {first['date']}. Stored in `benchmarks/results/`, made by "
        "`python -m benchmarks.quickstart_seeds`.",
    ]
    return "\n".join(lines)


def _first_places(rows: Sequence[dict[str, Any]], way: str) -> str:
    values = [row[way]["R@1"] for row in rows]
    low, high = rows[0]["intervals"][way]["R@1"] if len(rows) == 1 else (min(values), max(values))
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"


def with_table(text: str, figures: str) -> str:
    """The README's text with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


if __name__ == "__main__":
    main()
