"""The benchmark of loading: its figures follow from the measurements, and FFmpeg gets the same instants."""

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
from benchmarks.speed.cpu_time import CPUTime
from benchmarks.speed.data import NAMES
from benchmarks.speed.data_ceiling import _MAX_INPUTS, ffmpeg_commands, timed_ffmpeg
from benchmarks.speed.settings import BenchSettings
from cmmixer.config import ClipSettings, SynthesizeSettings
from cmmixer.data.manifest import Entry
from cmmixer.data.segments import Segment
from cmmixer.errors import InternalError, SettingsError
from cmmixer.media.decode import MediaFile
from cmmixer.media.timeline import frame_instants
from cmmixer.synthetic.generate import synthesize
from cmmixer.types import Span

CLIP = ClipSettings(frames=2, height=48, width=48, clip_seconds=1.0, window_seconds=0.5, sample_rate_hz=16000)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    synthesize(SynthesizeSettings(clips=2, out=str(folder), seconds=4.5, size=64, workers=1))
    return folder


def test_data_benchmark_on_two_videos(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "data.json"
    report = bench(
        BenchSettings(
            what="data",
            videos=str(videos),
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
    assert (figures["preset"], figures["frames"], figures["workers"], figures["synthetic"]) == ("nano", 4, 1, False)
    assert figures["audio_bytes_per_clip"] == 4 * 16000 * 2
    assert figures["store"]["clips"] == 2
    # Audio uncompressed, frames compressed.
    assert 128_000 < figures["store"]["bytes_per_clip"] < 128_000 + 4 * 64 * 64 * 3
    assert list(figures["reading"]) == list(NAMES)
    for row in figures["reading"].values():
        low, high = row["clips_per_second_range"]
        assert 0 < low <= row["clips_per_second"] <= high
    rates = {name: row["clips_per_cpu_second"] for name, row in figures["reading"].items()}
    assert rates["jpeg"] > rates["videos"]
    # The median of two turns is their mean, which differs between ratios and rates.
    assert figures["store_times_videos_cpu"] == pytest.approx(rates["store"] / rates["videos"], rel=0.5)
    assert figures["store_share_of_ceiling_cpu"] == pytest.approx(rates["store"] / rates["jpeg"], rel=0.5)
    prepared = figures["prepare"]
    assert (prepared["videos"], prepared["clips"], prepared["video_seconds"]) == (2, 2, 8.0)
    assert prepared["videos_per_second"] == pytest.approx(2 / prepared["seconds"])
    assert prepared["cpu_seconds"] > 0
    if shutil.which("ffmpeg"):
        assert prepared["ffmpeg"]["cpu_seconds"] > 0
        assert prepared["times_ffmpeg"] == pytest.approx(prepared["seconds"] / prepared["ffmpeg"]["seconds"], rel=0.5)
    assert f"{figures['store_share_of_ceiling']:.0%} of the upper bound" in report.title
    assert [row[0] for row in report.rows] == [*NAMES.values(), "prepare", "FFmpeg, same seeks and scaling"]
    assert figures["command"].startswith(f"python -m benchmarks.speed data --videos {videos} ")


def segments(videos: Path, count: int = 4) -> list[Segment]:
    spans = [Span(float(start), start + 1.0) for start in range(count)]
    return [
        Segment(Entry(str(video), str(video), video.stem), span)
        for video in sorted(videos.glob("*.mp4"))
        for span in spans
    ]


def test_ffmpeg_decodes_the_frames_and_audio_of_prepare(videos: Path, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    wanted = segments(videos)
    seconds = timed_ffmpeg(wanted, CLIP, 2, tmp_path / "out")
    assert seconds is not None
    assert min(seconds) > 0
    for number, segment in enumerate(wanted):
        instants = frame_instants(segment.span, CLIP.frames)
        with MediaFile.open(segment.path) as video:
            # FFmpeg decodes the first frame after the instant, `prepare` the one on screen.
            either = [video.frames(instants + later, 48, 48).pixels_THWC for later in (0.0, 1 / 12.5)]
        for frame in range(CLIP.frames):
            place, image = divmod(number * CLIP.frames + frame, 8)
            theirs = np.asarray(Image.open(tmp_path / f"out/{place}-{image}.jpg").convert("RGB")).astype(int)
            assert min(np.abs(theirs - pixels_THWC[frame]).mean() for pixels_THWC in either) < 3
    assert (tmp_path / "out/0.pcm").stat().st_size == pytest.approx(2 * 16000 * 4.5, rel=0.05)


def test_long_video_needs_several_ffmpeg_commands_and_its_audio_once(tmp_path: Path) -> None:
    video = tmp_path / "long.mp4"
    spans = [Span(float(start), start + 1.0) for start in range(_MAX_INPUTS)]
    commands = ffmpeg_commands(
        "ffmpeg",
        [Segment(Entry(str(video), "long.mp4", "long", audio_path="its.wav"), s) for s in spans],
        CLIP,
        tmp_path,
    )
    assert [command.count("-ss") for command in commands] == [_MAX_INPUTS, _MAX_INPUTS]
    assert [command.count("its.wav") for command in commands] == [1, 0]
    assert len({part for command in commands for part in command if part.endswith(".jpg")}) == 2 * _MAX_INPUTS


def test_missing_ffmpeg_gives_none_and_failing_ffmpeg_raises(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert timed_ffmpeg(segments(videos), CLIP, 1, tmp_path / "out") is None
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    with pytest.raises(InternalError, match="ffmpeg ended with 1"):
        timed_ffmpeg(segments(videos), CLIP, 1, tmp_path / "out")


BURN = "import time\nwhile time.process_time() < 0.4: pass"


@pytest.mark.parametrize("waited", [True, False])
def test_cpu_time_includes_children(waited: bool) -> None:
    least = 0.38  # CPU time of the child, minus the rounding of the clock
    with CPUTime() as cpu_time:
        child = subprocess.Popen([sys.executable, "-c", BURN if waited else f"{BURN}\ntime.sleep(60)"])
        if waited:
            child.wait()
        else:
            end = time.monotonic() + 60
            while _cpu_seconds(child.pid) < least and time.monotonic() < end:
                time.sleep(0.05)
    if not waited:
        child.kill()
        child.wait()
    assert least <= cpu_time.seconds < 2.0


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_data_benchmark_refuses_bad_settings() -> None:
    with pytest.raises(SettingsError, match="--synthetic_videos: got 1, expected 2 or more"):
        BenchSettings(what="data", synthetic_videos=1)
    with pytest.raises(SettingsError, match="--turn_seconds: got 0"):
        BenchSettings(what="data", turn_seconds=0.0)
