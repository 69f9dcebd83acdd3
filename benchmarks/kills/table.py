"""docs/kills.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kills.md"


def document(rows: dict[str, Any]) -> str:
    """The text."""
    return ""
