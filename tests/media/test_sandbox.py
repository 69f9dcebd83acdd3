"""Items that hang or crash their process cost only themselves."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmmixer.errors import MediaError
from cmmixer.media import sandbox
from cmmixer.media.sandbox import SandboxPool, map_sandboxed, worker_count
from tests.support.sandbox_jobs import work


def test_results_are_in_the_order_of_the_items() -> None:
    items = ["a", "hang", "die", "refuse", "b", "c"]
    answers = list(map_sandboxed(work, items, workers=2, seconds_each=1.0))
    assert [item for item, _ in answers] == items
    results = [answer for _, answer in answers]
    assert results[0] == "aa"
    assert results[4:] == ["bb", "cc"]
    hang, died, refused = results[1:4]
    assert isinstance(hang, MediaError)
    assert (hang.path, hang.reason, hang.message) == ("hang", "time-limit", "took longer than 1 s")
    assert isinstance(died, MediaError)
    assert (died.reason, died.message) == ("crashed", "the decoder's process died (exit code 3)")
    assert isinstance(refused, MediaError)
    assert (refused.path, refused.reason, refused.message) == ("refuse", "silent", "not a sound")


def test_other_exceptions_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_sandboxed(work, [Path("bug")], workers=1))


def test_items_are_read_lazily_and_stopping_early_waits_for_nothing() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for _ in itertools.count():
            taken += 1
            yield "slow"

    started = time.monotonic()
    answers = map_sandboxed(work, endless(), workers=1, seconds_each=30.0)
    assert next(answers)[1] == "slowslow"
    answers.close()
    assert taken <= 8
    assert time.monotonic() - started < 10.0


def test_zero_workers_means_every_core() -> None:
    assert worker_count(3) == 3
    assert worker_count(0) >= 1


def test_a_pool_outlives_its_processes() -> None:
    pool = SandboxPool(work, workers=1, memory_mb=1500)
    try:
        first = pool.run(work, "who", seconds=30.0)
        assert pool.run(work, "who", seconds=30.0) == first  # the same process again
        for item, reason, message in (
            ("die", "crashed", "exit code 3"),
            ("hang", "time-limit", "took longer than 1 s"),
            ("hoard", "crashed", "ran out of memory"),
            ("refuse", "silent", "not a sound"),
        ):
            with pytest.raises(MediaError, match=message) as refused:
                pool.run(work, item, seconds=1.0 if item == "hang" else 30.0)
            assert refused.value.reason == reason
        # Killed while it waits for work, for instance by the system when memory runs out.
        os.kill(int(pool.run(work, "who", seconds=30.0)), signal.SIGKILL)
        assert dict(map_sandboxed(work, ["a"], pool=pool)) == {"a": "aa"}
        assert dict(map_sandboxed(work, ["b", "c"], pool=pool)) == {"b": "bb", "c": "cc"}
        assert pool.run(work, "c", seconds=30.0) == "cc"  # borrowed, not closed
    finally:
        pool.close()
    with pytest.raises(RuntimeError):
        pool.run(work, "a", seconds=30.0)


def test_an_item_whose_process_is_killed_once_is_retried(tmp_path: Path) -> None:
    items = ["a", f"killed once {tmp_path / 'one'}", "b", "slow", f"killed once {tmp_path / 'two'}", "c"]
    answers = list(map_sandboxed(work, items, workers=2, seconds_each=20.0))
    assert answers == [(item, item * 2) for item in items]


def test_an_item_whose_process_is_killed_twice_fails() -> None:
    answers = dict(map_sandboxed(work, ["a", "killed", "b", "c"], workers=2, seconds_each=20.0))
    killed = answers.pop("killed")
    assert isinstance(killed, MediaError)
    assert (killed.reason, killed.message) == ("crashed", "the decoder's process died (exit code -9)")
    assert answers == {"a": "aa", "b": "bb", "c": "cc"}


def test_processes_killed_while_idle_are_replaced() -> None:
    # Pools whose processes share a pipe would wait for its lock forever, or lose what is queued.
    pool = SandboxPool(work, workers=3)
    try:
        for _ in range(3):
            processes = {future.result() for future in [pool.schedule(work, "who", 20.0) for _ in range(9)]}
            os.kill(int(processes.pop()), signal.SIGKILL)
            assert [answer for _, answer in map_sandboxed(work, list("abcdefg"), pool=pool)] == [
                letter * 2 for letter in "abcdefg"
            ]
    finally:
        pool.close()


def test_the_fork_server_may_be_killed_too() -> None:
    pool = SandboxPool(work, workers=1)
    try:
        server = int(pool.run(work, "server", seconds=20.0))
        os.kill(server, signal.SIGKILL)
        assert pool.run(work, "a", seconds=20.0) == "aa"
        os.kill(int(pool.run(work, "who", seconds=20.0)), signal.SIGKILL)
        assert pool.run(work, "b", seconds=20.0) == "bb"
        assert int(pool.run(work, "server", seconds=20.0)) != server
    finally:
        pool.close()


def test_close_abandons_running_and_queued_tasks() -> None:
    pool = SandboxPool(work, workers=1)
    running, waiting = pool.schedule(work, "hang", 60.0), pool.schedule(work, "a", 60.0)
    while not running.running():
        time.sleep(0.01)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10.0
    assert waiting.cancelled()
    assert running.exception() is not None


def test_a_result_that_cannot_be_pickled_is_raised() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        list(map_sandboxed(work, ["no pickle"], workers=1))


class CancelledError(Exception):
    pass


def test_a_cancelled_map_stops_at_once() -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise CancelledError

    started = time.monotonic()
    with pytest.raises(CancelledError):
        list(map_sandboxed(work, ["a", "hang", "b"], workers=1, seconds_each=60.0, check_cancelled=check))
    assert checks == 3
    assert time.monotonic() - started < 10.0


def test_cancelling_leaves_a_borrowed_pool_usable() -> None:
    def check() -> None:
        raise CancelledError

    pool = SandboxPool(work, workers=1)
    try:
        with pytest.raises(CancelledError):
            list(map_sandboxed(work, ["slow", "a", "b"], pool=pool, check_cancelled=check))
        assert pool.run(work, "c", seconds=20.0) == "cc"
    finally:
        pool.close()


def test_no_items_start_no_process() -> None:
    pool = SandboxPool(work, workers=2)
    assert list(map_sandboxed(work, [], pool=pool)) == []
    assert not any(worker.thread.is_alive() for worker in pool._workers)
    pool.close()
    with pytest.raises(RuntimeError, match=r"^the pool is closed$"):
        pool.schedule(work, "a", 1.0)


def test_errors_carry_the_traceback_of_the_process() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_sandboxed(work, [Path("bug")], workers=1))
    (note,) = caught.value.__notes__
    assert "in work" in note
    assert note.startswith("Traceback")


@dataclass(frozen=True)
class Named:
    path: str


@pytest.mark.parametrize(
    ("item", "path"), [("a.mp4", "a.mp4"), (Path("b.mp4"), "b.mp4"), (Named("c.mp4"), "c.mp4"), (7, "7")]
)
def test_errors_name_the_path_of_an_item(item: object, path: str) -> None:
    future: Future[object] = Future()
    future.set_exception(TimeoutError())
    _, error = sandbox._outcome(item, future, 1.5)
    assert (error.path, error.reason, error.message) == (path, "time-limit", "took longer than 1.5 s")


class FlakyProcess:
    """A process that cannot be started for a while, as after the fork server was killed."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.started = False

    def start(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError
        self.started = True


def test_starting_a_process_waits_for_a_new_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_START_SECONDS", 0.0)
    process = FlakyProcess(failures=3)
    sandbox._start(process)  # type: ignore[arg-type]
    assert process.started
    with pytest.raises(sandbox._DiedError, match=r"^exit code 255$"):
        sandbox._start(FlakyProcess(failures=1000))  # type: ignore[arg-type]


def test_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from cmmixer.media.sandbox import map_sandboxed\n"
        "from tests.support.sandbox_jobs import work\n"
        "print(dict(map_sandboxed(work, ['a', 'b'], workers=2)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}, timeout=60
    )
    assert (done.stdout, done.returncode) == ("{'a': 'aa', 'b': 'bb'}\n", 0), done.stderr
