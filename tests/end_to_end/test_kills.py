"""kill -9 at a few random moments of each long command; `python -m benchmarks.kills` does it at more, and docs/kills.md says how."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.kills.jobs import KINDS, RANK, WORKER
from benchmarks.kills.table import DOCUMENT, document
from tests.support.commands import ENVIRONMENT, ROOT

RESULT = ROOT / "benchmarks" / "results" / "kills.json"
# `finetune` runs the loop of `pretrain`; it is made once, for `embed` and `index`.
JOBS = ("prepare", "pretrain", "embed", "embed-folder", "index")


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
        *JOBS,
        "--kills",
        "3",
        "--films",
        "16",
    ]
    command += ["--folder", str(folder), "--out", str(folder / "kills.json"), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows: dict[str, Any] = json.loads((folder / "kills.json").read_text())
    return rows


@pytest.mark.parametrize("job", JOBS)
def test_killed_and_called_again_it_is_as_if_never_killed(killed: dict[str, Any], job: str) -> None:
    kills = killed[job]["kills"]
    assert [kill["target"] for kill in kills] == ["a worker", "the command", "all"]
    assert [kill["faults"] for kill in kills] == [[], [], []]
    assert kills[0]["exit_code"] == 0  # it needs no second call
    assert [kill["exit_code"] for kill in kills[1:]] == [-9, -9]


def test_the_document_is_made_from_the_stored_results_and_says_what_they_say() -> None:
    rows = json.loads(RESULT.read_text())
    assert DOCUMENT.read_text() == document(rows)
    assert list(rows) == list(KINDS)
    for row in rows.values():
        assert len(row["kills"]) >= 20
        assert all(kill["faults"] == [] for kill in row["kills"])
        # A killed worker ends no job; a killed rank does, and it is told who was killed or what to do.
        assert all(
            (kill["exit_code"] == 0) == (kill["target"] == WORKER) for kill in row["kills"] if "told" not in kill
        )
        assert all(
            kill["told"].startswith(("cmmixer: ", "traceback : Signal 9 (SIGKILL)"))
            for kill in row["kills"]
            if kill["target"] == RANK and "told" in kill
        )
