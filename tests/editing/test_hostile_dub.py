"""Files that were never films, or damaged ones: a film comes out, or one clear line and nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cmmixer.config import DubSettings
from cmmixer.editing.dub import DubReport, Job, make
from cmmixer.errors import MediaError
from cmmixer.media.encode import write_sound
from cmmixer.media.sandbox import map_isolated
from tests.support.counting_videos import counting_pixels, tone, write

# All 336 take minutes.
_EVERY = 10


@pytest.mark.data
@pytest.mark.parametrize("role", ["film", "sound"])
def test_every_hostile_file_is_used_or_refused_in_one_line(real_media: Path, tmp_path: Path, role: str) -> None:
    good = {"film": str(write(tmp_path / "film.mp4", pixels=counting_pixels(10))), "sound": str(tmp_path / "sound.wav")}
    write_sound(good["sound"], tone(1.0, 48000), 48000)
    hostile = real_media / "hostile"
    files = sorted(hostile.glob("*/*"))[::_EVERY]
    jobs = []
    for number, file in enumerate(files):
        out = str(tmp_path / f"{number}.mkv")
        jobs.append(Job(DubSettings(**{**good, role: str(file)}, out=out, file_seconds=20.0), out))
    seen: Counter[str] = Counter()
    for job, answer in map_isolated(make, jobs, workers=2, seconds_each=30.0):
        if isinstance(answer, MediaError):
            assert "\n" not in str(answer)
            assert answer.path == getattr(job.settings, role)
            assert answer.reason in ("unreadable", "empty", "not-a-file", "no-picture", "no-sound", "silent")
            seen["refused"] += 1
        else:
            assert isinstance(answer, DubReport)
            assert Path(job.draft).stat().st_size > 300
            seen["used"] += 1
    assert seen["used"] > 12
    assert seen["refused"] > 8
