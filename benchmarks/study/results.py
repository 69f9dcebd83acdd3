"""Stored rows of studies: one JSON file for each cell and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmmixer.errors import InputError

# Goes up whenever the same cell would give other figures; rows of different versions do not stand in one table.
STUDY_VERSION = 1
RESULTS = Path(__file__).resolve().parents[1] / "results" / "study"


def path_of(results: Path, budget: str, regime: str, cell: str, seed: int) -> Path:
    """Where a cell's row lies."""
    return results / budget / f"{regime}-{cell}-seed-{seed}.json"


def stored(results: Path, budget: str) -> list[dict[str, Any]]:
    """All rows of a budget."""
    return [_read(file) for file in sorted((results / budget).glob("*.json"))]


def check_versions(results: Path) -> None:
    """Refuses a folder with rows of another version of the study.

    Raises:
        InputError: names one of them, and how many there are.
    """
    others = [file for file in sorted(results.glob("*/*.json")) if _read(file).get("study_version") != STUDY_VERSION]
    if others:
        raise InputError(
            f"{others[0]}: a row of study version {_read(others[0]).get('study_version')}, this is version {STUDY_VERSION} "
            f"({len(others)} such rows); move them away or give another --results"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        row = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not a row of a study ({error}); remove it and run the cell again") from error
    if not isinstance(row, dict):
        raise InputError(f"{file}: not a row of a study; remove it and run the cell again")
    return row
