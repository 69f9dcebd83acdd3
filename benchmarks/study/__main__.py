"""Does mixing help? Trains and evaluates every cell of the study at the same budget.

    python -m benchmarks.study --budget smoke                     # smoke test, minutes on two cores
    python -m benchmarks.study --budget cpu                       # a night on two cores; can be stopped at any time
    python -m benchmarks.study --budget cpu --cells baseline swap --seeds 3 4 --regimes pairs
    python -m benchmarks.study --budget cpu --table               # writes docs/study.md from the stored rows, trains nothing

Each finished cell is stored in `benchmarks/results/study/` at once, and the next call skips it. So a study can be spread over
days and machines. Imports torch and numpy only (matplotlib for the table), so it runs where no codecs can be installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.study.budgets import BUDGETS, REGIMES, Budget, check_memory
from benchmarks.study.cells import CELLS, Cell, select_cells
from benchmarks.study.results import RESULTS, STUDY_VERSION, check_versions, load_rows, row_path
from benchmarks.study.training import StudyData, run_cell
from benchmarks.study.videos import Videos, load_videos
from cmmixer.errors import CMMixerError, InputError
from cmmixer.runtime import describe_machine

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing, then writes the document."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except CMMixerError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _run(options: argparse.Namespace) -> int:
    cells, budget = select_cells(options.cells), BUDGETS[options.budget]
    seeds = options.seeds if options.seeds else list(budget.seeds)
    check_versions(options.results)
    if not options.table:
        check_memory(budget)
        missing = [
            (regime, name, seed)
            for seed in seeds
            for regime in options.regimes
            for name in cells
            if not row_path(options.results, options.budget, regime, name, seed).exists()
        ]
        _run_missing(missing, options, budget)
    if load_rows(options.results, options.budget):
        from benchmarks.study.table import write_document

        print(f"wrote {write_document(options.results, options.budget, options.document)}")
    return 0


def _run_missing(missing: Sequence[tuple[str, str, int]], options: argparse.Namespace, budget: Budget) -> None:
    if not missing:
        return
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def rendered(count: int, seed: int) -> Videos:
        return load_videos(
            count, budget.clip, seed=seed, difficulty=budget.difficulty, cache=options.cache, workers=options.workers, report=_say
        ).to(device)  # fmt: skip

    regimes = sorted({regime for regime, _, _ in missing})
    data = {regime: StudyData.of(regime, budget, rendered) for regime in regimes}
    started = time.monotonic()
    for number, (regime, name, seed) in enumerate(missing):
        spent = time.monotonic() - started
        left = f", about {spent / number * (len(missing) - number) / 60:.0f} minutes to go" if number else ""
        _say(f"[{number + 1} of {len(missing)}{left}] {regime}: {name}, seed {seed}")
        _run_and_store(name, CELLS[name], data[regime], regime, seed, options, budget)


def _run_and_store(
    name: str, cell: Cell, data: StudyData, regime: str, seed: int, options: argparse.Namespace, budget: Budget
) -> None:
    started = time.monotonic()
    metrics = run_cell(cell, data, budget, seed, lambda line: _say(f"    {line}"))
    row = {
        "study_version": STUDY_VERSION,
        "budget": options.budget,
        "regime": regime,
        "cell": name,
        "seed": seed,
        **metrics,
        "minutes": round((time.monotonic() - started) / 60, 3),
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
    }
    path = row_path(options.results, options.budget, regime, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(row, indent=1) + "\n")
    draft.replace(path)
    r1 = " / ".join(f"{metrics[way]['R@1']:.3f}" for way in ("video_to_audio", "audio_to_video"))
    _say(f"    R@1 {r1} of {metrics['candidates']} (video to audio / audio to video)")


def _commit() -> str:
    """Returns the current commit, with `+` appended if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    return completed.stdout.strip() or "unknown"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", choices=sorted(BUDGETS), default="smoke")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    parser.add_argument("--cells", nargs="+", default=[], help="cells to run; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="seeds to run; default: those of the budget")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--document", type=Path, default=None, help="document to write; default: docs/study.md, for smoke in the cache"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "study", help="folder of the rendered videos")
    parser.add_argument("--workers", type=int, default=describe_machine()["cores"], help="rendering processes")
    parser.add_argument("--device", default=None, help="default: cuda if available, otherwise cpu")
    parser.add_argument("--table", action="store_true", help="train nothing, write the document from the stored rows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
