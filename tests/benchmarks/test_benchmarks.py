"""The tables of the quickstart and of training steps match the stored results, and their claims hold."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import steps
from benchmarks.quickstart_seeds import DOCUMENT, load_results, mean_and_range, table, with_table


def test_quickstart_table_matches_stored_results() -> None:
    rows = load_results()
    assert len(rows) >= 3
    assert DOCUMENT.read_text() == with_table(DOCUMENT.read_text(), table(rows))


def test_quickstart_reaches_its_target_with_every_seed() -> None:
    for row in load_results():
        for way in ("video_to_audio", "audio_to_video"):
            assert row[way]["R@1"] >= 60 * row["chance"]["R@1"]
            low, high = 0.0, 4 * row["chance"]["R@1"]
            assert low <= row["shuffled_pairs"][way]["R@1"] <= high
        assert row["candidates"] == 200
        assert row["minutes"]["total"] <= 10


def test_step_document_matches_stored_results() -> None:
    rows = json.loads(steps.RESULT.read_text())
    assert steps.DOCUMENT.read_text() == steps.document(rows)
    # What its text claims.
    ratio = {name: row["times_transformers_cpu"] for name, row in rows.items()}
    assert ratio["tiny-bf16-mixed"] >= 1.3 > ratio["base-bf16-mixed"]
    assert min(ratio["tiny-32-true"], ratio["base-32-true"]) >= 1.3


def _row(seed: int, first: float, baseline: float) -> dict[str, Any]:
    def both(value: float) -> dict[str, Any]:
        return {way: {"R@1": value} for way in ("video_to_audio", "audio_to_video")}

    def interval(value: float) -> dict[str, Any]:
        return {way: {"R@1": [value - 0.1, value + 0.1]} for way in ("video_to_audio", "audio_to_video")}

    return {
        **both(first),
        "seed": seed,
        "baseline": {**both(baseline), "intervals": interval(baseline)},
        "intervals": interval(first),
        "shuffled_pairs": both(0.01),
        "chance": {"R@1": 0.005},
        "candidates": 200,
        "train_clips": 1200,
        "minutes": {"total": 5.0},
        "machine": {"cores": 2, "torch": "2"},
        "date": "2030-01-02",
    }


def test_quickstart_table_has_ranges_of_seeds_or_the_interval_of_one_run() -> None:
    rows = [_row(0, 0.5, 0.4), _row(1, 0.7, 0.2)]
    assert mean_and_range(rows, "video_to_audio") == "0.600 [0.500, 0.700]"
    assert mean_and_range(rows[:1], "audio_to_video") == "0.500 [0.400, 0.600]"
    several, single = table(rows).splitlines(), table(rows[:1]).splitlines()
    assert several[0] == "R@1 on 200 unseen videos, mean over 2 seeds [lowest, highest]; each seed has its own videos:"
    assert single[0].startswith("R@1 on 200 unseen videos, one run [95 % interval over the queries];")
    assert several[4] == "| silent video → its sound | 0.600 [0.500, 0.700] | 0.300 [0.200, 0.400] | 0.010 | 0.005 |"
    assert (
        "`cmmixer quickstart --seed 0`, and the same with 1: 1200 training clips, 5.0, 5.0 minutes on 2 cores"
        in several[-1]
    )
