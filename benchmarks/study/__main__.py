"""Does mixing help? Every way of starting the towers, at the same budget.

    python -m benchmarks.study --budget smoke                     # does everything run? minutes on two cores
    python -m benchmarks.study --budget cpu                       # a night on two cores; may be stopped at any time
    python -m benchmarks.study --budget cpu --cells scratch frames --seeds 3 4 --regimes pairs
    python -m benchmarks.study --budget cpu --table               # docs/study.md from what is there, nothing is run

Each finished cell writes its row to `benchmarks/results/study/` at once, and the next run leaves it out; so a study may be
spread over days and machines. Imports torch and numpy only (matplotlib for the table), so it runs where no codec can be
installed.
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
from benchmarks.study.cells import CELLS, Cell, chosen
from benchmarks.study.results import RESULTS, STUDY_VERSION, check_versions, path_of, stored
from benchmarks.study.training import Material, run_cell
from benchmarks.study.videos import Films, films
from cmmixer.errors import CMMixerError, InputError
from cmmixer.runtime import machine

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing, then writes the table."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except CMMixerError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _run(options: argparse.Namespace) -> int:
    cells, budget = chosen(options.cells), BUDGETS[options.budget]
    seeds = options.seeds if options.seeds else list(budget.seeds)
    check_versions(options.results)
    if not options.table:
        check_memory(budget)
        missing = [
            (regime, name, seed)
            for seed in seeds
            for regime in options.regimes
            for name in cells
            if not path_of(options.results, options.budget, regime, name, seed).exists()
        ]
        _study(missing, options, budget)
    if stored(options.results, options.budget):
        from benchmarks.study.table import with_readme_table, write_document

        print(f"wrote {write_document(options.results, options.budget, options.document)}")
        if options.budget == "cpu" and options.document is None:
            readme = ROOT / "README.md"
            readme.write_text(with_readme_table(readme.read_text(), options.results))
    return 0


def _study(missing: Sequence[tuple[str, str, int]], options: argparse.Namespace, budget: Budget) -> None:
    if not missing:
        return
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def rendered(count: int, seed: int) -> Films:
        return films(
            count, budget.clip, seed=seed, difficulty=budget.difficulty, cache=options.cache, workers=options.workers, told=_say
        ).to(device)  # fmt: skip

    regimes = sorted({regime for regime, _, _ in missing})
    materials = {regime: Material.of(regime, budget, rendered) for regime in regimes}
    begun = time.monotonic()
    for number, (regime, name, seed) in enumerate(missing):
        spent = time.monotonic() - begun
        left = f", about {spent / number * (len(missing) - number) / 60:.0f} minutes to go" if number else ""
        _say(f"[{number + 1} of {len(missing)}{left}] {regime}: {name}, seed {seed}")
        _cell(name, CELLS[name], materials[regime], regime, seed, options, budget)


def _cell(
    name: str, cell: Cell, material: Material, regime: str, seed: int, options: argparse.Namespace, budget: Budget
) -> None:
    begun = time.monotonic()
    metrics = run_cell(cell, material, budget, seed, lambda words: _say(f"    {words}"))
    row = {
        "study_version": STUDY_VERSION,
        "budget": options.budget,
        "regime": regime,
        "cell": name,
        "seed": seed,
        **metrics,
        "minutes": round((time.monotonic() - begun) / 60, 3),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
    }
    path = path_of(options.results, options.budget, regime, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row, indent=1) + "\n")
    part.replace(path)
    told = " / ".join(f"{metrics[way]['R@1']:.3f}" for way in ("video_to_audio", "audio_to_video"))
    _say(f"    R@1 {told} of {metrics['candidates']} (picture to sound / sound to picture)")


def _commit() -> str:
    """The commit the figures belong to, `+` behind it where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", choices=sorted(BUDGETS), default="smoke")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    parser.add_argument("--cells", nargs="+", default=[], help="rows to run; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: the budget's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=None, help="default: docs/study.md, or for smoke in the cache")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "study", help="keeps the rendered films")
    parser.add_argument("--workers", type=int, default=machine()["cores"], help="processes that render")
    parser.add_argument("--device", default=None, help="default: a GPU where one is")
    parser.add_argument("--table", action="store_true", help="run nothing, write the document")
    return parser


if __name__ == "__main__":
    sys.exit(main())
