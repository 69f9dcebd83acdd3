"""`cmmixer embed`, interrupted and killed: the old file stays, and no partial file replaces it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import torch

from cmmixer.config import ModelSettings
from cmmixer.embedding.read import read_vectors
from cmmixer.storage.files import TEMPORARY
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, video
from tests.support.commands import cmmixer, start
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)


def _list(path: Path, rows: int) -> Path:
    """Writes a manifest of `rows` segments of two videos in turn, with a missing file in the middle."""
    names = [f"{'ab'[row % 2]}.mp4,{row % 3 / 2},{1 + row % 3 / 2}" for row in range(rows)]
    names.insert(rows // 2, "gone.mp4,0,1")
    path.write_text("\n".join(["path,start_seconds,end_seconds", *names]) + "\n")
    return path


def _wait_for_draft(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(f"{TEMPORARY}*")):
        assert process.poll() is None, "the command ended before it wrote anything"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)


def _running(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_interrupted_and_killed_embed_keep_the_old_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = untrained_run(tmp_path / "run", CLIP, model=SMALL, embed_dim=12)
    video(tmp_path / "a.mp4", [RED, GREEN, BLUE])
    video(tmp_path / "b.mp4", [BLUE, RED], sound=None)
    few, many = _list(tmp_path / "few.csv", 20), _list(tmp_path / "many.csv", 20_000)
    out = tmp_path / "out" / "v.parquet"
    common = ("--model", run, "--out", out, "--workers", "2", "--batch_size", "4", "--device", "cpu")
    done = cmmixer("embed", "--data", few, *common, "--json")
    assert done.returncode == 0, done.stderr
    (skipped,) = json.loads(done.stdout)["skipped_files"]
    assert (os.path.basename(skipped["path"]), skipped["message"]) == ("gone.mp4", "no such file")
    first = out.read_bytes()
    assert read_vectors(out).num_rows == 20

    for signal_number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = start("embed", "--data", many, *common)
        _wait_for_draft(out.parent, process)
        os.killpg(process.pid, signal_number)  # like a terminal, also to the decoders
        assert process.wait(60) == code
        assert out.read_bytes() == first
        deadline = time.monotonic() + 20
        while _running(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert _running(process.pid) == []
        drafts = [path for path in out.parent.iterdir() if path != out]
        assert len(drafts) == (0 if signal_number == signal.SIGINT else 1)

    again = cmmixer("embed", "--data", few, *common)
    assert again.returncode == 0, again.stderr
    assert out.read_bytes() == first
    assert list(out.parent.iterdir()) == [out]  # the draft of the killed command is removed
