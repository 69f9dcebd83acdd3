"""`cmmixer prepare` beside FFmpeg's own command doing the same seeks and scaling, with as many processes.

FFmpeg is given every instant as an input of its own, so that it seeks there, and scales and crops as `prepare` does, with the same
scaler; it writes JPEGs and the whole film's sound at the wanted rate. It takes the first frame from an instant on, not the one on
screen, which is the one before. It reads no manifest, looks for no duplicates, cuts no
windows and writes no table.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cmmixer.benching.processor import ProcessorTime
from cmmixer.config import ClipSettings, PrepareSettings
from cmmixer.data.clips import ClipRef
from cmmixer.data.prepare import prepare
from cmmixer.errors import InternalError
from cmmixer.media.timeline import frame_instants

# Inputs of one command; a long film takes several.
_MOST_INPUTS = 64
# As `cmmixer.media.picture` asks for; a decoder and a filter of one thread each, as many commands as processes.
_SCALER = "bicubic+accurate_rnd+full_chroma_inp"


def timed_prepare(settings: PrepareSettings) -> tuple[float, float]:
    """(seconds, processor seconds) of `prepare` into a new folder."""
    with ProcessorTime() as processor:
        begun = time.perf_counter()
        prepare(settings)
        seconds = time.perf_counter() - begun
    return seconds, processor.seconds


def timed_ffmpeg(refs: Sequence[ClipRef], clip: ClipSettings, workers: int, folder: Path) -> tuple[float, float] | None:
    """(seconds, processor seconds) of FFmpeg on the same clips, so many commands at once; None where it is not installed.

    Raises:
        InternalError: it fails.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commands = ffmpeg_commands(program, refs, clip, folder)
    with ProcessorTime() as processor, ThreadPoolExecutor(workers) as threads:
        begun = time.perf_counter()
        list(threads.map(_run, commands))
        seconds = time.perf_counter() - begun
    return seconds, processor.seconds


def ffmpeg_commands(program: str, refs: Sequence[ClipRef], clip: ClipSettings, folder: Path) -> list[list[str]]:
    """A command a film, or several for a long one: every frame of its clips, and its sound once."""
    films: dict[str, list[ClipRef]] = defaultdict(list)
    for ref in refs:
        films[ref.path].append(ref)
    fit = (
        f"scale={clip.width}:{clip.height}:force_original_aspect_ratio=increase:flags={_SCALER},"
        f"crop={clip.width}:{clip.height}"
    )
    commands = []
    for number, (path, clips) in enumerate(films.items()):
        instants = [float(instant) for ref in clips for instant in frame_instants(ref.span, clip.frames)]
        for first in range(0, len(instants), _MOST_INPUTS):
            part = instants[first : first + _MOST_INPUTS]
            command = [program, "-nostdin", "-y", "-v", "error", "-filter_threads", "1"]
            for instant in part:
                command += ["-threads", "1", "-an", "-ss", f"{instant:.6f}", "-i", path]
            if first == 0:
                command += ["-threads", "1", "-vn", "-i", clips[0].audio_path or path]
            for place in range(len(part)):
                picture = folder / f"{number}-{first + place}.jpg"
                command += ["-map", f"{place}:v:0", "-frames:v", "1", "-vf", fit, "-threads", "1"]
                command += ["-pix_fmt", "yuvj444p", "-q:v", "2", "-update", "1", "-f", "image2", str(picture)]
            if first == 0:
                command += ["-map", f"{len(part)}:a:0", "-ac", "1", "-ar", str(clip.sample_rate_hz)]
                command += ["-f", "s16le", str(folder / f"{number}.pcm")]
            commands.append(command)
    return commands


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if done.returncode:
        raise InternalError(f"ffmpeg ended with {done.returncode}: {done.stderr.strip()[-300:]}")
