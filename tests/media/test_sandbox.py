"""Files that hang or kill their process cost themselves only."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmmixer.errors import MediaError
from cmmixer.media.sandbox import IsolatedPool, map_isolated, worker_count
from tests.support.sandbox_jobs import work


def test_every_item_is_answered_in_order() -> None:
    items = ["a", "hang", "die", "refuse", "b", "c"]
    answers = list(map_isolated(work, items, workers=2, seconds_each=2.0))
    assert [item for item, _ in answers] == items
    results = [answer for _, answer in answers]
    assert results[0] == "aa"
    assert results[4:] == ["bb", "cc"]
    hang, died, refused = results[1:4]
    assert isinstance(hang, MediaError)
    assert (hang.path, hang.reason, hang.message) == ("hang", "time-limit", "took longer than 2 s")
    assert isinstance(died, MediaError)
    assert (died.reason, died.message) == ("crashed", "the decoder's process died (exit code 3)")
    assert isinstance(refused, MediaError)
    assert (refused.path, refused.reason, refused.message) == ("refuse", "silent", "not a sound")


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_isolated(work, [Path("fault")], workers=1))


def test_items_are_taken_as_needed_and_stopping_early_waits_for_nothing() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for _ in itertools.count():
            taken += 1
            yield "slow"

    started = time.monotonic()
    answers = map_isolated(work, endless(), workers=1, seconds_each=30.0)
    assert next(answers)[1] == "slowslow"
    answers.close()
    assert taken <= 8
    assert time.monotonic() - started < 10.0


def test_zero_workers_means_every_core() -> None:
    assert worker_count(3) == 3
    assert worker_count(0) >= 1


def test_a_standing_pool_outlives_its_processes() -> None:
    pool = IsolatedPool(work, workers=1, memory_mb=1500)
    try:
        first = pool.run(work, "who", seconds=30.0)
        assert pool.run(work, "who", seconds=30.0) == first  # the same process again
        for item, reason, told in (
            ("die", "crashed", "exit code 3"),
            ("hang", "time-limit", "took longer than 1 s"),
            ("hoard", "crashed", "ran out of memory"),
            ("refuse", "silent", "not a sound"),
        ):
            with pytest.raises(MediaError, match=told) as refused:
                pool.run(work, item, seconds=1.0 if item == "hang" else 30.0)
            assert refused.value.reason == reason
        # Killed while it waits for work, as by the system when memory runs out.
        os.kill(int(pool.run(work, "who", seconds=30.0)), signal.SIGKILL)
        assert dict(map_isolated(work, ["a"], pool=pool)) == {"a": "aa"}
        assert dict(map_isolated(work, ["b", "c"], pool=pool)) == {"b": "bb", "c": "cc"}
        assert pool.run(work, "c", seconds=30.0) == "cc"  # borrowed, not closed
    finally:
        pool.close()
    with pytest.raises(RuntimeError):
        pool.run(work, "a", seconds=30.0)


def test_a_process_that_is_killed_from_outside_costs_no_item(tmp_path: Path) -> None:
    items = ["a", f"killed once {tmp_path / 'one'}", "b", "slow", f"killed once {tmp_path / 'two'}", "c"]
    answers = list(map_isolated(work, items, workers=2, seconds_each=20.0))
    assert answers == [(item, item * 2) for item in items]


def test_an_item_whose_process_is_killed_again_and_again_is_given_up() -> None:
    answers = dict(map_isolated(work, ["a", "killed", "b", "c"], workers=2, seconds_each=20.0))
    killed = answers.pop("killed")
    assert isinstance(killed, MediaError)
    assert (killed.reason, killed.message) == ("crashed", "the decoder's process died (exit code -9)")
    assert answers == {"a": "aa", "b": "bb", "c": "cc"}


def test_killed_while_they_wait_for_work() -> None:
    # Pools whose processes share a pipe wait for its lock for ever, or lose what is queued.
    pool = IsolatedPool(work, workers=3)
    try:
        for _ in range(3):
            at_work = {future.result() for future in [pool.schedule(work, "who", 20.0) for _ in range(9)]}
            os.kill(int(at_work.pop()), signal.SIGKILL)
            assert [answer for _, answer in map_isolated(work, list("abcdefg"), pool=pool)] == [
                letter * 2 for letter in "abcdefg"
            ]
    finally:
        pool.close()


def test_the_server_that_forks_them_may_be_killed_too() -> None:
    pool = IsolatedPool(work, workers=1)
    try:
        server = int(pool.run(work, "server", seconds=20.0))
        os.kill(server, signal.SIGKILL)
        assert pool.run(work, "a", seconds=20.0) == "aa"
        os.kill(int(pool.run(work, "who", seconds=20.0)), signal.SIGKILL)
        assert pool.run(work, "b", seconds=20.0) == "bb"
        assert int(pool.run(work, "server", seconds=20.0)) != server
    finally:
        pool.close()


def test_closing_gives_up_what_runs_and_what_waits() -> None:
    pool = IsolatedPool(work, workers=1)
    running, waiting = pool.schedule(work, "hang", 60.0), pool.schedule(work, "a", 60.0)
    while not running.running():
        time.sleep(0.01)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10.0
    assert waiting.cancelled()
    assert running.exception() is not None


def test_a_result_that_cannot_be_sent_is_a_fault_of_ours() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        list(map_isolated(work, ["no pickle"], workers=1))
