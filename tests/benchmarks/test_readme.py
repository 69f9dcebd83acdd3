"""The table of results in README.md: made from the stored results, short, and written between its markers only."""

from __future__ import annotations

import pytest

from benchmarks import readme
from benchmarks.readme import BEGIN, END, README, table, with_table
from benchmarks.study.cells import CELLS


def test_readme_table_matches_stored_results() -> None:
    assert README.read_text() == with_table(README.read_text(), table())


def test_readme_table_has_at_most_six_rows_with_ranges_of_seeds() -> None:
    header, rule, *rows = [line for line in table().splitlines() if line.startswith("|")]
    assert len(rows) <= 6
    columns = header.count("|")
    assert all(line.count("|") == columns for line in (rule, *rows))
    assert all(line.count("[") == 2 for line in rows[:-1])
    assert rows[-1].startswith("| chance | | 0.005 / 0.001 |")


def test_readme_table_has_the_best_cell_of_the_study() -> None:
    stored = [row for row in readme.load_rows(readme.RESULTS, "cpu") if row["regime"] == "pairs"]
    means: dict[str, list[float]] = {}
    for row in stored:
        means.setdefault(row["cell"], []).append(row["video_to_audio"]["R@1"] + row["audio_to_video"]["R@1"])
    best = max(means, key=lambda cell: sum(means[cell]) / len(means[cell]))
    assert best == readme.STUDY_CELLS[0]
    assert f"| study: {CELLS[best].title} |" in table()


def test_views_are_the_clips_seen_in_both_stages() -> None:
    assert readme._views("baseline") == 9_600
    assert readme._views("plain") == readme._views("swap-half") == readme._views("contrastive") == 28_800


def test_table_replaces_the_text_between_its_markers_only() -> None:
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    with pytest.raises(
        ValueError, match=r"README\.md: expected the markers <!-- results --> and <!-- end of results -->"
    ):
        with_table("a\n", "new")
