"""Jobs that index folders in the background, one at a time. Clients can watch and cancel them."""

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
from cmmixer.server.library import without_path
from cmmixer.server.problems import ProblemError

ENDED = frozenset(("done", "failed", "cancelled"))
_MAX_SKIPPED = 1000
_MAX_QUEUED = 20
_MAX_REMEMBERED = 100
_log = logging.getLogger("cmmixer.server")


class _CancelledError(Exception):
    """Raised inside the indexing to stop it. Committed rows stay, as after any interruption."""


@dataclass
class Job:
    """A folder being indexed. It is the `Progress` of that indexing, which it stops by raising.

    Attributes:
        id: the job's name for clients.
        folder: id of the folder.
        folder_name: the folder's name for clients.
        path: of the folder.
        remove_missing: whether files that are no longer in the folder are removed from the index.
        state, phase, done, total: how far it is.
        version: grows with every change, so that watchers know when to look.
        started, phase_started, ended: monotonic seconds.
        report: what indexing did.
        problem: why it failed.
        cancelled: set to stop the job.
    """

    id: str
    folder: str
    folder_name: str
    path: str
    remove_missing: bool
    state: schemas.State = "queued"
    phase: str = "queued"
    done: int = 0
    total: int | None = None
    version: int = 0
    started: float = field(default_factory=time.monotonic)
    phase_started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    report: IndexReport | None = None
    problem: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def start(self, total: int | None, what: str) -> None:
        """Begins a phase."""
        self._stop_if_cancelled()
        self.phase, self.done, self.total, self.phase_started = what, 0, total, time.monotonic()
        self.version += 1

    def advance(self, steps: int = 1) -> None:
        """Counts finished steps; 0 where a long step is still running."""
        self.done += steps
        self.version += steps > 0
        self._stop_if_cancelled()

    def message(self, text: str) -> None:
        """Ignores what indexing prints beside its steps."""

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise _CancelledError

    def end(self, state: schemas.State, phase: str, problem: str | None = None) -> None:
        """Ends the job."""
        self.state, self.phase, self.problem, self.ended = state, phase, problem, time.monotonic()
        self.version += 1

    def to_schema(self) -> schemas.Job:
        """Returns the job as a schema, without paths of this machine."""
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
            seconds=round(now - self.started, 2),
            seconds_left=self._seconds_left(now),
            report=None if self.report is None else _report_schema(self.report),
            skipped=[
                schemas.Skipped(
                    name=skip.path.removeprefix(self.path).lstrip("/") or self.folder_name,
                    reason=skip.reason,
                    message=skip.message.replace(self.path, self.folder_name),
                )
                for skip in skips[:_MAX_SKIPPED]
            ],
            skipped_total=len(skips),
            problem=self.problem,
        )

    def _seconds_left(self, now: float) -> float | None:
        if self.state != "running" or not self.total or not self.done:
            return None
        return round((now - self.phase_started) / self.done * (self.total - self.done), 1)


class Jobs:
    """The jobs of a service. They run one at a time, because an index has one writer."""

    def __init__(self, settings: Callable[[Job], IndexSettings], encoder: Encoder, changed: Callable[[], None]) -> None:
        """Starts without jobs.

        Args:
            settings: returns the settings for indexing the folder of a job.
            encoder: the model of the index.
            changed: called when the index may have changed.
        """
        self._settings = settings
        self._encoder = encoder
        self._changed = changed
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "cmmixer-indexing")

    def start(self, folder: str, folder_name: str, path: str, remove_missing: bool) -> Job:
        """Queues the indexing of a folder.

        Raises:
            ProblemError: the folder is being indexed already, or too many are queued.
        """
        with self._lock:
            open_jobs = [job for job in self._jobs.values() if job.state not in ENDED]
            if any(job.path == path for job in open_jobs):
                raise ProblemError(
                    "conflict", f"{folder_name}: is already being indexed; wait for that job or cancel it"
                )
            if len(open_jobs) >= _MAX_QUEUED:
                raise ProblemError("busy", f"{len(open_jobs)} folders are waiting to be indexed", {"Retry-After": "30"})
            job = Job(uuid.uuid4().hex[:24], folder, folder_name, path, remove_missing)
            self._jobs[job.id] = job
            self._forget_oldest()
        self._worker.submit(self._run, job)
        return job

    @property
    def open(self) -> int:
        """Number of jobs that are running or queued."""
        return sum(job.state not in ENDED for job in self.all())

    def all(self) -> list[Job]:
        """Returns all jobs, newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, job_id: str) -> Job:
        """Returns a job by its id.

        Raises:
            ProblemError: `not-found`.
        """
        with self._lock:
            if job_id not in self._jobs:
                raise ProblemError("not-found", f"no job has the id {job_id}")
            return self._jobs[job_id]

    def cancel(self, job_id: str) -> Job:
        """Asks a job to stop. It does so within a second or so, also inside a long video; committed rows stay.

        Raises:
            ProblemError: there is no such job, or it has ended.
        """
        job = self.get(job_id)
        with self._lock:
            if job.state in ENDED:
                raise ProblemError("conflict", f"{job.folder_name}: has already ended ({job.state})")
            job.cancelled.set()
            if job.state == "queued":
                job.end("cancelled", "cancelled before it started")
            else:
                job.state = "cancelling"
                job.version += 1
        return job

    def close(self) -> None:
        """Cancels all jobs and waits for the running one."""
        for job in self.all():
            job.cancelled.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _forget_oldest(self) -> None:
        """Forgets ended jobs beyond those that are remembered; the lock must be held."""
        ended = [job.id for job in self._jobs.values() if job.state in ENDED]
        for job_id in ended[: max(0, len(self._jobs) - _MAX_REMEMBERED)]:
            del self._jobs[job_id]

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
            job.end("cancelled", "cancelled; files indexed until then stay in the index")
        except (CMMixerError, OSError) as error:
            message = str(error).replace(job.path, job.folder_name)
            job.end("failed", "failed", without_path(message, settings.index, "INDEX"))
        except Exception as error:
            _log.error("indexing failed", exc_info=error)
            problem = f"internal error: {type(error).__name__}; this is a bug, and the details are in the service's log"
            job.end("failed", "failed", problem)


def _report_schema(report: IndexReport) -> schemas.JobReport:
    return schemas.JobReport(
        added=report.added,
        changed=report.changed,
        unchanged=report.unchanged,
        removed=report.removed,
        skipped=report.skipped,
        moments=report.moments,
    )
