"""The checks of the machine: their thresholds, and how a diagnosis is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from cmmixer.data.skips import Skip, SkipReport
from cmmixer.diagnostics import machine
from cmmixer.diagnostics.machine import Diagnosis, Finding


def _shown(diagnosis: Diagnosis) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(diagnosis.render())
    return captured.get()


def test_only_bad_findings_fail() -> None:
    states = ("ok", "note", "warn")
    assert Diagnosis([Finding("x", state, "") for state in states]).exit_code == 0  # type: ignore[arg-type]
    assert Diagnosis([Finding("x", "ok", ""), Finding("y", "bad", "")]).exit_code == 2


def test_diagnosis_shows_advice_and_lists_unexpected_files_first() -> None:
    skips = SkipReport([Skip(f"{number}.txt", "not-media", "no media") for number in range(25)])
    skips.add_skip(Skip("torn.mp4", "unreadable", "cannot be decoded"))
    shown = _shown(
        Diagnosis([Finding("Disk", "warn", "1.0 GB free", "free some space"), Finding("GPU", "note", "none")], skips)
    )
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[:3] == ["! Disk 1.0 GB free", "→ free some space", "· GPU none"]
    files = lines[lines.index("Files that cannot be used:") + 1 :]
    assert files[0] == "torn.mp4: cannot be decoded"
    assert files[-1] == "and 6 more; --json lists all"
    assert len(files) == 21


def test_diagnosis_without_skips_has_no_list() -> None:
    assert _shown(Diagnosis([Finding("GPU", "ok", "one")])).split() == ["✓", "GPU", "one"]


@pytest.mark.parametrize(("kilobytes", "state"), [(1_000_000, "warn"), (8_000_000, "ok")])
def test_memory_is_low_below_three_gigabytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kilobytes: int, state: str
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 16000000 kB\nMemAvailable: {kilobytes} kB\n")
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "meminfo")
    finding = machine._check_memory()
    assert (finding.state, finding.message) == (state, f"{kilobytes * 1024 / 1e9:.1f} of 16.4 GB free")


def test_unknown_memory_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "absent")
    assert machine._check_memory() == Finding("Memory", "note", "unknown: this system has no /proc/meminfo")


def test_old_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "sys", SimpleNamespace(version_info=(3, 10)))
    finding = machine._check_python()
    assert (finding.state, finding.advice) == (
        "bad",
        "install Python 3.11 or newer and create a new environment with it",
    )


def test_folder_that_is_not_writable_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e12))
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    finding = machine._check_disk("Disk", tmp_path / "new")
    assert finding == Finding(
        "Disk",
        "warn",
        f"1000.0 GB free at {tmp_path}, which is not writable",
        "choose another folder, or change its permissions",
    )


def test_missing_encoders_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ENCODERS", {"no_such_codec": "Nothing"})
    assert machine._check_encoders().message == "none; missing: Nothing"


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("numpy", ""),
        ("numpy>=9999", "numpy is {}, expected >=9999"),
        ("surely-not-installed", "surely-not-installed is not installed"),
    ],
)
def test_problem_of_a_requirement(requirement: str, problem: str) -> None:
    assert machine._problem(Requirement(requirement)) == problem.format(machine.np.__version__)
