"""SIGKILL at a few random moments of long commands; `python -m benchmarks.kills` kills more often, and docs/kills.md explains it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.kills.jobs import JOBS, RANK, WORKER
from benchmarks.kills.table import DOCUMENT, document
from tests.support.commands import ENVIRONMENT, ROOT

RESULT = ROOT / "benchmarks" / "results" / "kills.json"
# `finetune` has the loop of `pretrain`; it runs once, for `embed` and `index`.
TESTED = ("prepare", "pretrain", "embed", "embed-folder", "index")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("k")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.kills",
        "--only",
        *TESTED,
        "--kills",
        "3",
        "--videos",
        "16",
    ]
    command += ["--folder", str(folder), "--out", str(folder / "kills.json"), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows: dict[str, Any] = json.loads((folder / "kills.json").read_text())
    return rows


@pytest.mark.parametrize("job", TESTED)
def test_killed_job_resumes_to_the_same_result(killed: dict[str, Any], job: str) -> None:
    kills = killed[job]["kills"]
    assert [kill["target"] for kill in kills] == ["a worker", "the command", "all"]
    assert [kill["problems"] for kill in kills] == [[], [], []]
    assert kills[0]["exit_code"] == 0  # it continues by itself
    assert [kill["exit_code"] for kill in kills[1:]] == [-9, -9]


def test_kills_document_matches_stored_results() -> None:
    rows = json.loads(RESULT.read_text())
    assert DOCUMENT.read_text() == document(rows)
    assert list(rows) == list(JOBS)
    for row in rows.values():
        assert len(row["kills"]) >= 20
        assert all(kill["problems"] == [] for kill in row["kills"])
        # A killed worker ends no job. A killed rank does, with a message that says who was killed or what to do.
        assert all(
            (kill["exit_code"] == 0) == (kill["target"] == WORKER) for kill in row["kills"] if "message" not in kill
        )
        assert all(
            kill["message"].startswith(("cmmixer: ", "traceback : Signal 9 (SIGKILL)"))
            for kill in row["kills"]
            if kill["target"] == RANK and "message" in kill
        )
