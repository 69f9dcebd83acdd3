"""The stopwatch adds up the minutes of a job over several attempts."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from cmmixer.demo import stopwatch
from cmmixer.demo.stopwatch import Stopwatch, describe_minutes


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_minutes_add_up_over_attempts(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "minutes.json"
    with Stopwatch(file) as first, first.timed("prepare"):
        clock.now += 90
    assert describe_minutes(first.as_json()) == "1.5 minutes"
    with suppress(KeyboardInterrupt), Stopwatch(file) as second, second.timed("pretrain"):
        clock.now += 120
        raise KeyboardInterrupt
    with Stopwatch(file) as third:
        with third.timed("pretrain"):
            clock.now += 60
        with third.timed("prepare"):
            clock.now += 3
    assert third.as_json() == {
        "minutes": {"prepare": 1.55, "pretrain": 3.0, "total": 4.55},
        "attempts": 3,
        "attempts_killed": 0,
    }
    assert describe_minutes(third.as_json()) == "4.5 minutes in 3 attempts"


def test_killed_attempts_are_counted(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "minutes.json"
    killed = Stopwatch(file).__enter__()
    with killed.timed("prepare"):
        clock.now += 60
    assert json.loads(file.read_text())["running"]
    with Stopwatch(file) as second, second.timed("pretrain"):
        clock.now += 60
    expected = "at least 2.0 minutes in 2 attempts (1 killed; the minutes of the interrupted step are not counted)"
    assert describe_minutes(second.as_json()) == expected
    Stopwatch(file).__enter__()
    with Stopwatch(file) as last:
        pass
    assert (last.attempts, last.killed) == (4, 2)


def test_unreadable_file_starts_from_zero(tmp_path: Path) -> None:
    (tmp_path / "minutes.json").write_text("[")
    with Stopwatch(tmp_path / "minutes.json") as only:
        pass
    assert only.as_json() == {"minutes": {"total": 0.0}, "attempts": 1, "attempts_killed": 0}
