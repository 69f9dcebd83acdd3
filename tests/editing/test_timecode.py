"""Timecodes equal those of OpenTimelineIO, and every video gets a rate that editing programs have."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import opentimelineio as otio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmmixer.editing.timecode import FrameRate

NTSC = Fraction(30000, 1001)
RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), NTSC, Fraction(30), Fraction(50), Fraction(60000, 1001)]


@pytest.mark.parametrize("rate", RATES)
def test_timecodes_equal_those_of_opentimelineio(rate: Fraction) -> None:
    ours = FrameRate(rate)
    generator = np.random.default_rng(0)
    day = ours.frames(24 * 3600) - 1
    chosen = [0, 1, 1799, 1800, 1801, 17981, 17982, 17983, 35963, 35964, *map(int, generator.integers(0, day, 2000))]
    for frame in chosen:
        theirs = otio.opentime.RationalTime(frame, float(rate)).to_timecode(float(rate), ours.drops)
        assert ours.timecode(frame) == theirs
        assert ours.frames(ours.seconds_of(theirs)) == frame  # type: ignore[arg-type]


def slow_drop_frame(frame: int, nominal: int) -> str:
    """Counts numbers one by one, and skips those that are dropped."""
    number = 0
    for _ in range(frame):
        number += 1
        minutes, rest = divmod(number, nominal * 60)
        if rest == 0 and minutes % 10:
            number += nominal // 15
    seconds, frames = divmod(number, nominal)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d};{frames:02d}"


@pytest.mark.parametrize(("rate", "nominal"), [(NTSC, 30), (Fraction(60000, 1001), 60)])
def test_drop_frame_equals_counting(rate: Fraction, nominal: int) -> None:
    for frame in (0, 1, 1799, 1800, 1801, 3597, 3598, 3599, 17981, 17982, 17983, 40000):
        assert FrameRate(rate).timecode(frame) == slow_drop_frame(frame, nominal)


def test_drop_frame_by_hand() -> None:
    rate = FrameRate(NTSC)
    assert rate.drops
    # ;00 and ;01 of every minute except each tenth do not exist; an hour on the clock is an hour of the count.
    assert [rate.timecode(frame) for frame in (1799, 1800, 17982)] == ["00:00:59;29", "00:01:00;02", "00:10:00;00"]
    assert rate.timecode(rate.frames(3600.0)) == "01:00:00;00"


@pytest.mark.parametrize(("rate", "drops"), [(rate, rate.denominator == 1001 and rate > 25) for rate in RATES])
def test_only_29_97_and_59_94_drop_frames(rate: Fraction, drops: bool) -> None:
    assert FrameRate(rate).drops == drops


def test_timecodes_wrap_around_after_a_day() -> None:
    assert FrameRate(Fraction(25)).timecode(25 * 3600 * 24 + 1) == "00:00:00:01"


@pytest.mark.parametrize("rate", RATES)
@given(seconds=st.floats(0.0, 80_000.0))
def test_the_nearest_frame_is_at_most_half_a_frame_away(rate: Fraction, seconds: float) -> None:
    frame = FrameRate(rate).frames(seconds)
    assert abs(float(frame / rate) - seconds) <= 0.5 / float(rate) + 1e-6


@pytest.mark.parametrize("rate", RATES)
@given(frame=st.integers(0, 24 * 3600 * 20))
def test_timecodes_are_read_back(rate: Fraction, frame: int) -> None:
    ours = FrameRate(rate)
    assert ours.seconds_of(ours.timecode(frame)) == pytest.approx(float(frame / rate), abs=1e-6)


@pytest.mark.parametrize(
    "text", ["", "01:02:03", "1:02:03:04", "01:02:03:4", "aa:bb:cc:dd", "01:02:03:04x", "-1:02:03:04"]
)
def test_what_is_no_timecode(text: str) -> None:
    assert FrameRate(Fraction(25)).seconds_of(text) is None


@pytest.mark.parametrize("text", ["00:00:01:05", "00:00:01;05", "00:00:01.05", " 00:00:01:05\n"])
def test_separators_and_spaces_do_not_matter(text: str) -> None:
    assert FrameRate(Fraction(25)).seconds_of(text) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("frames_per_second", "exact"),
    [
        (29.97, NTSC),
        (30000 / 1001, NTSC),
        (14.985, NTSC),
        (23.976, Fraction(24000, 1001)),
        (12.5, Fraction(25)),
        (15.0, Fraction(30)),
        (10.0, Fraction(30)),
        (8.0, Fraction(24)),
        (28.7, NTSC),
        (120.0, Fraction(60)),
        (1e-12, Fraction(24000, 1001)),
    ],
)
def test_every_video_gets_a_standard_rate(frames_per_second: float, exact: Fraction) -> None:
    assert FrameRate.fitting(frames_per_second).exact == exact
