"""How long `cmmixer dub` takes for a second of film, and how much memory, for a short film and one ten times as long.

    python -m benchmarks.dubbing

Films and sounds are made up. Each is dubbed in a process of its own, in the order short, long, short, long, ...; figures go
to `benchmarks/results/dubbing.json`. Memory must not grow with the film: what is decoded lies in a file.
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
from cmmixer.editing.dub import Job, make
from cmmixer.media.encode import write_film, write_sound
from cmmixer.runtime import machine

RESULT = Path(__file__).resolve().parent / "results" / "dubbing.json"
SECONDS = {"short": 60, "long": 600}
FPS, RATE = 10, 48_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes, dubs, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cmmixer-dubbing-") as folder:
        jobs = {name: _job(Path(folder), name, seconds) for name, seconds in SECONDS.items()}
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(options.rounds):
            for name, job in jobs.items():
                measured[name].append(_in_a_process(job))
    result: dict[str, Any] = {
        name: {
            "film_seconds": SECONDS[name],
            "times_real_time": SECONDS[name] / statistics.median(seconds for seconds, _ in rounds),
            "peak_memory_mb": max(megabytes for _, megabytes in rounds),
        }
        for name, rounds in measured.items()
    }
    result |= {"rounds": options.rounds, "machine": machine(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _job(folder: Path, name: str, seconds: int) -> Job:
    """A film in which a bar walks, and noise that swells and fades."""
    generator = np.random.default_rng(0)
    pixels_THWC = np.full((seconds * FPS, 90, 160, 3), 40, np.uint8)
    for number, image in enumerate(pixels_THWC):
        image[:, number % 160] = 220
    write_film(folder / f"{name}.mp4", pixels_THWC, FPS)
    swell = 0.5 + 0.4 * np.sin(2 * np.pi * 0.1 * np.arange(seconds * RATE, dtype=np.float32) / RATE)
    noise = generator.standard_normal(seconds * RATE, dtype=np.float32)
    write_sound(folder / f"{name}.wav", (3000 * swell * noise).astype(np.int16), RATE)
    settings = DubSettings(
        film=str(folder / f"{name}.mp4"), sound=str(folder / f"{name}.wav"), out=str(folder / f"{name}-dubbed.mp4")
    )
    return Job(settings, settings.out)


def _in_a_process(job: Job) -> tuple[float, float]:
    """Seconds, and megabytes at the peak."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(job, there))
    process.start()
    measured: tuple[float, float] = here.recv()
    process.join()
    return measured


def _measure(job: Job, answer: Connection) -> None:
    begin = time.perf_counter()
    make(job)
    seconds = time.perf_counter() - begin
    # Not getrusage: its maximum is inherited from the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    answer.send((seconds, int(peak.split()[1]) / 1024))


if __name__ == "__main__":
    main()
