"""Runs one of the benchmarks of speed by name and stores its figures."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.speed.settings import BenchSettings
from cmmixer.config.base import command_line
from cmmixer.errors import SettingsError
from cmmixer.progress import NoProgress, Progress
from cmmixer.runtime import describe_machine
from cmmixer.storage.files import explain_full_disk, write_atomically

# `module:function`; each takes the settings and a progress, and returns a report.
_SUBJECTS = {
    "data": "benchmarks.speed.data:bench_data",
    "embed": "benchmarks.speed.embed:bench_embed",
    "search": "benchmarks.speed.search:bench_search",
    "step": "benchmarks.speed.step:bench_step",
}


@dataclass(frozen=True)
class BenchReport:
    """The figures of a benchmark.

    Attributes:
        figures: all figures, as JSON values.
        title: of the table.
        header, rows: of the table.
    """

    figures: dict[str, Any]
    title: str
    header: list[str]
    rows: list[list[str]]

    def as_json(self) -> dict[str, Any]:
        return self.figures

    def render(self) -> Table:
        """Returns the table."""
        table = Table(title=Text(self.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


def bench(settings: BenchSettings, progress: Progress | None = None) -> BenchReport:
    """Runs the benchmark `settings.what` on this machine.

    Raises:
        SettingsError: a library of the extra `bench` is not installed.
        InputError: `out` or `folder` cannot be written.
    """
    module, name = _SUBJECTS[settings.what].split(":")
    try:
        function: Callable[[BenchSettings, Progress], BenchReport] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("cmmixer", "benchmarks")):
            raise
        raise SettingsError(
            f"benchmarks.speed {settings.what} needs {error.name}, which is not installed; pip install 'cmmixer[bench]'"
        ) from error
    report = function(settings, progress or NoProgress())
    report.figures.update(
        command=_command(settings),
        machine=describe_machine(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    if settings.out is not None:
        out = Path(settings.out)
        with explain_full_disk(out, SettingsError):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, json.dumps(report.figures, indent=1) + "\n")
    return report


def _command(settings: BenchSettings) -> str:
    flags = command_line("bench", settings).removeprefix("cmmixer bench").replace(f" --what {settings.what}", "")
    return f"python -m benchmarks.speed {settings.what}{flags}"
