"""Training in real processes: several at once, and killed ones."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmmixer import checkpoint
from tests.end_to_end.processes import cmmixer, start, torchrun


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_published_command_on_two_processes_equals_one_with_the_doubled_batch(films: Path, tmp_path: Path) -> None:
    flags = [
        "pretrain",
        "--num_workers",
        "2",
        "--epochs",
        "2",
        "--lr",
        "2e-4",
        "--warmup_epochs",
        "1",
        "--mixup_mode",
        "image",
    ]
    flags += ["--preset", "nano", "--data", str(films), "--log_steps", "1"]
    two = torchrun(2, *flags, "--batch_size", "8", "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr[-2000:]
    one = cmmixer(*flags, "--batch_size", "16", "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-2000:]
    assert [row["step"] for row in log(tmp_path / "one")] == [1, 2, 3, 4]
    for single, double in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        for name in ("loss", "loss_video", "loss_audio", "gradient_norm"):
            assert double[name] == pytest.approx(single[name], rel=2e-4), (name, single["step"])
    first, second = (load_file(checkpoint.resolve(tmp_path / name) / "weights.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=2e-4)


def test_finetune_on_two_processes_equals_one_with_the_doubled_batch(store: Path, tmp_path: Path) -> None:
    flags = [
        "finetune",
        "--num_workers",
        "0",
        "--epochs",
        "2",
        "--lr",
        "1e-3",
        "--preset",
        "nano",
        "--data",
        str(store),
    ]
    flags += ["--log_steps", "1", "--embed_dim", "32"]
    two = torchrun(2, *flags, "--batch_size", "8", "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr[-2000:]
    one = cmmixer(*flags, "--batch_size", "16", "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-2000:]
    for single, double in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=1e-3)
        assert double["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=5e-3)


def test_pretrain_killed_twice_ends_with_the_same_bits(store: Path, tmp_path: Path) -> None:
    flags = [
        "pretrain",
        "--data",
        str(store),
        "--preset",
        "nano",
        "--epochs",
        "12",
        "--batch_size",
        "8",
        "--warmup_epochs",
        "1",
    ]
    flags += ["--lr", "1e-3", "--num_workers", "1", "--save_steps", "1", "--log_steps", "1", "--seed", "7"]
    whole = cmmixer(*flags, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    killed_at = [_kill_beyond(tmp_path / "killed", step, flags) for step in (5, 21)]
    assert 5 <= killed_at[0] < killed_at[1] < 48
    rest = cmmixer(*flags, "--out", tmp_path / "killed")
    assert rest.returncode == 0, rest.stderr[-2000:]
    first, second = (
        load_file(checkpoint.resolve(tmp_path / name) / "weights.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["step"] for row in log(tmp_path / "killed")] == list(range(1, 49))
    assert [row["loss"] for row in log(tmp_path / "killed")] == [row["loss"] for row in log(tmp_path / "whole")]


def _kill_beyond(run: Path, step: int, flags: list[str]) -> int:
    """Starts the run, kills -9 all its processes once it is beyond a step, and says where it was."""
    process = start(*flags, "--out", run)
    try:
        deadline = time.monotonic() + 120
        while _newest(run) < step:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run never got there"
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _newest(run)


def _newest(run: Path) -> int:
    try:
        return int((run / "latest").read_text().strip().removeprefix("step-"))
    except (OSError, ValueError):
        return 0
