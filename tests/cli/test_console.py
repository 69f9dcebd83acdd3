"""Progress bars and printed results."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from cmmixer.cli.console import RichProgress, show


def _on(progress: RichProgress, *, terminal: bool) -> io.StringIO:
    """Redirects the console to a text, as a terminal or not."""
    text = io.StringIO()
    progress.console.file = text
    progress.console._force_terminal = terminal
    progress.console.width = 120
    return text


class TestProgress:
    def test_without_a_terminal_each_task_is_one_line(self) -> None:
        progress = RichProgress(enabled=True)
        text = _on(progress, terminal=False)
        with progress:
            progress.start(3, "reading [x]")
            progress.advance()
            progress.start(None, "writing")
            progress.message("loss 3.1")
        assert text.getvalue() == "reading [x] (3)\nwriting\n"

    def test_other_processes_print_nothing(self) -> None:
        progress = RichProgress(enabled=False)
        text = _on(progress, terminal=True)
        with progress:
            progress.start(3, "reading")
            progress.advance(2)
            progress.message("loss 3.1")
        assert text.getvalue() == ""
        assert progress.task is None

    def test_bars_count_steps_and_show_a_figure(self) -> None:
        progress = RichProgress(enabled=True)
        _on(progress, terminal=False)
        with progress:
            progress.start(10, "training")
            progress.advance()
            progress.advance(3)
            progress.message("loss 3.1")
            (task,) = progress.bars.tasks
            assert (task.completed, task.total, task.description) == (4, 10, "training")
            assert task.fields["figure"] == "loss 3.1"
            progress.start(None, "writing")
            progress.advance(7)
        training, writing = progress.bars.tasks
        assert training.stop_time is not None
        assert (training.completed, training.total) == (4, 10)
        assert (writing.completed, writing.total) == (7, 7)  # its length is known at the end

    def test_a_terminal_shows_the_bar_as_it_ended(self) -> None:
        progress = RichProgress(enabled=True)
        progress.live = True
        text = _on(progress, terminal=True)
        progress.bars.disable = False
        with progress:
            progress.start(2, "training")
            progress.message("loss 3.1")
            progress.advance(2)
        assert "training" in text.getvalue()
        assert "2/2" in text.getvalue()
        assert "loss 3.1" in text.getvalue()

    def test_an_error_leaves_the_bar_where_it_was(self) -> None:
        progress = RichProgress(enabled=True)
        _on(progress, terminal=False)
        progress.start(None, "reading")
        with pytest.raises(ValueError, match="x"), progress:
            raise ValueError("x")
        assert progress.bars.tasks[0].total is None


class Rendered:
    def render(self) -> Any:
        return Text("3 videos, [none] skipped")


class Plain:
    def as_json(self) -> dict[str, object]:
        return {"out": "videos/[a]", "videos_kept": 2, "empty": None}


class TestShow:
    def test_results_that_render_themselves(self, capsys: pytest.CaptureFixture[str]) -> None:
        show(Rendered())
        assert capsys.readouterr().out == "3 videos, [none] skipped\n"

    def test_other_results_are_lines_of_their_values(self, capsys: pytest.CaptureFixture[str]) -> None:
        show(Plain())
        assert capsys.readouterr().out == "out: videos/[a]\nvideos kept: 2\nempty: None\n"


def test_progress_is_written_to_stderr() -> None:
    assert RichProgress(enabled=True).console.stderr
    assert isinstance(RichProgress(enabled=True).console, Console)
