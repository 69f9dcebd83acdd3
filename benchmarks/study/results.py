"""The stored rows of the study: one JSON file per cell and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmmixer.errors import InputError

# Incremented when the same cell would give different figures; a table has rows of one version only.
STUDY_VERSION = 1
RESULTS = Path(__file__).resolve().parents[1] / "results" / "study"


def row_path(results: Path, budget: str, regime: str, cell: str, seed: int) -> Path:
    """Returns the path of a row."""
    return results / budget / f"{regime}-{cell}-seed-{seed}.json"


def load_rows(results: Path, budget: str) -> list[dict[str, Any]]:
    """Loads all rows of a budget, sorted by file name."""
    return [_read(file) for file in sorted((results / budget).glob("*.json"))]


def check_versions(results: Path) -> None:
    """Refuses a folder with rows of another version of the study.

    Raises:
        InputError: with the path of one of them, and their number.
    """
    others = [file for file in sorted(results.glob("*/*.json")) if _read(file).get("study_version") != STUDY_VERSION]
    if others:
        raise InputError(
            f"{others[0]}: got a row of study version {_read(others[0]).get('study_version')}, expected version {STUDY_VERSION} "
            f"({len(others)} such rows); move them away or give another --results"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        row = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not a row of the study ({error}); remove it and run the cell again") from error
    if not isinstance(row, dict):
        raise InputError(f"{file}: not a row of the study; remove it and run the cell again")
    return row
