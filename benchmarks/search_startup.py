"""What `cmmixer search` takes on a warm index, before and after a change, and what `import torch` alone takes.

    git worktree add /tmp/before REVISION
    python -m benchmarks.search_startup --before /tmp/before/src --index LIBRARY --query film.mp4

Takes turns, so that whatever else the machine does is shared out; a first round of each is not counted. Seconds are a process's
from beginning to end, processor seconds also those of the decoder it starts.
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

from cmmixer.runtime import machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "search-startup.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and stores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", required=True, help="src of the revision to compare with")
    parser.add_argument("--revision", required=True, help="its name")
    parser.add_argument("--index", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    search = ["-m", "cmmixer", "search", "--index", options.index, options.query, "--for", "audio", "--json"]
    ways = {
        "before": (options.before, search),
        "after": (str(ROOT / "src"), search),
        "torch": (str(ROOT / "src"), ["-c", "import torch"]),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, (source, command) in ways.items():
            seconds = run(source, command)
            if number:
                taken[name].append(seconds)
            print(name, *(f"{value:.2f}" for value in seconds), file=sys.stderr, flush=True)
        if number:
            RESULT.write_text(json.dumps(figures(taken, options.revision), indent=1) + "\n")


def figures(taken: dict[str, list[tuple[float, float]]], revision: str) -> dict[str, Any]:
    """Medians of the rounds so far."""
    medians = {name: np.median(rows, axis=0) for name, rows in taken.items()}
    return {
        **{name: {"seconds": float(both[0]), "processor_seconds": float(both[1])} for name, both in medians.items()},
        "rounds": len(taken["torch"]),
        "revision": revision,
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load_average": os.getloadavg()[0],
    }


def run(source: str, command: Sequence[str]) -> tuple[float, float]:
    """Seconds and processor seconds of one process of this interpreter."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": source}
    subprocess.run([sys.executable, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


if __name__ == "__main__":
    main()
