"""Minutes of a job over all its goes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from cmmixer.demo import stopwatch
from cmmixer.demo.stopwatch import Goes, took


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_minutes_add_up_over_goes(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "minutes.json"
    with Goes(file) as first, first.timed("prepare"):
        clock.now += 90
    assert took(first.as_json()) == "1.5 minutes"
    with suppress(KeyboardInterrupt), Goes(file) as second, second.timed("pretrain"):
        clock.now += 120
        raise KeyboardInterrupt
    with Goes(file) as third:
        with third.timed("pretrain"):
            clock.now += 60
        with third.timed("prepare"):
            clock.now += 3
    assert third.as_json() == {
        "minutes": {"prepare": 1.55, "pretrain": 3.0, "total": 4.55},
        "goes": 3,
        "goes_killed": 0,
    }
    assert took(third.as_json()) == "4.5 minutes in 3 goes"


def test_a_killed_go_is_told(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "minutes.json"
    killed = Goes(file).__enter__()
    with killed.timed("prepare"):
        clock.now += 60
    assert json.loads(file.read_text())["runs"]
    with Goes(file) as second, second.timed("pretrain"):
        clock.now += 60
    expected = "at least 2.0 minutes in 2 goes (killed: 1, the minutes of the step it was in are not counted)"
    assert took(second.as_json()) == expected
    Goes(file).__enter__()
    with Goes(file) as last:
        pass
    assert (last.count, last.killed) == (4, 2)


def test_a_file_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "minutes.json").write_text("[")
    with Goes(tmp_path / "minutes.json") as only:
        pass
    assert only.as_json() == {"minutes": {"total": 0.0}, "goes": 1, "goes_killed": 0}
