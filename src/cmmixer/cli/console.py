"""Terminal output: progress bars while a command runs, and its result."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RichProgress:
    """Progress bars with the time left on a terminal; elsewhere one line for each task."""

    def __init__(self, *, enabled: bool) -> None:
        self.console = Console(stderr=True)
        self.enabled = enabled
        self.live = enabled and self.console.is_terminal
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figure]}"),
            console=self.console,
            disable=not self.live,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> RichProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()
        self.bars.stop()

    def start(self, total: int | None, what: str) -> None:
        """Ends the current bar and starts another."""
        if not self.enabled:
            return
        self._end()
        if not self.live:
            self.console.print(what if total is None else f"{what} ({total})", highlight=False, markup=False)
        self.task = self.bars.add_task(what, total=total, figure="")

    def advance(self, steps: int = 1) -> None:
        """Advances the bar."""
        if self.task is not None:
            self.bars.advance(self.task, steps)

    def message(self, text: str) -> None:
        """Shows a figure beside the bar."""
        if self.task is not None:
            self.bars.update(self.task, figure=text)

    def _end(self) -> None:
        if self.task is not None:
            task = self.bars.tasks[self.bars.task_ids.index(self.task)]
            self.bars.update(
                self.task, total=task.completed if task.total is None else task.total, figure=task.fields["figure"]
            )
            self.bars.stop_task(self.task)
            self.task = None


def show(result: Any) -> None:
    """Prints a result: what its `render` returns, or its JSON values line by line."""
    console = Console()
    if hasattr(result, "render"):
        console.print(result.render(), highlight=False)
        return
    for name, value in result.as_json().items():
        console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, markup=False)
