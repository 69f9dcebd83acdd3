"""A function over many files in processes that may hang or die: the run goes on, and each file is answered for.

FFmpeg is C that eats what strangers wrote. A file that makes it loop costs `seconds_each`; one that kills the process costs
that process. A process that is killed from outside, as by the system when memory runs out, costs nothing but time: its file is
tried once more.

Every process has a pipe of its own. Pools whose processes share one (multiprocessing's, concurrent.futures', pebble's) share its
locks too, and a process that is killed while it holds one keeps all others waiting.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import resource
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from cmmixer.errors import MediaError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no worker waits for the next item while results are taken in order.
_QUEUED_PER_WORKER = 4
# How long somebody who wants to stop waits at most.
_LOOK_SECONDS = 0.5
# Exit codes that a file cannot bring about: killed, ended, or out of sight because the server that forked it was killed.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, 255)
# multiprocessing looks at all of its processes when it starts one, and two threads must not read the same exit code.
_STARTING = threading.Lock()
_END_SECONDS = 5.0


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
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        context = _context(function)
        self._members = [_Member(self._orders, context, memory_mb) for _ in range(self.workers)]
        self._lock = threading.Lock()
        self._started = self._closed = False

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
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if not self._started:
                self._started = True
                for member in self._members:
                    member.thread.start()
            self._orders.put(_Order(function, item, seconds, future))
        return future

    def close(self) -> None:
        """Ends the processes; what still runs is given up."""
        with self._lock:
            self._closed = True
            with suppress(queue.Empty):
                while True:
                    order = self._orders.get_nowait()
                    if order is not None:
                        order.future.cancel()
            for _ in self._members:
                self._orders.put(None)
        if self._started:
            for member in self._members:
                member.give_up()
            for member in self._members:
                member.thread.join()


@dataclass(frozen=True)
class _Order:
    function: Callable[[Any], Any]
    item: Any
    seconds: float
    future: Future[Any]


class _DiedError(Exception):
    """A process ended while it worked; carries its exit code."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class _Member:
    """One process of a pool, started when it is needed and again when it has died, and the thread that hands it work."""

    def __init__(
        self,
        orders: queue.SimpleQueue[_Order | None],
        context: multiprocessing.context.BaseContext,
        memory_mb: int,
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="cmmixer-isolated", daemon=True)
        self._orders, self._context, self._memory_mb = orders, context, memory_mb
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._given_up = False

    def _run(self) -> None:
        """Works off the queue until it holds None."""
        while (order := self._orders.get()) is not None:
            if order.future.set_running_or_notify_cancel():
                self._answer(order)
            del order  # or the last item would live until the next one comes
        self._end(kill=True)

    def _answer(self, order: _Order) -> None:
        try:
            result = self._result(order)
        except BaseException as fault:
            order.future.set_exception(fault)
        else:
            order.future.set_result(result)

    def give_up(self) -> None:
        """Ends the process, whatever it does; called from another thread."""
        with _STARTING:
            self._given_up = True
            if self._process is not None:
                self._process.kill()

    def _result(self, order: _Order) -> Any:
        try:
            return self._ask(order)
        except _DiedError as died:
            if died.exit_code not in _FROM_OUTSIDE or self._given_up:
                raise
            return self._ask(order)

    def _ask(self, order: _Order) -> Any:
        try:
            pipe = self._ready_pipe()
            pipe.send((order.function, order.item))
            in_time = pipe.poll(order.seconds)
            result, fault = pipe.recv() if in_time else (None, TimeoutError())
        except (EOFError, OSError) as lost:
            raise _DiedError(self._end(kill=False)) from lost
        if not in_time:
            self._end(kill=True)
        if fault is not None:
            raise fault
        return result

    def _ready_pipe(self) -> Connection:
        """The pipe to the process, which is started if there is none."""
        if self._pipe is None:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs, self._memory_mb), daemon=True)  # type: ignore[attr-defined]
            # Afterwards only the process holds its end, so that its death shows at once.
            with theirs, _STARTING:
                if self._given_up:
                    raise _DiedError(None)
                try:
                    process.start()
                # The server that forks them was killed; there is a new one next time.
                except (EOFError, OSError) as lost:
                    raise _DiedError(_FROM_OUTSIDE[-1]) from lost
                self._process, self._pipe = process, ours
            # What it imports first is not the item's time.
            ours.recv()
        return self._pipe

    def _end(self, *, kill: bool) -> int | None:
        """Sees to it that the process has ended; returns its exit code."""
        with _STARTING:
            process, self._process = self._process, None
            if process is None:
                return None
            if not kill:  # its pipe is closed, so it is about to end
                process.join(_END_SECONDS)
            process.kill()
            process.join()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        return process.exitcode


def _work(orders: Connection, memory_mb: int) -> None:
    """What a process does: answers one order after the other until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    if memory_mb:
        _limit_memory(memory_mb)
    with suppress(EOFError, ConnectionError):
        orders.send("ready")
        while True:
            function, item = orders.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = (function(item), None)
            except Exception as fault:
                fault.add_note(traceback.format_exc())
                answer = (None, fault)
            try:
                orders.send(answer)
            except (pickle.PicklingError, AttributeError, TypeError) as fault:
                orders.send((None, fault))
            del function, item, answer


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
    except MemoryError:
        return item, MediaError(_path_of(item), "crashed", "ran out of memory")
    except _DiedError as died:
        told = f"the decoder's process died ({died})"
        return item, MediaError(_path_of(item), "crashed", told)


def _path_of(item: object) -> str:
    path = item if isinstance(item, str | Path) else getattr(item, "path", item)
    return str(path)
