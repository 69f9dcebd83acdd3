"""Progress: the silent listener, and one that stops the work."""

from __future__ import annotations

import pytest

from cmmixer.progress import NoProgress, Progress


def work(progress: Progress) -> int:
    """A piece of work in two parts, the second of unknown length."""
    progress.start(3, "first part")
    for _ in range(3):
        progress.advance()
    progress.message("half done")
    progress.start(None, "second part")
    progress.advance(0)
    progress.advance(2)
    return 5


def test_no_progress_ignores_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert work(NoProgress()) == 5
    assert capsys.readouterr() == ("", "")


def test_any_class_with_the_methods_is_a_listener() -> None:
    class Listener:
        def __init__(self) -> None:
            self.calls: list[object] = []

        def start(self, total: int | None, what: str) -> None:
            self.calls.append((total, what))

        def advance(self, steps: int = 1) -> None:
            self.calls.append(steps)

        def message(self, text: str) -> None:
            self.calls.append(text)

    listener = Listener()
    assert work(listener) == 5
    assert listener.calls == [(3, "first part"), 1, 1, 1, "half done", (None, "second part"), 0, 2]


def test_exception_of_a_listener_stops_the_work() -> None:
    class Stop(NoProgress):
        def message(self, text: str) -> None:
            raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="half done"):
        work(Stop())
