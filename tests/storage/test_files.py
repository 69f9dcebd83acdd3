"""Temporary folders: away at the end, and what a killed process left is away when the next one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cmmixer.storage.files import temporary_folder

KILLED = """
import os, signal, sys
from cmmixer.storage.files import temporary_folder
with temporary_folder("cmmixer-queries-") as folder:
    (folder / "upload").write_text("x")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_removed_with_all_that_is_in_it(place: Path) -> None:
    with temporary_folder("cmmixer-queries-") as folder:
        assert folder.parent.parent == place
        assert list(folder.iterdir()) == []
        (folder / "deep").mkdir()
        (folder / "deep" / "upload").touch()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_is_made(place: Path) -> None:
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(command, env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert killed.returncode == -signal.SIGKILL
    assert (left / "upload").exists()
    with temporary_folder("cmmixer-dubs-"):
        assert left.exists()  # of another kind
    with temporary_folder("cmmixer-queries-"):
        assert not left.exists()


def test_what_somebody_holds_or_never_held_stays(place: Path) -> None:
    strange = place / "cmmixer-queries-mine"
    strange.mkdir()
    with temporary_folder("cmmixer-queries-") as first, temporary_folder("cmmixer-queries-") as second:
        assert first.exists()
        assert second.exists()
    assert list(place.iterdir()) == [strange]
