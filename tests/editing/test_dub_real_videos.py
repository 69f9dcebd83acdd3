"""Real videos with real sounds: every packet is copied, and an independent meter agrees on the loudness."""

from __future__ import annotations

from pathlib import Path

import pyloudnorm
import pytest

import cmmixer
from tests.editing.test_dub import RATE, decoded_audio, video_packets


@pytest.mark.data
@pytest.mark.parametrize("number", [0, 40, 80])
def test_real_videos_with_real_sounds(real_media: Path, tmp_path: Path, number: int) -> None:
    video = sorted((real_media / "films").glob("*.mp4"))[number]
    audio = sorted((real_media / "esc50").rglob("*.ogg"))[3 * number]
    out = tmp_path / "dubbed.mp4"
    report = cmmixer.dub(cmmixer.DubSettings(video=str(video), audio=str(audio), out=str(out)))
    before, after = video_packets(video), video_packets(out)
    assert [data for _, data in after] == [data for _, data in before]
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-3)
    measured = pyloudnorm.Meter(RATE).integrated_loudness(decoded_audio(out))
    assert report.loudness_lufs == pytest.approx(measured, abs=0.2)
    # A sound of a few strokes in silence cannot reach the target, and the report says so.
    assert measured == pytest.approx(-23.0, abs=0.5) or (
        report.limited and "could not be reached" in str(report.render())
    )
