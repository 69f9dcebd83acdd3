"""One kill: a job is started, killed at a moment, looked at, called again, and compared."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.kills.contents import Damage, leftovers
from benchmarks.kills.jobs import ALL, COMMAND, KINDS, LAUNCHER, RANK, WORKER, Kind, Place
from benchmarks.kills.processes import Job, Starter, remaining
from cmmixer.errors import CMMixerError

# How often a kill that came too late is tried again, at another moment.
TRIES = 8
ORPHAN_SECONDS = 30.0


@dataclass(frozen=True)
class Span:
    """When an uninterrupted job wrote its first file, and when it ended, in seconds after its start."""

    begun_seconds: float
    ended_seconds: float

    @property
    def work_seconds(self) -> float:
        """Between the two."""
        return self.ended_seconds - self.begun_seconds


def uninterrupted(name: str, place: Place, starter: Starter) -> Span:
    """Runs a job to its end, for the truth and for its time.

    Raises:
        RuntimeError: it failed.
    """
    folder = place.folder / name / "truth"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    job = _start(KINDS[name], place, folder, starter)
    begun = _first_file(job, folder) - started
    if job.wait() != 0:
        raise RuntimeError(f"{name} failed without being killed: {told(job)}")
    return Span(begun, time.monotonic() - started)


def trial(
    name: str, place: Place, starter: Starter, span: Span, target: str, chance: np.random.Generator
) -> dict[str, Any]:
    """Kills a job once, and says what became of it; see the fields in `benchmarks/results/kills.json`."""
    kind, truth, folder = KINDS[name], place.truth(name), place.folder / name / "killed"
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        moment = float(chance.uniform(0.0, span.work_seconds))
        job = _start(kind, place, folder, starter)
        time.sleep(max(0.0, _first_file(job, folder) + moment - time.monotonic()))
        row = {"target": target, "seconds": round(moment, 2), "faults": []}
        if _strike(job, target, row, chance):
            break
        job.wait()
    else:
        return {"target": target, "faults": [f"it could not be killed in {TRIES} tries"]}
    _look(row, kind, truth, folder)
    if row["exit_code"] != 0:
        _call_again(row, kind, place, folder, starter)
    try:
        row["faults"] += kind.differences(truth, folder / kind.out)
    except (Damage, CMMixerError, OSError, ValueError) as fault:
        row["faults"].append(f"in the end: {type(fault).__name__}: {fault}")
    left = [file for file in leftovers(folder) if not file.startswith("tmp")]
    if left:
        row["faults"].append(f"left behind: {', '.join(left)}")
    return row


def told(job: Job) -> str:
    """Its complaint: the last line that CMMixer wrote, or what torchrun says of a killed process, or the last line at all."""
    lines = job.log.read_text().splitlines()
    own = [line for line in lines if line.startswith("cmmixer: ")]
    killed = [line.strip() for line in lines if "Signal 9 (SIGKILL)" in line]
    return (own or killed or lines or [""])[-1]


def _start(kind: Kind, place: Place, folder: Path, starter: Starter) -> Job:
    return starter.start([*kind.arguments(place), str(folder / kind.out)], folder, processes=kind.processes)


def _first_file(job: Job, folder: Path) -> float:
    """Waits for the first thing that the job writes, or its end; says when that was."""
    own = {"tmp", "told.txt"}
    while job.poll() is None and not any(path.name not in own for path in folder.iterdir()):
        time.sleep(0.005)
    return time.monotonic()


def _strike(job: Job, target: str, row: dict[str, Any], chance: np.random.Generator) -> bool:
    """Kills; False if there is nothing to be killed any more. Waits until everything has ended."""
    family = job.family()
    if job.poll() is not None:
        return False
    if target == ALL:
        job.kill_all()
    else:
        victims = {WORKER: job.workers, RANK: job.ranks, COMMAND: lambda: _itself(job), LAUNCHER: lambda: _itself(job)}
        while not (there := victims[target]()):
            if job.poll() is not None:
                return False
            time.sleep(0.01)
        try:
            there[int(chance.integers(len(there)))].kill()
        except psutil.NoSuchProcess:
            return False
    since = time.monotonic()
    row["exit_code"] = job.wait()
    row["ended_after_seconds"] = round(time.monotonic() - since, 2)
    if row["exit_code"] is None:
        row["faults"].append("it hangs")
        job.kill_all()
    if target not in (WORKER, RANK) and row["exit_code"] == 0:
        return False  # it ended just before
    if target in (WORKER, RANK) and row["exit_code"]:
        row["told"] = told(job)
        if not row["told"].startswith(("cmmixer: ", "traceback : Signal 9")) or "a fault of ours" in row["told"]:
            row["faults"].append("no clear message")
    for process in remaining(family, ORPHAN_SECONDS):
        row["faults"].append(f"still runs {ORPHAN_SECONDS:g} s later: {' '.join(process.cmdline())[:200]}")
        process.kill()
    row["orphans_seconds"] = round(time.monotonic() - since, 2)
    return True


def _itself(job: Job) -> list[psutil.Process]:
    return [psutil.Process(job.pid)]


def _look(row: dict[str, Any], kind: Kind, truth: Path, folder: Path) -> None:
    try:
        row["on_disk"] = kind.look(truth, folder / kind.out)
    except (Damage, CMMixerError, OSError, ValueError) as fault:
        row["faults"].append(f"after the kill: {type(fault).__name__}: {fault}")


def _call_again(row: dict[str, Any], kind: Kind, place: Place, folder: Path, starter: Starter) -> None:
    job = _start(kind, place, folder, starter)
    code = job.wait()
    if code is None:
        job.kill_all()
    if code != 0:
        row["faults"].append(f"called again, it ended with {code}: {told(job)}")
