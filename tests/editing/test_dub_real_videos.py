"""Real films under real sounds: every packet as it was, and as loud as an independent meter says."""

from __future__ import annotations

from pathlib import Path

import pyloudnorm
import pytest

import cmmixer
from tests.editing.test_dub import RATE, heard, packets


@pytest.mark.data
@pytest.mark.parametrize("number", [0, 40, 80])
def test_real_films_and_sounds(real_media: Path, tmp_path: Path, number: int) -> None:
    film = sorted((real_media / "films").glob("*.mp4"))[number]
    sound = sorted((real_media / "esc50").rglob("*.ogg"))[3 * number]
    out = tmp_path / "dubbed.mp4"
    report = cmmixer.dub(cmmixer.DubSettings(film=str(film), sound=str(sound), out=str(out)))
    before, after = packets(film), packets(out)
    assert [data for _, data in after] == [data for _, data in before]
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-3)
    measured = pyloudnorm.Meter(RATE).integrated_loudness(heard(out))
    assert report.loudness_lufs == pytest.approx(measured, abs=0.2)
    # Where a sound is a few strokes in silence, it ends below the target and the report says so.
    assert measured == pytest.approx(-23.0, abs=0.5) or (
        report.limited and "could not be reached" in str(report.render())
    )
