"""Files that hang or kill their process cost themselves only."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmmixer.errors import MediaError
from cmmixer.media.isolate import map_isolated, worker_count
from tests.media.jobs import work


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
