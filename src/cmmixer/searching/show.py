"""Hits and timelines on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from cmmixer.searching.hits import Hit
from cmmixer.searching.timeline import Match


def hits_table(title: str, hits: Sequence[Hit], moments: int) -> Table:
    """The hits, best first; times as minutes:seconds."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (
        ("#", "right"),
        ("score", "right"),
        ("moment", "right"),
        ("file", "left"),
        ("query at", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "file")  # type: ignore[arg-type]
    for hit in hits:
        # Text, not markup: a file may be called [red].mp4.
        file = Text(_short_path(hit.path))
        if hit.missing:
            file.append(" (missing)", style="red")
        moment = f"{show_seconds(hit.start_seconds)} – {show_seconds(hit.end_seconds)}"
        table.add_row(str(hit.rank), f"{hit.score:.3f}", moment, file, show_seconds(hit.query_start_seconds))
    if not hits:
        table.caption = Text(f"nothing found among {moments} moments")
    return table


def show_seconds(seconds: float) -> str:
    """Minutes, seconds and tenths, 75.25 -> 1:15.2."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _short_path(path: str) -> str:
    """Seen from the current folder where the file is inside it."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def timeline_table(matches: Sequence[Match]) -> Table:
    """Stretches of the query in its order, and what goes with each."""
    table = Table(
        title=Text("what goes with which part"), title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name, justify in (("query", "right"), ("score", "right"), ("moment", "right"), ("file", "left")):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "file")  # type: ignore[arg-type]
    for match in matches:
        table.add_row(
            f"{show_seconds(match.query_start_seconds)} – {show_seconds(match.query_end_seconds)}",
            f"{match.score:.3f}",
            f"{show_seconds(match.start_seconds)} – {show_seconds(match.end_seconds)}",
            Text(_short_path(match.path)),
        )
    return table
