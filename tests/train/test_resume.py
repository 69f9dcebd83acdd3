"""Runs: opening the folder once, what a command may resume, and checkpoints written and read by several processes."""

from __future__ import annotations

import builtins
import dataclasses
import io
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from cmmixer import checkpoint
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.train.finetune import finetune
from cmmixer.train.pretrain import pretrain
from cmmixer.train.resume import (
    FREE_SETTINGS,
    Run,
    _cause,
    lock_run_folder,
    read_optimizer_state,
    write_checkpoint,
)
from tests.support.gloo_processes import run_module
from tests.support.sharded_checkpoint import METADATA, run_step
from tests.support.small_runs import random_clips
from tests.support.training_runs import InterruptAfter, finetune_settings, pretrain_settings, single_process

CLIPS = 16


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretrain run of 4 steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    pretrain(pretrain_settings(out, epochs=1), dataset=random_clips(CLIPS))
    return out


def opened(out: Path, *, clips: int = CLIPS, world: int = 1, kind: str = "mae", **changes: Any) -> Run:
    """The run as a command of `world` processes finds it."""
    settings = pretrain_settings(out, **{"epochs": 1, **changes})
    with Run.open(settings, single_process(), clips=clips, kind=kind) as run:
        run.world_size = world
        return run


class Reads:
    """Counts how often each file is opened for reading, by its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: Counter[str] = Counter()
        real = builtins.open

        def counting(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, str | Path) and "r" in mode:
                self.names[Path(file).name] += 1
            return real(file, mode, *args, **kwargs)

        monkeypatch.setattr(builtins, "open", counting)
        monkeypatch.setattr(io, "open", counting)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("stop_after", [2, 99])
def test_resume_reads_the_metadata_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, stop_after: int
) -> None:
    run: Any = {"pretrain": pretrain, "finetune": finetune}[stage]
    make: Any = {"pretrain": pretrain_settings, "finetune": finetune_settings}[stage]
    settings, clips = make(tmp_path / "run", epochs=1, save_steps=1), random_clips(CLIPS)
    if stop_after < 4:
        with pytest.raises(KeyboardInterrupt):
            run(settings, InterruptAfter(stop_after), clips)
    else:
        run(settings, dataset=clips)
    reads = Reads(monkeypatch)
    result = run(settings, dataset=clips)
    assert reads.names["metadata.json"] == 1
    assert reads.names["training.json"] == 1
    assert reads.names["weights.safetensors"] == 1
    monkeypatch.undo()
    assert (result.step, result.model_id) == (4, checkpoint.load_metadata(tmp_path / "run").model_id)


def test_new_run_reads_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    pretrain(pretrain_settings(tmp_path / "run", epochs=1), dataset=random_clips(8))
    assert reads.names["metadata.json"] == 0


def test_new_run_has_no_metadata_and_starts_at_step_0(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    assert (run.is_new, run.metadata, run.checkpoint, run.step, run.progress) == (True, None, None, 0, {})
    assert (run.batch_size(), run.folder) == (4, tmp_path / "run")
    run.check_settings()  # there is nothing to compare with


def test_opened_run_knows_its_checkpoint(finished: Path) -> None:
    run = opened(finished)
    assert (run.is_new, run.step, run.batch_size()) == (False, 4, 4)
    assert run.checkpoint == finished / "checkpoints" / "step-00000004"
    assert run.metadata == checkpoint.load_metadata(finished)
    assert run.progress == {"step": 4, "clips": CLIPS, "clips_per_batch": 4, "files": ["state.safetensors"]}
    run.check_settings()


def test_overwrite_starts_again_but_not_after_a_restart_by_torchrun(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opened(finished, overwrite=True).is_new
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert opened(finished, overwrite=True).is_new
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not opened(finished, overwrite=True).is_new


@pytest.mark.parametrize(
    ("clips", "changes", "message"),
    [
        (
            6,
            {"batch_size": 8},
            "--batch_size: 8 x 1 processes x 1 accumulated need 8 clips for one step, and there are 6; "
            "give a smaller batch or more videos",
        ),
        (
            7,
            {"accum_iter": 2},
            "--batch_size: 4 x 1 processes x 2 accumulated need 8 clips for one step, and there are 7; "
            "give a smaller batch or more videos",
        ),
        (
            0,
            {"batch_size": 1},
            "--batch_size: 1 x 1 processes x 1 accumulated need 1 clips for one step, and there are 0; "
            "give fewer processes or more videos",
        ),
    ],
)
def test_too_few_clips_are_refused_before_a_folder_is_made(
    tmp_path: Path, clips: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        opened(tmp_path / "run", clips=clips, **changes)
    assert str(refused.value) == message
    assert not (tmp_path / "run").exists()


def test_more_processes_share_the_batch_of_the_run(finished: Path) -> None:
    assert [opened(finished, world=world).batch_size() for world in (1, 2, 4)] == [4, 2, 1]
    # The same global batch, given per process.
    assert opened(finished, world=2, batch_size=2).batch_size() == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clips": 12},
            "the run there has 16 clips in batches of 4, this command has 12 in batches of 4; resume with the same data, or "
            "--overwrite",
        ),
        (
            {"batch_size": 8},
            "the run there has batches of 4 clips, --batch_size 8 on 1 processes makes 8; leave --batch_size at 4, which keeps its "
            "batches on any number of processes, or --overwrite",
        ),
        (
            {"world": 3},
            "the run there has batches of 4 clips, which 3 processes cannot share evenly; resume with a number of processes that "
            "divides 4",
        ),
    ],
)
def test_other_batches_are_refused(finished: Path, changes: dict[str, Any], message: str) -> None:
    run = opened(finished, **changes)
    with pytest.raises(CheckpointError) as refused:
        run.batch_size()
    assert str(refused.value) == f"{finished}: {message}"


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({"lr": 2e-3}, "lr 0.001 there, 0.002 here"),
        ({"cutmix_minmax": (0.25, 0.5)}, "cutmix_minmax None there, [0.25, 0.5] here"),
        (
            {"seed": 1, "epochs": 2, "preset": "tiny", "mask_ratio": 0.5, "norm_pix": True},
            # The first four, in the order of the settings.
            "epochs 1 there, 2 here; seed 0 there, 1 here; preset 'nano' there, 'tiny' here; mask_ratio 0.75 there, 0.5 here",
        ),
    ],
)
def test_other_settings_are_refused_by_name(finished: Path, changes: dict[str, Any], different: str) -> None:
    run = opened(finished, **changes)
    with pytest.raises(CheckpointError) as refused:
        run.check_settings()
    message = str(refused.value)
    assert message.startswith(f"{finished}: holds a run of other settings: ")
    assert message.endswith("; use the same, another --out, or --overwrite")
    named = message.split("settings: ")[1].split("; use the same")[0].split("; ")
    assert sorted(named) == sorted(different.split("; "))


def test_settings_that_change_nothing_computed_are_free(finished: Path) -> None:
    changes = {
        "num_workers": 3,
        "keep_gb": 1.0,
        "save_minutes": 1.0,
        "save_steps": 7,
        "keep": 9,
        "log_steps": 5,
        "image_epochs": 0,
        "file_seconds": 5.0,
        "device": "cpu",
        "strategy": "fsdp",
        "compile": True,
        "grad_checkpointing": True,
    }
    assert changes.keys() | {"out", "batch_size", "overwrite"} == set(FREE_SETTINGS)
    opened(finished, **changes).check_settings()


def test_setting_added_after_the_run_started_counts_as_its_default(finished: Path) -> None:
    run = opened(finished)
    assert run.metadata is not None
    older = {name: value for name, value in run.metadata.settings.items() if name != "norm_pix"}
    run.metadata = dataclasses.replace(run.metadata, settings=older)
    run.check_settings()
    run.settings = pretrain_settings(finished, epochs=1, norm_pix=True)
    with pytest.raises(CheckpointError, match="norm_pix False there, True here"):
        run.check_settings()


def test_run_of_another_command_is_refused(finished: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        finetune(finetune_settings(finished, epochs=1), dataset=random_clips(CLIPS))
    assert str(refused.value) == (
        f"{finished}: holds a run of `cmmixer pretrain`, expected one of `cmmixer finetune`; give another --out, or --overwrite"
    )


def test_run_of_an_older_version_is_refused_but_can_be_overwritten(tmp_path: Path) -> None:
    settings = pretrain_settings(tmp_path, epochs=1)
    old = tmp_path / "checkpoints" / "step-00000004"
    old.mkdir(parents=True)
    (old / "card.json").write_text('{"format": 1}')
    (tmp_path / "latest").write_text("step-00000004\n")
    with pytest.raises(CheckpointError) as refused:
        pretrain(settings, dataset=random_clips(8))
    assert str(refused.value) == (
        f"{old}: got card.json, expected metadata.json; an older version of cmmixer wrote it; train it again"
    )
    overwritten = dataclasses.replace(settings, overwrite=True)
    assert pretrain(overwritten, dataset=random_clips(8)).step == 2
    assert not old.exists()


def test_checkpoint_without_training_progress_is_refused(tmp_path: Path) -> None:
    metadata = dataclasses.replace(METADATA, kind="mae", options={}, step=5)
    folder = checkpoint.save(tmp_path, metadata, checkpoint.build(metadata).state_dict(), keep=1)
    with pytest.raises(CheckpointError) as refused:
        opened(tmp_path)
    assert str(refused.value) == (
        f"{folder}: has no training progress to resume from; start a new run from its weights with --init, or --overwrite"
    )


def test_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    out, clips = tmp_path / "run", random_clips(8)
    pretrain(pretrain_settings(out, epochs=1), dataset=clips)
    before = (checkpoint.resolve(out) / "metadata.json").read_bytes()
    with lock_run_folder(out), pytest.raises(CheckpointError) as refused:
        pretrain(pretrain_settings(out, epochs=1, overwrite=True), dataset=clips)
    assert str(refused.value) == (f"{out}: another training writes to it; wait for it, end it, or choose another --out")
    assert (checkpoint.resolve(out) / "metadata.json").read_bytes() == before
    pretrain(pretrain_settings(out, epochs=1, overwrite=True), dataset=clips)


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(CheckpointError, match=r"run: cannot write here \(Permission denied\); choose another folder$"):
        opened(tmp_path / "run")


@pytest.mark.parametrize("overwrite", [True, False])
def test_leftovers_of_killed_writers_are_removed(tmp_path: Path, overwrite: bool) -> None:
    out, clips = tmp_path / "run", random_clips(8)
    pretrain(pretrain_settings(out, epochs=1), dataset=clips)
    (out / ".tmp-1-latest").touch()
    (out / "checkpoints" / ".tmp-1-step-00000001").mkdir()
    pretrain(pretrain_settings(out, epochs=1, overwrite=overwrite), dataset=clips)
    assert list(out.rglob(".tmp-*")) == []


def test_new_folder_keeps_nothing_of_an_overwritten_run(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    for name in ("checkpoints", "tensorboard"):
        (run.folder / name).mkdir(parents=True)
        (run.folder / name / "old").touch()
    for name in ("latest", "log.jsonl", "notes.txt"):
        (run.folder / name).write_text("old\n")
    run.create_folder()
    # Files that are not of a run stay.
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "notes.txt", "settings.json"]
    assert json.loads((run.folder / "settings.json").read_text())["batch_size"] == 4


def test_written_state_is_read_back(tmp_path: Path) -> None:
    fabric, network = single_process(), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    written = write_checkpoint(fabric, tmp_path, METADATA, network, optimizer, {"step": 1}, keep=1)
    assert written == checkpoint.load_metadata(tmp_path)
    assert len(written.model_id) == 64
    state = read_optimizer_state(tmp_path, network)
    assert sorted(state) == [f"{number}.{name}" for number in (0, 1) for name in ("exp_avg", "exp_avg_sq", "step")]
    for number, parameter in enumerate((network.weight, network.bias)):
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(state[f"{number}.{name}"], value)


def test_checkpoint_without_files_has_no_optimizer_state(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, METADATA, checkpoint.build(METADATA).state_dict(), keep=1)
    assert read_optimizer_state(tmp_path, nn.Linear(1, 1)) == {}


def test_cause_is_the_operating_system_s_error_where_there_is_one() -> None:
    full, other = OSError(28, "No space left"), ValueError("a consequence")
    summary = CheckpointException("write", {0: (other, None), 1: (full, None)})  # type: ignore[dict-item]
    assert _cause(summary) is full
    assert _cause(CheckpointException("write", {0: (other, None)})) is other  # type: ignore[dict-item]
    assert _cause(other) is other


@dataclasses.dataclass(frozen=True)
class Shards:
    """Runs that three processes and one process wrote, and what jobs of more processes printed while they read them."""

    three: Path
    one: Path
    output: str


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("shards")
    three, one = folder / "three", folder / "one"
    run_step("write", one)
    jobs = [3, "write", three, 2, "read", three, 5, "read", three, 2, "read", one, 2, "limited", three]
    return Shards(three, one, run_module("tests.support.sharded_checkpoint", *jobs))


def test_each_process_writes_its_own_part(shards: Shards) -> None:
    sizes = [file.stat().st_size for file in (checkpoint.resolve(shards.three) / "training").iterdir()]
    assert len(sizes) == 3
    assert max(sizes) < 0.4 * sum(sizes)
    assert checkpoint.load_progress(shards.one)["files"] == ["state.safetensors"]


def test_any_number_of_processes_reads_what_any_other_wrote(shards: Shards) -> None:
    # Each step asserts the values it reads, and prints a line after that.
    assert {"2 read three", "5 read three", "2 read one"} <= set(shards.output.splitlines())
    run_step("read", shards.three)


def test_process_that_cannot_write_leaves_the_older_checkpoint(shards: Shards) -> None:
    for process in (0, 1):
        assert f"process {process}: {shards.three}: a file may not grow any larger there" in shards.output
    assert checkpoint.load_metadata(shards.three).step == 3
    assert [path.name for path in (shards.three / "checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"training: 1 of 3 files are missing, \S+ is the first; take another checkpoint of the run$"),
        ("cut", r"training: cannot be read \(.*\); take another checkpoint of the run$"),
    ],
)
def test_damaged_shards_are_one_line(shards: Shards, tmp_path: Path, damage: str, message: str) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(checkpoint.resolve(shards.three)), str(copy)], check=True)
    shard = sorted((copy / "training").iterdir())[1]
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=message) as refused:
        read_optimizer_state(copy, checkpoint.build(METADATA))
    assert "\n" not in str(refused.value)
