"""What an examination found, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cmmixer.data.skips import SkipReport

# ok: works. note: not there, and only some need it. warn: works, but may soon not. bad: does not work.
State = Literal["ok", "note", "warn", "bad"]
_SIGNS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}
_MOST_SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: `ok`, `note`, `warn` or `bad`.
        told: what was found.
        advice: what to do; empty where nothing is to be done.
    """

    name: str
    state: State
    told: str
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """All that was found.

    Attributes:
        findings: in the order they are told.
        skips: files of `--data` that cannot be used.
    """

    findings: list[Finding]
    skips: SkipReport = field(default_factory=SkipReport)

    @property
    def exit_code(self) -> int:
        """2 where something does not work."""
        return 2 if any(finding.state == "bad" for finding in self.findings) else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "works": self.exit_code == 0,
            "findings": [asdict(finding) for finding in self.findings],
            "unusable": [asdict(skip) for skip in self.skips],
        }

    def render(self) -> RenderableType:
        """A line for each, with what to do below it; no markup, because a file may be called [red].mp4."""
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        for finding in self.findings:
            sign, style = _SIGNS[finding.state]
            told = Text(finding.told)
            if finding.advice:
                told.append(f"\n→ {finding.advice}", "bold" if finding.state == "bad" else "")
            table.add_row(Text(sign, style), Text(finding.name), told)
        # Files that are no films by their ending are seldom missed.
        skips = sorted(self.skips, key=lambda skip: skip.reason == "not-media")
        listed = [Text(f"  {skip.path}: {skip.message}") for skip in skips[:_MOST_SHOWN]]
        if (more := len(skips) - len(listed)) > 0:
            listed.append(Text(f"  and {more} more; --json lists all"))
        return Group(table, *([Text("\nFiles that cannot be used:"), *listed] if listed else []))
