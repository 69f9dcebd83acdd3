"""The optimiser's state in slices: written by so many processes, read by any other number, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cmmixer import checkpoint
from cmmixer.errors import CheckpointError
from cmmixer.train.resume import read_state
from tests.support.commands import torchrun_module
from tests.support.sharded_checkpoint import CARD


@pytest.fixture(scope="module")
def by_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("by") / "three"
    _done(torchrun_module(3, "tests.support.sharded_checkpoint", "write", run))
    return run


def test_any_number_of_processes_reads_what_three_wrote(by_three: Path) -> None:
    files = [file.stat().st_size for file in (checkpoint.resolve(by_three) / "training").iterdir()]
    assert len(files) == 3
    assert max(files) < 0.4 * sum(files)  # nobody wrote the others' part
    for processes in (1, 2, 5):
        _done(torchrun_module(processes, "tests.support.sharded_checkpoint", "read", by_three))


def test_slices_are_read_out_of_what_one_process_wrote(tmp_path: Path) -> None:
    _done(torchrun_module(1, "tests.support.sharded_checkpoint", "write", tmp_path))
    assert checkpoint.load_progress(tmp_path)["files"] == ["state.safetensors"]
    _done(torchrun_module(2, "tests.support.sharded_checkpoint", "read", tmp_path))


def test_a_process_that_cannot_write_leaves_what_was_there(by_three: Path) -> None:
    ended = torchrun_module(2, "tests.support.sharded_checkpoint", "limited", by_three)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for process in (0, 1):
        assert f"process {process}: {by_three}: a file may not grow any larger there" in ended.stdout
    assert checkpoint.load_card(by_three).step == 3
    assert [path.name for path in (by_three / "checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [("missing", "training: 1 of 3 files are not there, "), ("cut", r"training: cannot be read \(.*\); take another")],
)
def test_damaged_slices_are_one_line(by_three: Path, tmp_path: Path, damage: str, told: str) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(checkpoint.resolve(by_three)), str(copy)], check=True)
    victim = sorted((copy / "training").iterdir())[1]
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=told) as refused:
        read_state(copy, checkpoint.build(CARD))
    assert str(refused.value).endswith("take another checkpoint of the run")
    assert "\n" not in str(refused.value)


def _done(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, (sys.executable, ended.stderr[-2000:])
