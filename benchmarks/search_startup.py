"""How long does `cmmixer search` take on a warm index, before and after a change, next to `import torch`?

    git worktree add /tmp/before REVISION
    python -m benchmarks.search_startup --before /tmp/before/src --revision REVISION --index LIBRARY --query video.mp4

All take turns, so that other work on the machine affects all of them; the first round is not counted. Wall and CPU seconds are of
the whole process; CPU seconds include the decoder process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cmmixer.runtime import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "search-startup.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and stores the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", required=True, help="folder src of the revision to compare with")
    parser.add_argument("--revision", required=True, help="name of that revision")
    parser.add_argument("--index", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    search = ["-m", "cmmixer", "search", "--index", options.index, options.query, "--for", "audio", "--json"]
    commands = {
        "before": (options.before, search),
        "after": (str(ROOT / "src"), search),
        "torch": (str(ROOT / "src"), ["-c", "import torch"]),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(options.rounds + 1):
        for name, (source, command) in commands.items():
            seconds = run(source, command)
            if number:
                times[name].append(seconds)
            print(name, *(f"{value:.2f}" for value in seconds), file=sys.stderr, flush=True)
        if number:
            RESULT.write_text(json.dumps(figures(times, options.revision), indent=1) + "\n")


def figures(times: dict[str, list[tuple[float, float]]], revision: str) -> dict[str, Any]:
    """Returns the medians of the rounds so far."""
    medians = {name: np.median(rows, axis=0) for name, rows in times.items()}
    return {
        **{name: {"seconds": float(both[0]), "cpu_seconds": float(both[1])} for name, both in medians.items()},
        "rounds": len(times["torch"]),
        "revision": revision,
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load_average": os.getloadavg()[0],
    }


def run(source: str, command: Sequence[str]) -> tuple[float, float]:
    """Runs a process of this interpreter and returns its wall and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": source}
    subprocess.run([sys.executable, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


if __name__ == "__main__":
    main()
