"""A function over many files in processes that may hang or die: the run goes on, and each file is answered for.

FFmpeg is C that eats what strangers wrote. A file that makes it loop costs `seconds_each`; one that kills the process costs
that process.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from cmmixer.errors import MediaError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no worker waits for the next item while results are taken in order.
_QUEUED_PER_WORKER = 4
# How long somebody who wants to stop waits at most.
_LOOK_SECONDS = 0.5


def worker_count(workers: int) -> int:
    """The number asked for; 0 means every core this process may use."""
    return workers if workers > 0 else len(os.sched_getaffinity(0))


def map_isolated(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    seconds_each: float = 60.0,
    pool: IsolatedPool | None = None,
    going_on: Callable[[], None] | None = None,
) -> Iterator[tuple[Item, Result | MediaError]]:
    """`function(item)` for each item in other processes, results in the order of the items.

    Args:
        function: importable by name (defined at a module's top level); should raise MediaError for files it cannot use.
        items: paths, or values with a `path`; taken as they are needed, so the iterable may be endless.
        workers: processes; 0 takes every core.
        seconds_each: an item that takes longer is given up and its process ended.
        pool: processes that are there already, instead of new ones for these items.
        going_on: called at every result, and every so often while there is none; what it raises ends the work at once.

    Yields:
        (item, result), or (item, MediaError): the one raised, or `time-limit`, or `crashed`.

    Raises:
        Exception: any error of `function` other than MediaError; it is a fault of the program.
    """
    waiting: deque[tuple[Item, Future[Any]]] = deque()
    remaining = iter(items)
    used = IsolatedPool(function, workers=workers) if pool is None else pool
    try:
        for item in remaining:
            waiting.append((item, used.schedule(function, item, seconds_each)))
            if len(waiting) >= used.workers * _QUEUED_PER_WORKER:
                _await(waiting[0][1], going_on)
                yield _answer(*waiting.popleft(), seconds_each)
        while waiting:
            _await(waiting[0][1], going_on)
            yield _answer(*waiting.popleft(), seconds_each)
    finally:
        # A consumer that stops early leaves tasks behind; they are ended, not waited for.
        for _, future in waiting:
            future.cancel()
        if pool is None:
            used.close()


class IsolatedPool:
    """The processes themselves, for those who need them now and then: they stay, and one that dies is replaced."""

    def __init__(self, function: Callable[..., object], *, workers: int = 1, memory_mb: int = 0) -> None:
        """Starts nothing yet; the first task does.

        Args:
            function: names the module that the processes import beforehand; they take any function.
            workers: processes; 0 takes every core.
            memory_mb: most memory (address space) of a process; 0 sets no limit.
        """
        self.workers = worker_count(workers)
        self._options: dict[str, Any] = {"max_workers": self.workers, "context": _context(function)}
        if memory_mb:
            self._options |= {"initializer": _limit_memory, "initargs": (memory_mb,)}
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ProcessPool(**self._options)

    def run(self, function: Callable[[Item], Result], item: Item, *, seconds: float) -> Result:
        """`function(item)` in one of the processes; waits for it.

        Raises:
            MediaError: the one raised, or `time-limit`, or `crashed`.
        """
        result: Result | MediaError = _answer(item, self.schedule(function, item, seconds), seconds)[1]
        if isinstance(result, MediaError):
            raise result
        return result

    def schedule(self, function: Callable[[Item], Result], item: Item, seconds: float) -> Future[Result]:
        """Queues `function(item)`; it is ended when it takes longer than this.

        Raises:
            RuntimeError: the pool was closed.
        """
        with self._lock:
            # A process that is killed while it waits for work takes the whole pool with it; a new one is soon made.
            if not self._pool.active and not self._closed:
                self._pool.stop()
                self._pool.join()
                self._pool = ProcessPool(**self._options)
            future: Future[Result] = self._pool.schedule(function, args=(item,), timeout=seconds)
        return future

    def close(self) -> None:
        """Ends the processes; what still runs is given up."""
        self._closed = True
        self._pool.stop()
        self._pool.join()


def _limit_memory(memory_mb: int) -> None:
    """Runs in a new process: what asks for more gets a MemoryError, or dies, and the service's memory is left alone."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


def _context(function: Callable[..., object]) -> multiprocessing.context.BaseContext:
    """Processes forked from a clean server, which imports the function's module once for all of them.

    Forking this process itself is not safe once libraries have started threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmmixer.media.decode", function.__module__])
    return context


def _await(future: Future[Any], going_on: Callable[[], None] | None) -> None:
    if going_on is None:
        return
    going_on()
    while not wait([future], timeout=_LOOK_SECONDS).done:
        going_on()


def _answer(item: Item, future: Future[Any], seconds_each: float) -> tuple[Item, Any]:
    try:
        return item, future.result()
    except MediaError as error:
        return item, error
    except TimeoutError:
        return item, MediaError(_path_of(item), "time-limit", f"took longer than {seconds_each:g} s")
    except (ProcessExpired, BrokenProcessPool, MemoryError) as error:
        code = getattr(error, "exitcode", None)
        told = (
            "ran out of memory" if isinstance(error, MemoryError) else f"the decoder's process died (exit code {code})"
        )
        return item, MediaError(_path_of(item), "crashed", told)


def _path_of(item: object) -> str:
    path = item if isinstance(item, str | Path) else getattr(item, "path", item)
    return str(path)
