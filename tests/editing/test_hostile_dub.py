"""Damaged and unusual files are dubbed, or refused in one line without leaving a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cmmixer.config import DubSettings
from cmmixer.editing.dub import DubJob, DubReport, run_job
from cmmixer.errors import MediaError
from cmmixer.media.encode import write_audio
from cmmixer.media.sandbox import map_sandboxed
from tests.support.counting_videos import counting_pixels, tone, write

# All 336 would take minutes.
_EVERY = 10


@pytest.mark.data
@pytest.mark.parametrize("role", ["video", "audio"])
def test_every_hostile_file_is_used_or_refused_in_one_line(real_media: Path, tmp_path: Path, role: str) -> None:
    good = {
        "video": str(write(tmp_path / "video.mp4", pixels=counting_pixels(10))),
        "audio": str(tmp_path / "sound.wav"),
    }
    write_audio(good["audio"], tone(1.0, 48000), 48000)
    hostile = real_media / "hostile"
    files = sorted(hostile.glob("*/*"))[::_EVERY]
    jobs = []
    for number, file in enumerate(files):
        out = str(tmp_path / f"{number}.mkv")
        jobs.append(DubJob(DubSettings(**{**good, role: str(file)}, out=out, file_seconds=20.0), out))
    outcomes: Counter[str] = Counter()
    for job, result in map_sandboxed(run_job, jobs, workers=2, seconds_each=30.0):
        if isinstance(result, MediaError):
            assert "\n" not in str(result)
            assert result.path == getattr(job.settings, role)
            assert result.reason in ("unreadable", "empty", "not-a-file", "no-video", "no-audio", "silent")
            outcomes["refused"] += 1
        else:
            assert isinstance(result, DubReport)
            assert Path(job.temporary).stat().st_size > 300
            outcomes["used"] += 1
    assert outcomes["used"] > 12
    assert outcomes["refused"] > 8
