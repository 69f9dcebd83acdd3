"""Kills each long command with SIGKILL at 20 random moments, calls it again and compares the result. Writes docs/kills.md.

    python -m benchmarks.kills                        # runs the jobs that are missing, about 40 minutes in all
    python -m benchmarks.kills --only pretrain-2      # runs one job again
    python -m benchmarks.kills --table                # writes the document from the stored rows, runs nothing

`benchmarks/results/kills.json` has one row per kill.
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

from benchmarks.kills.jobs import JOBS, Workspace
from benchmarks.kills.processes import Starter
from benchmarks.kills.table import DOCUMENT, document
from benchmarks.kills.trial import Timing, run_trial, run_uninterrupted
from cmmixer.config import SynthesizeSettings
from cmmixer.runtime import describe_machine
from cmmixer.synthetic.generate import synthesize

RESULT = DOCUMENT.parents[1] / "benchmarks" / "results" / "kills.json"
VIDEOS = 40
# Jobs whose output a job reads.
DEPENDENCIES = {name: ["prepare"] for name in ("pretrain", "pretrain-2", "pretrain-fsdp", "finetune")}
DEPENDENCIES["embed"] = ["prepare", "finetune"]
DEPENDENCIES["index"] = DEPENDENCIES["embed-folder"] = DEPENDENCIES["embed"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the jobs that are missing or named, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(JOBS), help="run these jobs, even if their rows are stored")
    parser.add_argument("--kills", type=int, default=20, help="number of kills per job")
    parser.add_argument("--videos", type=int, default=VIDEOS, help="number of videos that the jobs work on")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of the killed processes")
    parser.add_argument("--folder", type=Path, help="working folder, kept afterwards; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="write the rows to this file, and no document")
    parser.add_argument("--table", action="store_true", help="write the document from the stored rows, run nothing")
    options = parser.parse_args(arguments)
    result = options.out or RESULT
    rows: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    wanted = [] if options.table else options.only or [name for name in JOBS if name not in rows]
    if wanted:
        with tempfile.TemporaryDirectory(prefix="cmmixer-kills-") as temporary:
            _run(wanted, Workspace((options.folder or Path(temporary)).resolve()), options, rows, result)
    if options.out is None:
        DOCUMENT.write_text(document(rows))


def _run(
    wanted: Sequence[str], workspace: Workspace, options: argparse.Namespace, rows: dict[str, Any], result: Path
) -> None:
    _make_videos(workspace, options.videos)
    starter = Starter()
    timings: dict[str, Timing] = {}
    try:
        for name in wanted:
            for dependency in [*DEPENDENCIES.get(name, []), name]:
                if dependency not in timings:
                    timings[dependency] = run_uninterrupted(dependency, workspace, starter)
            rows[name] = _kills(name, workspace, starter, timings[name], options)
            result.write_text(json.dumps({job: rows[job] for job in JOBS if job in rows}, indent=1) + "\n")
    finally:
        starter.close()


def _make_videos(workspace: Workspace, videos: int) -> None:
    """Makes the videos, and one that no decoder can open."""
    synthesize(SynthesizeSettings(clips=videos, out=str(workspace.videos), seed=1, difficulty="easy", workers=2))
    (workspace.videos / "video-broken.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))


def _kills(
    name: str, workspace: Workspace, starter: Starter, timing: Timing, options: argparse.Namespace
) -> dict[str, Any]:
    generator = np.random.default_rng((options.seed, list(JOBS).index(name)))
    targets = JOBS[name].targets
    kills = []
    for number in range(options.kills):
        began = time.monotonic()
        kills.append(run_trial(name, workspace, starter, timing, targets[number % len(targets)], generator))
        print(name, number, f"{time.monotonic() - began:.1f} s", kills[-1], file=sys.stderr, flush=True)
    command = JOBS[name].arguments(Workspace(Path()))
    return {
        "command": " ".join(command[:-1]),
        "videos": options.videos,
        "seconds_uninterrupted": round(timing.ended_seconds, 1),
        "seconds_of_work": round(timing.work_seconds, 1),
        "kills": kills,
        "machine": describe_machine(),
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
