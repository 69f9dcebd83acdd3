"""How long does `cmmixer dub` take per second of video, and how much memory, for a short video and one ten times as long?

    python -m benchmarks.dubbing

Videos and sounds are synthetic. Each video is dubbed in its own process, in the order short, long, short, long, ... Results go to
`benchmarks/results/dubbing.json`. Memory must not grow with the length of the video, because decoded audio is kept in a file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from cmmixer.config import DubSettings
from cmmixer.editing.dub import DubJob, run_job
from cmmixer.media.encode import write_audio, write_video
from cmmixer.runtime import describe_machine

RESULT = Path(__file__).resolve().parent / "results" / "dubbing.json"
SECONDS = {"short": 60, "long": 600}
FPS, RATE = 10, 48_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the videos, dubs them and stores the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cmmixer-dubbing-") as folder:
        jobs = {name: _job(Path(folder), name, seconds) for name, seconds in SECONDS.items()}
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(options.rounds):
            for name, job in jobs.items():
                measured[name].append(_measure_in_process(job))
    result: dict[str, Any] = {
        name: {
            "video_seconds": SECONDS[name],
            "times_real_time": SECONDS[name] / statistics.median(seconds for seconds, _ in rounds),
            "peak_memory_mb": max(megabytes for _, megabytes in rounds),
        }
        for name, rounds in measured.items()
    }
    result |= {"rounds": options.rounds, "machine": describe_machine(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _job(folder: Path, name: str, seconds: int) -> DubJob:
    """Makes a video with a moving bar, and noise that swells and fades."""
    generator = np.random.default_rng(0)
    pixels_THWC = np.full((seconds * FPS, 90, 160, 3), 40, np.uint8)
    for number, image in enumerate(pixels_THWC):
        image[:, number % 160] = 220
    write_video(folder / f"{name}.mp4", pixels_THWC, FPS)
    swell = 0.5 + 0.4 * np.sin(2 * np.pi * 0.1 * np.arange(seconds * RATE, dtype=np.float32) / RATE)
    noise = generator.standard_normal(seconds * RATE, dtype=np.float32)
    write_audio(folder / f"{name}.wav", (3000 * swell * noise).astype(np.int16), RATE)
    settings = DubSettings(
        video=str(folder / f"{name}.mp4"), audio=str(folder / f"{name}.wav"), out=str(folder / f"{name}-dubbed.mp4")
    )
    return DubJob(settings, settings.out)


def _measure_in_process(job: DubJob) -> tuple[float, float]:
    """Dubs in a new process and returns the seconds and the peak megabytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_measure, args=(job, sender))
    process.start()
    measured: tuple[float, float] = receiver.recv()
    process.join()
    return measured


def _measure(job: DubJob, answer: Connection) -> None:
    started = time.perf_counter()
    run_job(job)
    seconds = time.perf_counter() - started
    # Not getrusage: its maximum is inherited from the parent process.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    answer.send((seconds, int(peak.split()[1]) / 1024))


if __name__ == "__main__":
    main()
