"""docs/inspect.md matches the stored results."""

from __future__ import annotations

import json

from benchmarks.inspection import DISTANCES, DOCUMENT, RESULT, SHEET, document


def test_inspection_document_matches_stored_results() -> None:
    result = json.loads(RESULT.read_text())
    assert DOCUMENT.read_text() == document(result)
    assert SHEET.read_bytes().startswith(b"\x89PNG")
    assert result["synthetic"]["separated_covered_db"] < result["synthetic"]["mixed_covered_db"]
    assert all(set(DISTANCES) <= set(distances) for distances in result["real"].values())
