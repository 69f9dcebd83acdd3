"""The laws of the synthetic world: paths, bounces, pitch, and when things are heard."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmmixer.synthetic.world import (
    FLOOR_V,
    GLIDE_OCTAVES,
    GRAVITY,
    Causes,
    Wave,
    Wheel,
    loudness,
    pitch_hz,
    ring_seconds,
    tremble_hz,
)
from tests.support.scenes import body_of, still

WAVE = Wave(0.5, (0.2, 0.1), (0.25, 0.4), (0.1, 0.7))


def test_a_wave_is_a_sum_of_sines() -> None:
    times = np.linspace(0.0, 5.0, 11)
    slow = [
        0.5 + 0.2 * math.sin(2 * math.pi * (0.25 * t + 0.1)) + 0.1 * math.sin(2 * math.pi * (0.4 * t + 0.7))
        for t in times
    ]
    np.testing.assert_allclose(WAVE.at(times), slow, atol=1e-12)


def test_the_slope_of_a_wave_is_its_derivative() -> None:
    times, step = np.linspace(0.0, 5.0, 50), 1e-5
    numeric = (WAVE.at(times + step) - WAVE.at(times - step)) / (2 * step)
    np.testing.assert_allclose(WAVE.slope(times), numeric, atol=1e-8)


@pytest.mark.parametrize(("radius", "hz"), [(0.18, 400.0), (0.10, 1374.4), (0.30, 136.8)])
def test_pitch_falls_with_the_radius(radius: float, hz: float) -> None:
    assert pitch_hz(radius) == pytest.approx(hz, abs=0.1)


def test_the_other_laws() -> None:
    assert ring_seconds(0.1) == pytest.approx(0.13)
    assert tremble_hz(2.5) == pytest.approx(4.0)
    np.testing.assert_allclose(loudness(np.array([0.0, 0.4, 0.8, 5.0])), [0.3, 0.65, 1.0, 1.0])


def test_a_floating_body_rises_and_glides_up() -> None:
    body = body_of(height=Wave(0.5, (0.5, 0.0), (0.25, 0.1), (0.0, 0.0)))
    times = np.array([0.0, 1.0, 3.0])
    u, v = body.centers(times)
    np.testing.assert_allclose(u, 0.5)
    np.testing.assert_allclose(v, FLOOR_V - 0.12 - 0.7 * np.array([0.5, 1.0, 0.0]), atol=1e-9)
    octaves = np.log2(body.frequency_hz(times) / pitch_hz(body.radius))
    np.testing.assert_allclose(octaves, GLIDE_OCTAVES * np.array([0.0, 0.5, -0.5]), atol=1e-9)


def test_speed_combines_both_directions() -> None:
    across = body_of(u=Wave(0.5, (0.1, 0.0), (1.0, 0.1), (0.0, 0.0)))
    up = body_of(height=Wave(0.5, (0.1, 0.0), (1.0, 0.1), (0.0, 0.0)))
    both = body_of(u=across.u, height=up.height)
    start = np.zeros(1)
    assert across.speed(start) == pytest.approx(0.2 * math.pi)
    assert up.speed(start) == pytest.approx(0.7 * 0.2 * math.pi)
    assert both.speed(start) == pytest.approx(math.hypot(0.2 * math.pi, 0.7 * 0.2 * math.pi))


@given(period=st.floats(0.35, 1.2), phase=st.floats(0.0, 0.999), duration=st.floats(0.1, 10.0))
def test_a_bouncing_body_is_on_the_floor_at_every_impact(period: float, phase: float, duration: float) -> None:
    body = body_of(bounce_seconds=period, bounce_phase=phase)
    times = body.impacts(duration)
    assert ((times >= 0) & (times < duration)).all()
    assert len(times) in (math.floor(duration / period), math.floor(duration / period) + 1)
    np.testing.assert_allclose(np.diff(times), period, rtol=1e-9)
    _, v = body.centers(times)
    np.testing.assert_allclose(v + body.radius, FLOOR_V, atol=1e-6)


def test_a_body_between_impacts_follows_a_parabola() -> None:
    body = body_of(bounce_seconds=0.8, bounce_phase=0.25)
    since = np.linspace(0.01, 0.79, 20)
    times = 0.2 + since
    np.testing.assert_allclose(body.since_impact(times), since, atol=1e-9)
    _, v = body.centers(times)
    np.testing.assert_allclose(FLOOR_V - body.radius - v, 0.5 * GRAVITY * since * (0.8 - since), atol=1e-9)
    assert (v < FLOOR_V - body.radius).all()


def test_a_bounce_rises_as_high_as_its_time_allows() -> None:
    rises = []
    for seconds in (0.5, 1.0):
        _, v = body_of(bounce_seconds=seconds).centers(np.array([seconds / 2]))
        rises.append(FLOOR_V - 0.18 - float(v[0]))
    assert rises[1] == pytest.approx(4 * rises[0])


def test_the_pitch_of_a_bouncing_body_is_constant() -> None:
    body = body_of(bounce_seconds=0.5, height=Wave(0.5, (0.5, 0.0), (0.25, 0.1), (0.0, 0.0)))
    np.testing.assert_array_equal(body.frequency_hz(np.linspace(0, 2, 5)), np.full(5, pitch_hz(0.18)))


@given(spokes=st.integers(2, 6), speed=st.floats(0.7, 1.5), phase=st.floats(0.0, 0.999), duration=st.floats(0.1, 10.0))
def test_a_wheel_clicks_when_a_spoke_is_on_top(spokes: int, speed: float, phase: float, duration: float) -> None:
    wheel = Wheel(spokes, speed, phase, right=True)
    times = wheel.clicks(duration)
    assert ((times >= 0) & (times < duration)).all()
    np.testing.assert_allclose(np.mod(wheel.turned(times) * spokes + 0.5, 1.0), 0.5, atol=1e-6)
    np.testing.assert_allclose(np.diff(times), 1 / (spokes * speed), rtol=1e-6)
    assert abs(len(times) - duration * spokes * speed) <= 1 + 1e-6


def test_seconds_since_a_click() -> None:
    wheel = Wheel(spokes=4, turns_per_second=0.5, phase=0.0, right=False)
    np.testing.assert_allclose(wheel.since_click(np.array([0.0, 0.1, 0.49, 0.6])), [0.0, 0.1, 0.49, 0.1], atol=1e-9)


def test_causes_are_described_with_what_follows_from_them() -> None:
    body = body_of(stripes=2.0, u=still(0.3))
    row = Causes((body,), Wheel(3, 1.0, 0.25, True)).as_dict()
    assert row == {
        "bodies": (
            {
                "shape": "disc",
                "radius": 0.18,
                "stripes": 2.0,
                "u": {"middle": 0.3, "amplitudes": (0.0, 0.0), "frequencies_hz": (0.1, 0.1), "phases": (0.0, 0.0)},
                "height": {"middle": 0.5, "amplitudes": (0.0, 0.0), "frequencies_hz": (0.1, 0.1), "phases": (0.0, 0.0)},
                "bounce_seconds": None,
                "bounce_phase": 0.0,
                "pitch_hz": 400.0,
                "tremble_hz": 3.2,
            },
        ),
        "wheel": {"spokes": 3, "turns_per_second": 1.0, "phase": 0.25, "right": True},
    }
    assert Causes((body,), None).as_dict()["wheel"] is None
