"""The log of a run: lines, what is cut off when a run resumes, TensorBoard, and the result of a command."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmmixer import checkpoint
from cmmixer.train.log import Log, TrainingResult, describe_data, summarize
from cmmixer.train.resume import Run
from tests.support.small_runs import PICO, random_clips, untrained_run
from tests.support.training_runs import finetune_settings, log_rows, single_process


def write(log: Log, *steps: int) -> None:
    for step in steps:
        log.write({"step": step, "loss": step / 3})


def test_lines_are_json_with_eight_decimals(tmp_path: Path) -> None:
    log = Log(tmp_path, enabled=True)
    log.write({"step": 2, "loss": 1 / 3, "lr": 1e-9})
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 2, "loss": 0.33333333, "lr": 0.0}\n'


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path, enabled=False)
    write(log, 1)
    log.write_image(1, torch.zeros(4, 4, 3, dtype=torch.uint8))
    log.close()
    assert not (tmp_path / "log.jsonl").exists()


def test_truncate_drops_later_lines_and_a_half_written_one(tmp_path: Path) -> None:
    log = Log(tmp_path, enabled=True)
    log.truncate(5)  # there is no log yet
    write(log, 1, 2, 3, 4)
    with log.file.open("a") as file:
        file.write('{"step": 5, "lo')
    log.truncate(2)
    assert [row["step"] for row in log_rows(tmp_path)] == [1, 2]
    write(log, 3)
    log.close()
    assert [row["step"] for row in log_rows(tmp_path)] == [1, 2, 3]


def test_tensorboard_has_the_same_values_and_the_image(tmp_path: Path) -> None:
    log = Log(tmp_path, enabled=True)
    write(log, 1, 2)
    image = torch.arange(48, dtype=torch.uint8).reshape(4, 4, 3)
    log.write_image(2, image)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, pytest.approx(1 / 3)),
        (2, pytest.approx(2 / 3)),
    ]
    (event,) = events.Images("reconstruction")
    assert (event.step, event.height, event.width) == (2, 4, 4)


def test_log_works_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Log(tmp_path, enabled=True)
    write(log, 1, 2)
    log.write_image(2, torch.zeros(4, 4, 3, dtype=torch.uint8))
    log.close()
    assert len(log_rows(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_data_is_described_by_counts_and_a_fingerprint_of_the_ids() -> None:
    clips = random_clips(3)
    clips.sources = ["x", "x", "y"]
    described = describe_data("videos", clips)
    assert described == {
        "path": "videos",
        "clips": 3,
        "sources": 2,
        "skipped": 0,
        "ids_sha256": hashlib.sha256(b"0\n1\n2").hexdigest(),
    }
    clips.ids = ["2", "1", "0"]  # in another order they are the same clips
    assert describe_data("videos", clips) == described
    clips.ids = ["2", "1", "3"]
    assert describe_data("videos", clips)["ids_sha256"] != described["ids_sha256"]


def test_summary_lists_sources_and_reports_the_checkpoint(tmp_path: Path) -> None:
    untrained_run(tmp_path / "run", PICO)
    clips = random_clips(4)
    clips.sources = ["b", "a", "b", "c"]
    run = Run(finetune_settings(tmp_path / "run"), 1, 4, metadata=checkpoint.load_metadata(tmp_path / "run"))
    result = summarize(run, clips, single_process())
    assert (tmp_path / "run" / "sources.txt").read_text() == "a\nb\nc\n"
    assert run.metadata is not None
    assert result == TrainingResult(tmp_path / "run", run.metadata.model_id, 0, 4, 0, {}, is_main=True)


def test_result_as_json_leaves_out_the_process() -> None:
    result = TrainingResult(Path("runs/x"), "abc", 8, 16, 2, {"loss": 0.5}, is_main=False)
    assert json.loads(json.dumps(result.as_json())) == {
        "run": "runs/x",
        "model_id": "abc",
        "step": 8,
        "clips": 16,
        "skipped": 2,
        "losses": {"loss": 0.5},
    }
