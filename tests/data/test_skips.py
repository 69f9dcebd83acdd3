"""The report of skipped files comes back as it was written, and the journal survives a torn line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmmixer.data.skips import DESCRIPTIONS, RETRIED_REASONS, Journal, Skip, SkipReport
from cmmixer.errors import MediaError
from cmmixer.storage.folder import LocalFolder


def test_the_report_is_readable_and_comes_back(tmp_path: Path) -> None:
    report = SkipReport()
    assert report.summary == "no file left out"
    report.add("a.mp4", "silent", "its loudest window has -80 dBFS, below -60 dBFS")
    report.add("b.mp4", "too-short", "got 1.00 s, a clip takes 4 s")
    report.add("c.mp4", "too-short", "got 2.00 s, a clip takes 4 s")
    report.add("d\udce9.mp4", "unreadable", "damaged at 3 s", clips_used=2)
    report.write(tmp_path)
    assert report.summary == "4 files left out: 2 too short, 1 silent, 1 unreadable or damaged"
    assert (tmp_path / "skipped.txt").read_text() == (
        "4 files left out: 2 too short, 1 silent, 1 unreadable or damaged\n\n"
        "too short:\n  b.mp4: got 1.00 s, a clip takes 4 s\n  c.mp4: got 2.00 s, a clip takes 4 s\n\n"
        "silent:\n  a.mp4: its loudest window has -80 dBFS, below -60 dBFS\n\n"
        "unreadable or damaged:\n  d\\xe9.mp4: damaged at 3 s (2 of its clips are used)\n"
    )
    assert json.loads((tmp_path / "skipped.json").read_text())["counts"]["too-short"] == 2
    assert list(SkipReport.read(tmp_path)) == list(report)
    assert SkipReport.read(tmp_path / "elsewhere").total == 0


def test_counts_are_sorted_by_frequency() -> None:
    skips = [Skip("a", "empty", "-"), Skip("b", "missing", "-"), Skip("c", "missing", "-")]
    report = SkipReport(skips)
    assert list(report.counts.items()) == [("missing", 2), ("empty", 1)]
    assert (report.total, len(report)) == (3, 3)
    report.add_skip(Skip("d", "empty", "-"))
    assert report.summary == "4 files left out: 2 empty, 2 missing"
    assert SkipReport(skips[:1]).summary == "1 file left out: 1 empty"


def test_every_reason_has_a_description() -> None:
    assert list(DESCRIPTIONS) == list(MediaError.REASONS)
    assert set(RETRIED_REASONS) < set(MediaError.REASONS)


def test_an_unknown_reason_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="unknown reason 'too-long'"):
        SkipReport().add("a.mp4", "too-long", "-")


class TestJournal:
    def test_what_was_committed_comes_back_in_order(self, tmp_path: Path) -> None:
        journal = Journal(LocalFolder(tmp_path), "journal.jsonl")
        journal.add("b", Skip("b.mp4", "silent", "quiet"))
        journal.add("a", Skip("a.mp4", "missing", "no such file"))
        journal.commit()
        journal.add("c", Skip("c.mp4", "empty", "lost"))  # not committed
        again = Journal(LocalFolder(tmp_path), "journal.jsonl")
        assert list(again.skips.items()) == [
            ("b", Skip("b.mp4", "silent", "quiet")),
            ("a", Skip("a.mp4", "missing", "no such file")),
        ]

    def test_a_later_entry_replaces_an_earlier_one_and_moves_to_the_end(self, tmp_path: Path) -> None:
        journal = Journal(LocalFolder(tmp_path), "journal.jsonl")
        for key, reason in (("a", "missing"), ("b", "empty"), ("a", "silent")):
            journal.add(key, Skip(f"{key}.mp4", reason, "-"))
        journal.commit()
        assert [(key, skip.reason) for key, skip in journal.skips.items()] == [("b", "empty"), ("a", "silent")]
        again = Journal(LocalFolder(tmp_path), "journal.jsonl")
        assert {key: skip.reason for key, skip in again.skips.items()} == {"b": "empty", "a": "silent"}
        assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 3  # it only ever grows

    @pytest.mark.parametrize(
        ("reason", "clips_used", "settled"),
        [("silent", 0, True), ("unreadable", 0, True), ("unreadable", 2, False)]
        + [(reason, 0, False) for reason in RETRIED_REASONS],
    )
    def test_a_video_is_settled_unless_another_run_may_succeed(
        self, tmp_path: Path, reason: str, clips_used: int, settled: bool
    ) -> None:
        journal = Journal(LocalFolder(tmp_path), "journal.jsonl")
        journal.add("a", Skip("a.mp4", reason, "-", clips_used))
        assert journal.settles("a") is settled
        assert not journal.settles("unknown")
