"""Termination: a single process cleans up, one of several says why it ends, and torchrun gets the cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cmmixer.cli.torchrun import TerminatedError, explain_termination, report_to_torchrun

# Prints a line when it is ready, and another one if it is ever left in peace.
WAITS = """
import sys, time
from cmmixer.cli.torchrun import explain_termination
with explain_termination():
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
print("ended by itself", flush=True)
"""

# A launcher whose death is to be noticed.
LAUNCHES = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "60"])
print(child.pid, flush=True)
time.sleep(60)
"""


def _start(seconds: float, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


class TestOneProcess:
    def test_sigterm_is_raised_where_the_program_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        before = signal.getsignal(signal.SIGTERM)
        cleaned = []

        def work() -> None:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                cleaned.append(True)

        with pytest.raises(TerminatedError), explain_termination():
            work()
        assert cleaned == [True]
        assert signal.getsignal(signal.SIGTERM) is before

    def test_the_handler_is_restored(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with explain_termination():
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before

    def test_other_threads_change_nothing(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        during = []

        def work() -> None:
            with explain_termination():
                during.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert during == [before]


class TestSeveralProcesses:
    def test_a_terminated_one_says_why_at_once(self) -> None:
        process = _start(60, WORLD_SIZE="4", RANK="2")
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM
        assert out == ""
        assert error == (
            "cmmixer: process 2 of 4 was terminated, as torchrun does when another process was killed or failed; the same "
            "command resumes from the last checkpoint, on any number of processes\n"
        )

    def test_one_that_is_left_in_peace_ends_by_itself(self) -> None:
        process = _start(0.0, WORLD_SIZE="2", RANK="0")
        assert process.communicate(timeout=30) == ("ended by itself\n", "")
        assert process.returncode == 0

    def test_one_whose_torchrun_was_killed_ends_too(self) -> None:
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHES, WAITS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "x"},
        )
        assert launcher.stdout is not None
        assert launcher.stderr is not None
        lines = {launcher.stdout.readline(), launcher.stdout.readline()}  # its own and its child's
        assert "ready\n" in lines
        launcher.kill()
        launcher.wait()
        # The child holds the other end: this reads until it has ended.
        assert launcher.stderr.read() == (
            "cmmixer: process 1 of 2 lost torchrun, which was killed; the same command resumes from the last checkpoint, on "
            "any number of processes\n"
        )
        launcher.stdout.close()
        launcher.stderr.close()


class TestReport:
    def test_torchrun_reads_the_message_from_its_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
        report_to_torchrun("runs/x: the disk is full")
        report = json.loads((tmp_path / "error.json").read_text())
        assert report["message"] == "cmmixer: runs/x: the disk is full"
        assert abs(report["timestamp"] - time.time()) < 60

    def test_without_torchrun_or_a_file_nothing_happens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
        report_to_torchrun("x")
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "none" / "error.json"))
        report_to_torchrun("x")
        assert list(tmp_path.iterdir()) == []
