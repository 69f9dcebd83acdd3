"""CPU time of this process and its descendants, which other work on the machine does not change; and the videos of the benchmarks."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.speed.settings import BenchSettings
from cmmixer.config import SynthesizeSettings
from cmmixer.errors import SettingsError
from cmmixer.progress import Progress
from cmmixer.synthetic.generate import synthesize

_PROCESSES = Path("/proc")

# A process that starts and ends between two samples is missed, unless it is waited for.
_SAMPLE_SECONDS = 0.05


class CPUTime:
    """Measures the CPU `seconds` of this process and all its descendants in a `with` block.

    Args:
        fixed_processes: no process starts or ends in the block, so it suffices to sample at its start and end.

    Raises:
        SettingsError: the system has no /proc.
    """

    def __init__(self, *, fixed_processes: bool = False) -> None:
        if not (_PROCESSES / "self" / "stat").exists():
            raise SettingsError(
                "benchmarks.speed: got a system without /proc, expected Linux, where it has the CPU time of processes"
            )
        self.seconds = 0.0
        self._fixed_processes = fixed_processes
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._waited_for = _waited_for()
        self._first = self._latest = _cpu_seconds_by_process()
        if not self._fixed_processes:
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._fixed_processes:
            self._stop.set()
            self._sampler.join()
        self._latest = {**self._latest, **_cpu_seconds_by_process()}
        spent = {process: seconds - self._first.get(process, 0.0) for process, seconds in self._latest.items()}
        # For children that were waited for, the system knows more than the last sample.
        waited_for = _waited_for() - self._waited_for
        gone = sum(seconds for process, seconds in spent.items() if not (_PROCESSES / str(process)).exists())
        self.seconds = sum(spent.values()) + max(waited_for - gone, 0.0)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._latest = {**self._latest, **_cpu_seconds_by_process()}


def _waited_for() -> float:
    """Returns the CPU seconds of children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_seconds_by_process() -> dict[int, float]:
    """Returns the CPU seconds of this process and all its descendants, by process id."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for folder in _PROCESSES.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # pid (name, which may hold anything) state ppid ...; user and system time are fields 14 and 15
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):  # the process has just ended
            continue
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / tick
    ours = {os.getpid()}
    while True:
        more = {process for process, parent in parents.items() if parent in ours} - ours
        if not more:
            return {process: seconds[process] for process in ours if process in seconds}
        ours |= more


def bench_videos(settings: BenchSettings, folder: Path, progress: Progress) -> str:
    """Returns the videos of the settings, or `folder` after synthesizing videos of 20 s into it."""
    if settings.videos is not None:
        return settings.videos
    synthetic = SynthesizeSettings(
        clips=settings.synthetic_videos, out=str(folder), seed=settings.seed, seconds=20.0, size=256, fps=25.0
    )
    synthesize(synthetic, progress)
    return str(folder)
