"""Training in real processes: on several of them, and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from cmmixer import checkpoint
from cmmixer.train.resume import lock_run_folder
from tests.support.commands import ENVIRONMENT, cmmixer, start, torchrun, torchrun_command


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_published_command_on_two_processes_equals_one_with_double_batch(videos: Path, tmp_path: Path) -> None:
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
    flags += ["--preset", "nano", "--data", str(videos), "--log_steps", "1"]
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


def test_finetune_on_two_processes_equals_one_with_double_batch(store: Path, tmp_path: Path) -> None:
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


def test_pretrain_killed_twice_is_bit_exact(store: Path, tmp_path: Path) -> None:
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


def test_sharded_job_ends_with_a_killed_process_and_resumes_on_one(store: Path, tmp_path: Path) -> None:
    flags = [
        "pretrain",
        "--data",
        str(store),
        "--preset",
        "nano",
        "--epochs",
        "4",
        "--num_workers",
        "0",
        "--lr",
        "1e-3",
    ]
    flags += ["--warmup_epochs", "1", "--save_steps", "1", "--log_steps", "1", "--strategy", "fsdp"]
    with (tmp_path / "stderr.txt").open("w") as stderr:
        job = subprocess.Popen(
            torchrun_command(2, "cmmixer", *flags, "--batch_size", "4", "--out", str(tmp_path / "killed")),
            stdout=stderr,
            stderr=stderr,
            env=ENVIRONMENT,
        )
        try:
            deadline = time.monotonic() + 120
            while _newest(tmp_path / "killed") < 3:
                assert job.poll() is None, "the job ended before it could be killed"
                assert time.monotonic() < deadline, "the job never got there"
                time.sleep(0.005)
            second = next(child for child in psutil.Process(job.pid).children() if child.environ()["RANK"] == "1")
            second.kill()
            started = time.monotonic()
            assert job.wait(timeout=60) == 1
        finally:
            job.kill()
    assert time.monotonic() - started < 20
    reason = (tmp_path / "stderr.txt").read_text()
    # Either the other process loses its partner first, or torchrun ends it first.
    assert "process 0 of 2 lost touch with another one" in reason or "process 0 of 2 was terminated" in reason
    assert "Signal 9 (SIGKILL)" in reason
    stopped = _newest(tmp_path / "killed")
    assert 3 <= stopped < 16
    # The same command on one process takes the clips of both, so that the steps stay the same.
    rest = cmmixer(*flags, "--batch_size", "4", "--out", tmp_path / "killed")
    assert rest.returncode == 0, rest.stderr[-2000:]
    whole = cmmixer(*flags, "--batch_size", "8", "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert [row["step"] for row in log(tmp_path / "killed")] == list(range(1, 17))
    for resumed, uninterrupted in zip(log(tmp_path / "killed"), log(tmp_path / "whole"), strict=True):
        assert resumed["loss"] == pytest.approx(uninterrupted["loss"], rel=1e-3)
        assert resumed["lr"] == uninterrupted["lr"]
    first, second_weights = (
        load_file(checkpoint.resolve(tmp_path / name) / "weights.safetensors") for name in ("whole", "killed")
    )
    for name, value in first.items():
        torch.testing.assert_close(second_weights[name], value, rtol=1e-2, atol=1e-3)
    refused = cmmixer(*flags, "--batch_size", "6", "--out", tmp_path / "killed")
    assert refused.returncode == 2
    assert "batches of 8 clips, --batch_size 6 on 1 processes makes 6; leave --batch_size at 4" in refused.stderr


def test_processes_end_when_torchrun_is_killed(store: Path, tmp_path: Path) -> None:
    flags = ["pretrain", "--data", str(store), "--preset", "nano", "--epochs", "400", "--num_workers", "1"]
    flags += ["--batch_size", "4", "--save_steps", "1", "--out", str(tmp_path / "run")]
    with (tmp_path / "stderr.txt").open("w") as stderr:
        job = subprocess.Popen(torchrun_command(2, "cmmixer", *flags), stdout=stderr, stderr=stderr, env=ENVIRONMENT)
        try:
            deadline = time.monotonic() + 120
            while _newest(tmp_path / "run") < 2:
                assert job.poll() is None, "the job ended before it could be killed"
                assert time.monotonic() < deadline, "the job never got there"
                time.sleep(0.005)
            family = psutil.Process(job.pid).children(recursive=True)
            assert len(family) >= 8  # two of each: process, fork server of the workers, worker, resource tracker
        finally:
            job.kill()
            job.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
    assert "of 2 lost torchrun, which was killed; the same command resumes" in (tmp_path / "stderr.txt").read_text()
    with lock_run_folder(tmp_path / "run"):  # no process holds the lock any more
        checkpoint.load_weights(tmp_path / "run")


def test_more_processes_than_clips_are_refused(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for video in sorted(videos.glob("*.mp4"))[:2]:
        shutil.copy(video, tmp_path / "two")
    flags = ["pretrain", "--data", str(tmp_path / "two"), "--preset", "nano", "--batch_size", "1", "--num_workers", "1"]
    done = torchrun(3, *flags, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert (
        "cmmixer: --batch_size: 1 x 3 processes x 1 accumulated need 3 clips for one step, and there are 2; "
        "give fewer processes or more videos" in done.stderr
    )
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


def _kill_beyond(run: Path, step: int, flags: list[str]) -> int:
    """Starts the run, kills all its processes with SIGKILL once it is beyond a step, and returns the step it reached."""
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
