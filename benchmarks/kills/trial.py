"""One kill: starts a job, kills it at a random moment, inspects its output, calls it again, and compares."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.kills.contents import Damage, leftovers
from benchmarks.kills.jobs import ALL, COMMAND, JOBS, LAUNCHER, RANK, WORKER, JobSpec, Workspace
from benchmarks.kills.processes import Job, Starter, remaining
from cmmixer.errors import CMMixerError

# Attempts at a kill; one that came too late is repeated at another moment.
ATTEMPTS = 8
ORPHAN_SECONDS = 30.0


@dataclass(frozen=True)
class Timing:
    """When an uninterrupted job wrote its first file and when it ended, in seconds after its start."""

    first_file_seconds: float
    ended_seconds: float

    @property
    def work_seconds(self) -> float:
        """Seconds between the two."""
        return self.ended_seconds - self.first_file_seconds


def run_uninterrupted(name: str, workspace: Workspace, starter: Starter) -> Timing:
    """Runs a job to its end, for its output and its timing.

    Raises:
        RuntimeError: the job failed.
    """
    folder = workspace.folder / name / "truth"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    job = _start(JOBS[name], workspace, folder, starter)
    first_file = _first_file(job, folder) - started
    if job.wait() != 0:
        raise RuntimeError(f"{name} failed without being killed: {error_message(job)}")
    return Timing(first_file, time.monotonic() - started)


def run_trial(
    name: str, workspace: Workspace, starter: Starter, timing: Timing, target: str, generator: np.random.Generator
) -> dict[str, Any]:
    """Kills a job once and returns a row of `benchmarks/results/kills.json`."""
    spec, truth, folder = JOBS[name], workspace.truth(name), workspace.folder / name / "killed"
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        moment = float(generator.uniform(0.0, timing.work_seconds))
        job = _start(spec, workspace, folder, starter)
        time.sleep(max(0.0, _first_file(job, folder) + moment - time.monotonic()))
        row = {"target": target, "seconds": round(moment, 2), "problems": []}
        if _kill(job, target, row, generator):
            break
        job.wait()
    else:
        return {"target": target, "problems": [f"it could not be killed in {ATTEMPTS} attempts"]}
    _inspect(row, spec, truth, folder)
    if row["exit_code"] != 0:
        _call_again(row, spec, workspace, folder, starter)
    try:
        row["problems"] += spec.differences(truth, folder / spec.out)
    except (Damage, CMMixerError, OSError, ValueError) as error:
        row["problems"].append(f"in the end: {type(error).__name__}: {error}")
    left = [file for file in leftovers(folder) if not file.startswith("tmp")]
    if left:
        row["problems"].append(f"left behind: {', '.join(left)}")
    return row


def error_message(job: Job) -> str:
    """Returns the last line written by CMMixer, or else what torchrun says about a killed process, or else the last line."""
    lines = job.log.read_text().splitlines()
    own = [line for line in lines if line.startswith("cmmixer: ")]
    killed = [line.strip() for line in lines if "Signal 9 (SIGKILL)" in line]
    return (own or killed or lines or [""])[-1]


def _start(spec: JobSpec, workspace: Workspace, folder: Path, starter: Starter) -> Job:
    return starter.start([*spec.arguments(workspace), str(folder / spec.out)], folder, processes=spec.processes)


def _first_file(job: Job, folder: Path) -> float:
    """Waits until the job writes its first file, or ends; returns the time."""
    ours = {"tmp", "stderr.txt"}
    while job.poll() is None and not any(path.name not in ours for path in folder.iterdir()):
        time.sleep(0.005)
    return time.monotonic()


def _kill(job: Job, target: str, row: dict[str, Any], generator: np.random.Generator) -> bool:
    """Kills the target and waits until all processes have ended. Returns False if the job ended before."""
    family = job.family()
    if job.poll() is not None:
        return False
    if target == ALL:
        job.kill_all()
    else:
        victims = {WORKER: job.workers, RANK: job.ranks, COMMAND: lambda: _itself(job), LAUNCHER: lambda: _itself(job)}
        while not (candidates := victims[target]()):
            if job.poll() is not None:
                return False
            time.sleep(0.01)
        try:
            candidates[int(generator.integers(len(candidates)))].kill()
        except psutil.NoSuchProcess:
            return False
    since = time.monotonic()
    row["exit_code"] = job.wait()
    row["ended_after_seconds"] = round(time.monotonic() - since, 2)
    if row["exit_code"] is None:
        row["problems"].append("it hangs")
        job.kill_all()
    if target not in (WORKER, RANK) and row["exit_code"] == 0:
        return False  # it ended just before the kill
    if target in (WORKER, RANK) and row["exit_code"]:
        row["message"] = error_message(job)
        if not row["message"].startswith(("cmmixer: ", "traceback : Signal 9")) or "a bug in CMMixer" in row["message"]:
            row["problems"].append("no clear message")
    for process in remaining(family, ORPHAN_SECONDS):
        row["problems"].append(f"still runs {ORPHAN_SECONDS:g} s later: {' '.join(process.cmdline())[:200]}")
        process.kill()
    row["orphans_seconds"] = round(time.monotonic() - since, 2)
    return True


def _itself(job: Job) -> list[psutil.Process]:
    return [psutil.Process(job.pid)]


def _inspect(row: dict[str, Any], spec: JobSpec, truth: Path, folder: Path) -> None:
    try:
        row["on_disk"] = spec.inspect(truth, folder / spec.out)
    except (Damage, CMMixerError, OSError, ValueError) as error:
        row["problems"].append(f"after the kill: {type(error).__name__}: {error}")


def _call_again(row: dict[str, Any], spec: JobSpec, workspace: Workspace, folder: Path, starter: Starter) -> None:
    job = _start(spec, workspace, folder, starter)
    code = job.wait()
    if code is None:
        job.kill_all()
    if code != 0:
        row["problems"].append(f"called again, it ended with {code}: {error_message(job)}")
