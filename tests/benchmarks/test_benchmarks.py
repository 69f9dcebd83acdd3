"""What the README says was measured is what stands in the stored results."""

from __future__ import annotations

import json

from benchmarks import steps
from benchmarks.quickstart_seeds import README, results, table, with_table


def test_the_readme_s_table_is_made_from_the_stored_results() -> None:
    rows = results()
    assert len(rows) >= 3
    assert README.read_text() == with_table(README.read_text(), table(rows))


def test_the_quickstart_s_target_holds_for_every_seed() -> None:
    for row in results():
        for way in ("video_to_audio", "audio_to_video"):
            assert row[way]["R@1"] >= 60 * row["chance"]["R@1"]
            low, high = 0.0, 4 * row["chance"]["R@1"]
            assert low <= row["shuffled_pairs"][way]["R@1"] <= high
        assert row["candidates"] == 200
        assert row["minutes"]["total"] <= 10


def test_the_document_of_steps_is_made_from_the_stored_results() -> None:
    rows = json.loads(steps.RESULT.read_text())
    assert steps.DOCUMENT.read_text() == steps.document(rows)
    # What its text claims.
    ratio = {name: row["times_transformers_processor"] for name, row in rows.items()}
    assert ratio["tiny-bf16-mixed"] >= 1.3 > ratio["base-bf16-mixed"]
    assert min(ratio["tiny-32-true"], ratio["base-32-true"]) >= 1.3
