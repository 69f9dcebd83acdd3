"""`cmmixer bench data`: what it tells follows from what was read, and FFmpeg is asked for the same pictures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.speed.bench import bench
from benchmarks.speed.cpu_time import ProcessorTime
from benchmarks.speed.data import NAMES
from benchmarks.speed.data_ceiling import _MOST_INPUTS, ffmpeg_commands, timed_ffmpeg
from benchmarks.speed.settings import BenchSettings
from cmmixer.config import ClipSettings, SynthesizeSettings
from cmmixer.data.clips import ClipRef
from cmmixer.errors import InternalError, SettingsError
from cmmixer.media.decode import Film
from cmmixer.media.timeline import frame_instants
from cmmixer.synthetic.generate import synthesize
from cmmixer.types import Span

CLIP = ClipSettings(frames=2, height=48, width=48, clip_seconds=1.0, window_seconds=0.5, sample_rate_hz=16000)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    synthesize(SynthesizeSettings(clips=2, out=str(folder), seconds=4.5, size=64, workers=1))
    return folder


def test_a_small_run(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "data.json"
    report = bench(
        BenchSettings(
            what="data",
            films=str(films),
            preset="nano",
            rounds=2,
            batch_size=2,
            workers=1,
            turn_seconds=0.1,
            out=str(out),
        )
    )
    figures = json.loads(out.read_text())
    assert figures == report.figures
    assert (figures["preset"], figures["frames"], figures["workers"], figures["films_made"]) == ("nano", 4, 1, False)
    assert figures["sound_bytes_per_clip"] == 4 * 16000 * 2
    assert figures["store"]["clips"] == 2
    # Sound as it is, pictures smaller than they are.
    assert 128_000 < figures["store"]["bytes_per_clip"] < 128_000 + 4 * 64 * 64 * 3
    assert list(figures["reading"]) == list(NAMES)
    for row in figures["reading"].values():
        low, high = row["clips_per_second_range"]
        assert 0 < low <= row["clips_per_second"] <= high
    of = {name: row["clips_per_processor_second"] for name, row in figures["reading"].items()}
    assert of["jpeg"] > of["films"]
    # Of two turns the median is the mean, of ratios and of rates not quite the same.
    assert figures["store_times_films_processor"] == pytest.approx(of["store"] / of["films"], rel=0.5)
    assert figures["store_share_of_ceiling_processor"] == pytest.approx(of["store"] / of["jpeg"], rel=0.5)
    prepared = figures["prepare"]
    assert (prepared["films"], prepared["clips"], prepared["film_seconds"]) == (2, 2, 8.0)
    assert prepared["films_per_second"] == pytest.approx(2 / prepared["seconds"])
    assert prepared["processor_seconds"] > 0
    if shutil.which("ffmpeg"):
        assert prepared["ffmpeg"]["processor_seconds"] > 0
        assert prepared["times_ffmpeg"] == pytest.approx(prepared["seconds"] / prepared["ffmpeg"]["seconds"], rel=0.5)
    assert f"{figures['store_share_of_ceiling']:.0%} of the ceiling" in report.title
    assert [row[0] for row in report.rows] == [*NAMES.values(), "prepare", "FFmpeg, the same seeks and scaling"]
    assert f"cmmixer bench data --films {films}" in figures["command"]


def refs(films: Path, count: int = 4) -> list[ClipRef]:
    spans = [Span(float(start), start + 1.0) for start in range(count)]
    return [
        ClipRef(f"{film}#{span.start_seconds}", str(film), None, span, film.stem, None)
        for film in sorted(films.glob("*.mp4"))
        for span in spans
    ]


def test_ffmpeg_gives_the_pictures_and_the_sound_that_prepare_stores(films: Path, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    asked = refs(films)
    seconds = timed_ffmpeg(asked, CLIP, 2, tmp_path / "out")
    assert seconds is not None
    assert min(seconds) > 0
    for number, ref in enumerate(asked):
        instants = frame_instants(ref.span, CLIP.frames)
        with Film.open(ref.path) as film:
            # FFmpeg gives the first frame that begins at the instant or later, `prepare` the one on screen.
            either = [film.frames(instants + later, 48, 48).pixels_THWC for later in (0.0, 1 / 12.5)]
        for frame in range(CLIP.frames):
            place, picture = divmod(number * CLIP.frames + frame, 8)
            theirs = np.asarray(Image.open(tmp_path / f"out/{place}-{picture}.jpg").convert("RGB")).astype(int)
            assert min(np.abs(theirs - pixels_THWC[frame]).mean() for pixels_THWC in either) < 3
    assert (tmp_path / "out/0.pcm").stat().st_size == pytest.approx(2 * 16000 * 4.5, rel=0.05)


def test_a_long_film_takes_several_commands_and_its_sound_once(tmp_path: Path) -> None:
    film = tmp_path / "long.mp4"
    spans = [Span(float(start), start + 1.0) for start in range(_MOST_INPUTS)]
    commands = ffmpeg_commands(
        "ffmpeg", [ClipRef(str(s), str(film), "its.wav", s, "long", None) for s in spans], CLIP, tmp_path
    )
    assert [command.count("-ss") for command in commands] == [_MOST_INPUTS, _MOST_INPUTS]
    assert [command.count("its.wav") for command in commands] == [1, 0]
    assert len({part for command in commands for part in command if part.endswith(".jpg")}) == 2 * _MOST_INPUTS


def test_without_ffmpeg_it_is_left_out_and_a_failure_is_told(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert timed_ffmpeg(refs(films), CLIP, 1, tmp_path / "out") is None
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    with pytest.raises(InternalError, match="ffmpeg ended with 1"):
        timed_ffmpeg(refs(films), CLIP, 1, tmp_path / "out")


BURN = "import time\nwhile time.process_time() < 0.4: pass"


@pytest.mark.parametrize("waited", [True, False])
def test_processor_time_is_that_of_children_too(waited: bool) -> None:
    least = 0.38  # what the child burns, less the rounding of the system's clock
    with ProcessorTime() as processor:
        child = subprocess.Popen([sys.executable, "-c", BURN if waited else f"{BURN}\ntime.sleep(60)"])
        if waited:
            child.wait()
        else:
            end = time.monotonic() + 60
            while _spent(child.pid) < least and time.monotonic() < end:
                time.sleep(0.05)
    if not waited:
        child.kill()
        child.wait()
    assert least <= processor.seconds < 2.0


def _spent(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_bad_settings() -> None:
    with pytest.raises(SettingsError, match="--made_films: got 1, expected 2 or more"):
        BenchSettings(what="data", made_films=1)
    with pytest.raises(SettingsError, match="--turn_seconds: got 0"):
        BenchSettings(what="data", turn_seconds=0.0)
