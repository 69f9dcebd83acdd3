"""Indexing in the background: one folder after the other, watched and cancelled from outside."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cmmixer.config import IndexSettings
from cmmixer.encoders.base import Encoder
from cmmixer.errors import CMMixerError
from cmmixer.retrieval.build import IndexReport, index
from cmmixer.server import schemas
from cmmixer.server.library import without_place
from cmmixer.server.problems import ProblemError

ENDED = frozenset(("done", "failed", "cancelled"))
_MOST_SKIPPED = 1000
_MOST_WAITING = 20
_MOST_REMEMBERED = 100
_log = logging.getLogger("cmmixer.server")


class _CancelledError(Exception):
    """Leaves the indexing; what was committed stays, as after any stop."""


@dataclass
class Job:
    """One folder being indexed; a `Progress` that remembers and may refuse to go on.

    Attributes:
        id: names it.
        folder: id of the folder.
        folder_name: as it is shown.
        path: where it lies.
        remove_gone: whether files that are gone from it are taken out.
        state, phase, done, total: where it stands.
        version: grows with every change, so that watchers know when to look.
    """

    id: str
    folder: str
    folder_name: str
    path: str
    remove_gone: bool
    state: schemas.State = "waiting"
    phase: str = "waiting for its turn"
    done: int = 0
    total: int | None = None
    version: int = 0
    began: float = field(default_factory=time.monotonic)
    phase_began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    report: IndexReport | None = None
    problem: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def start(self, total: int | None, what: str) -> None:
        """A part of the work begins."""
        self._go_on()
        self.phase, self.done, self.total, self.phase_began = what, 0, total, time.monotonic()
        self.version += 1

    def advance(self, steps: int = 1) -> None:
        """Some steps are done, or a long one goes on."""
        self.done += steps
        self.version += steps > 0
        self._go_on()

    def message(self, text: str) -> None:
        """Nothing that indexing says beside its steps is worth keeping."""

    def _go_on(self) -> None:
        if self.cancelled.is_set():
            raise _CancelledError

    def end(self, state: schemas.State, phase: str, problem: str | None = None) -> None:
        """It is over."""
        self.state, self.phase, self.problem, self.ended = state, phase, problem, time.monotonic()
        self.version += 1

    def shown(self) -> schemas.Job:
        """As it is shown."""
        now = time.monotonic() if self.ended is None else self.ended
        skips = [] if self.report is None else [skip for skip in self.report.skips if skip.path.startswith(self.path)]
        return schemas.Job(
            id=self.id,
            folder=self.folder,
            folder_name=self.folder_name,
            state=self.state,
            phase=self.phase,
            done=self.done,
            total=self.total,
            seconds=round(now - self.began, 2),
            seconds_left=self._seconds_left(now),
            report=None if self.report is None else schemas.JobReport(**_figures(self.report)),
            skipped=[
                schemas.Skipped(
                    name=skip.path.removeprefix(self.path).lstrip("/") or self.folder_name,
                    reason=skip.reason,
                    message=skip.message.replace(self.path, self.folder_name),
                )
                for skip in skips[:_MOST_SKIPPED]
            ],
            skipped_total=len(skips),
            problem=self.problem,
        )

    def _seconds_left(self, now: float) -> float | None:
        if self.state != "running" or not self.total or not self.done:
            return None
        return round((now - self.phase_began) / self.done * (self.total - self.done), 1)


class Jobs:
    """The jobs of a service, one at a time because an index has one writer."""

    def __init__(self, settings: Callable[[Job], IndexSettings], encoder: Encoder, changed: Callable[[], None]) -> None:
        """Args:
        settings: of the indexing of a job's folder.
        encoder: the index's model.
        changed: called when the index may have changed.
        """
        self._settings = settings
        self._encoder = encoder
        self._changed = changed
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "cmmixer-indexing")

    def start(self, folder: str, folder_name: str, path: str, remove_gone: bool) -> Job:
        """Queues the indexing of a folder.

        Raises:
            ProblemError: it is being indexed already, or too much is waiting.
        """
        with self._lock:
            open_jobs = [job for job in self._jobs.values() if job.state not in ENDED]
            if any(job.path == path for job in open_jobs):
                raise ProblemError("conflict", f"{folder_name}: is being indexed already; wait for it or cancel it")
            if len(open_jobs) >= _MOST_WAITING:
                raise ProblemError("busy", f"{len(open_jobs)} folders are waiting to be indexed", {"Retry-After": "30"})
            job = Job(uuid.uuid4().hex[:24], folder, folder_name, path, remove_gone)
            self._jobs[job.id] = job
            for old in [key for key, one in self._jobs.items() if one.state in ENDED][
                : max(0, len(self._jobs) - _MOST_REMEMBERED)
            ]:
                del self._jobs[old]
        self._worker.submit(self._run, job)
        return job

    @property
    def open(self) -> int:
        """How many run or wait."""
        return sum(job.state not in ENDED for job in self.all())

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, job: str) -> Job:
        """A job by its id.

        Raises:
            ProblemError: there is none.
        """
        with self._lock:
            if job not in self._jobs:
                raise ProblemError("not-found", f"no job has the id {job}")
            return self._jobs[job]

    def cancel(self, job: str) -> Job:
        """Asks a job to stop; it does so within a second or so, inside a long film too, and what it has committed stays.

        Raises:
            ProblemError: there is none, or it has ended.
        """
        found = self.get(job)
        with self._lock:
            if found.state in ENDED:
                raise ProblemError("conflict", f"{found.folder_name}: has ended already ({found.state})")
            found.cancelled.set()
            if found.state == "waiting":
                found.end("cancelled", "cancelled before it began")
            else:
                found.state = "cancelling"
                found.version += 1
        return found

    def close(self) -> None:
        """Stops what runs, and waits for it."""
        for job in self.all():
            job.cancelled.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        with self._lock:
            if job.state in ENDED:
                return
            job.state = "running"
        settings = self._settings(job)
        try:
            job.report = index(settings, job, encoder=self._encoder)
            self._changed()
            job.end("done", "done")
        except _CancelledError:
            self._changed()
            job.end("cancelled", "cancelled; what was indexed until then stays")
        except (CMMixerError, OSError) as fault:
            told = str(fault).replace(job.path, job.folder_name)
            job.end("failed", "failed", without_place(told, settings.index, "the index"))
        except Exception as fault:
            _log.error("indexing failed", exc_info=fault)
            job.end(
                "failed", "failed", f"a fault of ours: {type(fault).__name__}; the details are in the service's log"
            )


def _figures(report: IndexReport) -> dict[str, int]:
    return {name: getattr(report, name) for name in schemas.JobReport.model_fields}
