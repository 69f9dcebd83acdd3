"""Processor time of this process and of all that work for it; other work on the machine takes nothing from it.

The films that `bench data` and `bench embed` work on.
"""

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

# A process that comes and goes between two looks is missed, unless it is waited for.
_LOOK_SECONDS = 0.05


class ProcessorTime:
    """Measures while it is entered: `seconds`, of this process, its children and theirs.

    Args:
        all_stay: nobody comes and goes meanwhile, so that it is enough to look at the beginning and at the end.

    Raises:
        SettingsError: the system does not tell.
    """

    def __init__(self, *, all_stay: bool = False) -> None:
        if not (_PROCESSES / "self" / "stat").exists():
            raise SettingsError("bench data: got a system without /proc, expected Linux; processor time is read there")
        self.seconds = 0.0
        self._all_stay = all_stay
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._waited_for = _waited_for()
        self._begun = self._newest = _living()
        if not self._all_stay:
            self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._all_stay:
            self._ended.set()
            self._looking.join()
        self._newest = {**self._newest, **_living()}
        spent = {process: seconds - self._begun.get(process, 0.0) for process, seconds in self._newest.items()}
        # Of those that were waited for the system knows better than the last look.
        waited_for = _waited_for() - self._waited_for
        gone = sum(seconds for process, seconds in spent.items() if not (_PROCESSES / str(process)).exists())
        self.seconds = sum(spent.values()) + max(waited_for - gone, 0.0)

    def _look_on(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._newest = {**self._newest, **_living()}


def _waited_for() -> float:
    """Seconds of children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _living() -> dict[int, float]:
    """Processor seconds of this process and of all that descend from it, by their number."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for folder in _PROCESSES.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # pid (name, which may hold anything) state ppid ...; user and system time are fields 14 and 15
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):  # it has just ended
            continue
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / tick
    ours = {os.getpid()}
    while True:
        more = {process for process, parent in parents.items() if parent in ours} - ours
        if not more:
            return {process: seconds[process] for process in ours if process in seconds}
        ours |= more


def bench_films(settings: BenchSettings, folder: Path, progress: Progress) -> str:
    """The folder of films that was given, or `folder` with films of 20 s made into it."""
    if settings.films is not None:
        return settings.films
    made = SynthesizeSettings(
        clips=settings.made_films, out=str(folder), seed=settings.seed, seconds=20.0, size=256, fps=25.0
    )
    synthesize(made, progress)
    return str(folder)
