"""What docs/inspect.md says is what the stored results say."""

from __future__ import annotations

import json

from benchmarks.inspection import DISTANCES, DOCUMENT, RESULT, SHEET, document


def test_the_document_is_made_from_the_stored_results() -> None:
    result = json.loads(RESULT.read_text())
    assert DOCUMENT.read_text() == document(result)
    assert SHEET.read_bytes().startswith(b"\x89PNG")
    assert result["made_up"]["separated_covered_db"] < result["made_up"]["mixed_covered_db"]
    assert all(set(DISTANCES) <= set(found) for found in result["real"].values())
