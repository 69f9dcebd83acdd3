"""Runs a function over many files in separate processes, so that a file that hangs or crashes its process costs only itself.

FFmpeg is C code that parses untrusted input. A file that makes it loop costs `seconds_each`; a file that crashes it costs one
process. A process that is killed from outside, for instance by the system when memory runs out, costs only time: its item is
tried once more.

Every process has a pipe of its own. Pools whose processes share one pipe (multiprocessing's, concurrent.futures', pebble's) also
share its locks, and a process that is killed while it holds a lock blocks all others.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import resource
import signal
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from cmmixer.errors import MediaError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no worker waits for its next item while results are returned in order.
_QUEUED_PER_WORKER = 4
# The longest that a caller who wants to cancel has to wait.
_POLL_SECONDS = 0.5
# Exit codes that no file can cause: killed, terminated, or unknown because the server that forked the process was killed.
_KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, 255)
# multiprocessing polls all of its processes when it starts one, and two threads must not read the same exit code.
_PROCESS_LOCK = threading.Lock()
_EXIT_SECONDS = 5.0
# A server that was killed counts as alive, but accepts nobody, until the system has cleaned up after it.
_START_ATTEMPTS = 20
_START_SECONDS = 0.05


def worker_count(workers: int) -> int:
    """Returns `workers`, or, for 0, the number of cores this process may use."""
    return workers if workers > 0 else len(os.sched_getaffinity(0))


def map_sandboxed(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    seconds_each: float = 60.0,
    pool: SandboxPool | None = None,
    check_cancelled: Callable[[], None] | None = None,
) -> Iterator[tuple[Item, Result | MediaError]]:
    """Calls `function(item)` for each item in other processes; yields results in the order of the items.

    Args:
        function: defined at the top level of a module; should raise MediaError for files it cannot use.
        items: paths, or values with a `path`; read lazily, so the iterable may be endless.
        workers: number of processes; 0 means one per core.
        seconds_each: time limit per item; the process of an item that exceeds it is killed.
        pool: an existing pool to use instead of a new one.
        check_cancelled: called before every result, and twice a second while waiting for one; any exception it raises ends
            the work at once.

    Yields:
        (item, result), or (item, MediaError): the one raised, or one with the reason `time-limit` or `crashed`.

    Raises:
        Exception: any exception of `function` other than MediaError, which is a bug.
    """
    waiting: deque[tuple[Item, Future[Any]]] = deque()
    remaining = iter(items)
    used = SandboxPool(function, workers=workers) if pool is None else pool
    try:
        for item in remaining:
            waiting.append((item, used.schedule(function, item, seconds_each)))
            if len(waiting) >= used.workers * _QUEUED_PER_WORKER:
                _wait(waiting[0][1], check_cancelled)
                yield _outcome(*waiting.popleft(), seconds_each)
        while waiting:
            _wait(waiting[0][1], check_cancelled)
            yield _outcome(*waiting.popleft(), seconds_each)
    finally:
        # A consumer that stops early leaves tasks behind; they are cancelled, not waited for.
        for _, future in waiting:
            future.cancel()
        if pool is None:
            used.close()


class SandboxPool:
    """A pool of sandbox processes that stay alive between calls; one that dies is replaced."""

    def __init__(self, function: Callable[..., object], *, workers: int = 1, memory_mb: int = 0) -> None:
        """Creates the pool; processes start with the first task.

        Args:
            function: names the module that the processes import in advance; they can run any function.
            workers: number of processes; 0 means one per core.
            memory_mb: limit on the memory (address space) of a process; 0 means none.
        """
        self.workers = worker_count(workers)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        context = _process_context(function)
        self._workers = [_Worker(self._tasks, context, memory_mb) for _ in range(self.workers)]
        self._lock = threading.Lock()
        self._started = self._closed = False

    def run(self, function: Callable[[Item], Result], item: Item, *, seconds: float) -> Result:
        """Calls `function(item)` in one of the processes and waits for the result.

        Raises:
            MediaError: the one raised, or one with the reason `time-limit` or `crashed`.
        """
        result: Result | MediaError = _outcome(item, self.schedule(function, item, seconds), seconds)[1]
        if isinstance(result, MediaError):
            raise result
        return result

    def schedule(self, function: Callable[[Item], Result], item: Item, seconds: float) -> Future[Result]:
        """Queues `function(item)`; its process is killed if it runs for longer than `seconds`.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if not self._started:
                self._started = True
                for worker in self._workers:
                    worker.thread.start()
            self._tasks.put(_Task(function, item, seconds, future))
        return future

    def close(self) -> None:
        """Ends the processes; running tasks are abandoned and queued ones cancelled."""
        with self._lock:
            self._closed = True
            with suppress(queue.Empty):
                while True:
                    task = self._tasks.get_nowait()
                    if task is not None:
                        task.future.cancel()
            for _ in self._workers:
                self._tasks.put(None)
        if self._started:
            for worker in self._workers:
                worker.abort()
            for worker in self._workers:
                worker.thread.join()


@dataclass(frozen=True)
class _Task:
    function: Callable[[Any], Any]
    item: Any
    seconds: float
    future: Future[Any]


class _DiedError(Exception):
    """A process died while it worked; carries its exit code."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class _Worker:
    """One process of a pool, started on demand and restarted after it died, and the thread that passes tasks to it."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[_Task | None],
        context: multiprocessing.context.BaseContext,
        memory_mb: int,
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="cmmixer-sandbox", daemon=True)
        self._tasks, self._context, self._memory_mb = tasks, context, memory_mb
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._aborted = False

    def abort(self) -> None:
        """Kills the process, whatever it is doing; called from another thread."""
        with _PROCESS_LOCK:
            self._aborted = True
            if self._process is not None:
                self._process.kill()

    def _run(self) -> None:
        """Works through the queue until it yields None."""
        while (task := self._tasks.get()) is not None:
            if task.future.set_running_or_notify_cancel():
                self._complete(task)
            del task  # or the last item would stay in memory until the next one arrives
        self._end_process(kill=True)

    def _complete(self, task: _Task) -> None:
        try:
            result = self._call_with_retry(task)
        except BaseException as error:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _call_with_retry(self, task: _Task) -> Any:
        try:
            return self._call(task)
        except _DiedError as died:
            if died.exit_code not in _KILLED_FROM_OUTSIDE or self._aborted:
                raise
            return self._call(task)

    def _call(self, task: _Task) -> Any:
        try:
            pipe = self._ready_pipe()
            pipe.send((task.function, task.item))
            in_time = pipe.poll(task.seconds)
            result, error = pipe.recv() if in_time else (None, TimeoutError())
        except (EOFError, OSError) as lost:
            raise _DiedError(self._end_process(kill=False)) from lost
        if not in_time:
            self._end_process(kill=True)
        if error is not None:
            raise error
        return result

    def _ready_pipe(self) -> Connection:
        """Returns the pipe to the process; starts the process if there is none."""
        if self._pipe is None:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, self._memory_mb), daemon=True)  # type: ignore[attr-defined]
            # Afterwards only the process holds its end of the pipe, so its death is noticed at once.
            with theirs, _PROCESS_LOCK:
                if self._aborted:
                    raise _DiedError(None)
                _start(process)
                self._process, self._pipe = process, ours
            # Time spent on imports does not count towards the item's limit.
            ours.recv()
        return self._pipe

    def _end_process(self, *, kill: bool) -> int | None:
        """Makes sure that the process has ended; returns its exit code."""
        with _PROCESS_LOCK:
            process, self._process = self._process, None
            if process is None:
                return None
            if not kill:  # its pipe is closed, so it is about to exit
                process.join(_EXIT_SECONDS)
            process.kill()
            process.join()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        return process.exitcode


def _start(process: BaseProcess) -> None:
    """Starts a process. If the server that forks the processes was just killed, waits until a new one takes its place."""
    for _ in range(_START_ATTEMPTS):
        try:
            with _hidden_main_module():
                process.start()
            return
        except (EOFError, OSError) as error:
            lost = error
            time.sleep(_START_SECONDS)
    raise _DiedError(_KILLED_FROM_OUTSIDE[-1]) from lost


def _serve(pipe: Connection, memory_mb: int) -> None:
    """Main loop of a sandbox process: answers one call after another until the other end closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    if memory_mb:
        _limit_memory(memory_mb)
    with suppress(EOFError, ConnectionError):
        pipe.send("ready")
        while True:
            function, item = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = (function(item), None)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = (None, error)
            try:
                pipe.send(answer)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                pipe.send((None, error))
            del function, item, answer


def _limit_memory(memory_mb: int) -> None:
    """Limits the memory of this process: code that asks for more gets a MemoryError or crashes; other processes are safe."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Keeps a new process from importing the caller's script, which multiprocessing would run again.

    So a script may embed files without the guard `if __name__ == "__main__":`. The functions that run here are never the
    script's own.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _process_context(function: Callable[..., object]) -> multiprocessing.context.BaseContext:
    """Returns a context whose processes are forked from a clean server, which imports the function's module once for all.

    Forking this process itself is not safe once libraries have started threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmmixer.media.decode", function.__module__])
    return context


def _wait(future: Future[Any], check_cancelled: Callable[[], None] | None) -> None:
    """Waits for a future, but only if there is something to check meanwhile; `_outcome` waits anyway."""
    if check_cancelled is None:
        return
    check_cancelled()
    while not wait([future], timeout=_POLL_SECONDS).done:
        check_cancelled()


def _outcome(item: Item, future: Future[Any], seconds_each: float) -> tuple[Item, Any]:
    """Waits for a result; turns failures that a file can cause into MediaError."""
    try:
        return item, future.result()
    except MediaError as error:
        return item, error
    except TimeoutError:
        return item, MediaError(_path_of(item), "time-limit", f"took longer than {seconds_each:g} s")
    except MemoryError:
        return item, MediaError(_path_of(item), "crashed", "ran out of memory")
    except _DiedError as died:
        return item, MediaError(_path_of(item), "crashed", f"the decoder's process died ({died})")


def _path_of(item: object) -> str:
    path = item if isinstance(item, str | Path) else getattr(item, "path", item)
    return str(path)
