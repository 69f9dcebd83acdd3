"""kill -9 at 20 random moments of each long command: docs/kills.md.

    python -m benchmarks.kills                        # runs what is missing, some 40 minutes in all, then writes the document
    python -m benchmarks.kills --only pretrain-2      # one job anew
    python -m benchmarks.kills --table                # writes the document from what is there

`benchmarks/results/kills.json` holds one row a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kills.jobs import KINDS, Place
from benchmarks.kills.processes import Starter
from benchmarks.kills.table import DOCUMENT, document
from benchmarks.kills.trial import Span, trial, uninterrupted
from cmmixer.config import SynthesizeSettings
from cmmixer.runtime import machine
from cmmixer.synthetic.generate import synthesize

RESULT = DOCUMENT.parents[1] / "benchmarks" / "results" / "kills.json"
FILMS = 40
# What a job reads that another one made.
NEEDS = {name: ["prepare"] for name in ("pretrain", "pretrain-2", "pretrain-fsdp", "finetune")}
NEEDS["embed"] = ["prepare", "finetune"]
NEEDS["index"] = NEEDS["embed-folder"] = NEEDS["embed"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Kills the jobs that are missing, or those asked for anew, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(KINDS), help="kill these jobs, anew if their rows are there")
    parser.add_argument("--kills", type=int, default=20, help="how many of each")
    parser.add_argument("--films", type=int, default=FILMS, help="how many the jobs work on")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of who is killed")
    parser.add_argument("--folder", type=Path, help="work here, and leave it there; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="write the rows here, and no document")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    result = options.out or RESULT
    rows: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    wanted = [] if options.table else options.only or [name for name in KINDS if name not in rows]
    if wanted:
        with tempfile.TemporaryDirectory(prefix="cmmixer-kills-") as temporary:
            _run(wanted, Place((options.folder or Path(temporary)).resolve()), options, rows, result)
    if options.out is None:
        DOCUMENT.write_text(document(rows))


def _run(wanted: Sequence[str], place: Place, options: argparse.Namespace, rows: dict[str, Any], result: Path) -> None:
    _material(place, options.films)
    starter = Starter()
    spans: dict[str, Span] = {}
    try:
        for name in wanted:
            for needed in [*NEEDS.get(name, []), name]:
                if needed not in spans:
                    spans[needed] = uninterrupted(needed, place, starter)
            rows[name] = _kills(name, place, starter, spans[name], options)
            result.write_text(json.dumps({kind: rows[kind] for kind in KINDS if kind in rows}, indent=1) + "\n")
    finally:
        starter.close()


def _material(place: Place, films: int) -> None:
    """Films, and one that no decoder can open."""
    synthesize(SynthesizeSettings(clips=films, out=str(place.films), seed=1, difficulty="easy", workers=2))
    (place.films / "film-broken.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))


def _kills(name: str, place: Place, starter: Starter, span: Span, options: argparse.Namespace) -> dict[str, Any]:
    chance = np.random.default_rng((options.seed, list(KINDS).index(name)))
    targets = KINDS[name].targets
    kills = []
    for number in range(options.kills):
        began = time.monotonic()
        kills.append(trial(name, place, starter, span, targets[number % len(targets)], chance))
        print(name, number, f"{time.monotonic() - began:.1f} s", kills[-1], file=sys.stderr, flush=True)
    command = KINDS[name].arguments(Place(Path()))
    return {
        "command": " ".join(command[:-1]),
        "films": options.films,
        "seconds_uninterrupted": round(span.ended_seconds, 1),
        "seconds_of_work": round(span.work_seconds, 1),
        "kills": kills,
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
