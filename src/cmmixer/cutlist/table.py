"""The same moments as CSV: for a spreadsheet, or a script."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from cmmixer.cutlist.edl import save
from cmmixer.cutlist.moments import Chosen, SourceTiming, source_timing
from cmmixer.cutlist.timecode import FrameRate

COLUMNS = (
    "rank",
    "path",
    "start_seconds",
    "end_seconds",
    "source_in",
    "source_out",
    "query",
    "query_start_seconds",
    "query_end_seconds",
    "query_in",
    "query_out",
    "score",
    "source",
    "label",
)


def write_csv(
    path: str | Path,
    hits: Sequence[Chosen],
    *,
    rate: FrameRate,
    query: str,
    timing: Callable[[str], SourceTiming] = source_timing,
) -> None:
    """Writes moments as a table, one row each; `COLUMNS` heads it. Arguments and errors as `write_edl`."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for hit in hits:
        first = timing(hit.path).first_seconds
        moment = [rate.timecode(rate.frames(first + seconds)) for seconds in (hit.start_seconds, hit.end_seconds)]
        asked = (hit.query_start_seconds, hit.query_end_seconds)
        asked_codes = [rate.timecode(rate.frames(seconds)) for seconds in asked]
        place = [hit.rank, hit.path, f"{hit.start_seconds:.3f}", f"{hit.end_seconds:.3f}", *moment]
        found_by = [query, *(f"{seconds:.3f}" for seconds in asked), *asked_codes]
        rows.writerow([*place, *found_by, f"{hit.score:.4f}", hit.source, hit.label or ""])
    save(Path(path), text.getvalue())
