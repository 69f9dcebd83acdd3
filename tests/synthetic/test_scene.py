"""Random scenes: everything follows from seed and index, twins differ in their timing only, and levels differ."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cmmixer.config.data import DIFFICULTIES
from cmmixer.errors import SettingsError
from cmmixer.synthetic.scene import LEVELS, SILENT_SHAPES, Level, Scene, draw_scene
from cmmixer.synthetic.world import SHAPES, Causes, pitch_hz


def test_other_seeds_share_nothing() -> None:
    scenes = [draw_scene(seed, index, "easy") for seed in range(4) for index in range(50)]
    radii = [scene.causes.bodies[0].radius for scene in scenes]
    noises = [scene.frame_nuisance.noise_seed for scene in scenes] + [
        scene.audio_nuisance.noise_seed for scene in scenes
    ]
    assert len(set(radii)) == len(scenes)
    assert len(set(noises)) == 2 * len(scenes)
    assert draw_scene(1, 0, "easy").causes != draw_scene(1, 0, "hard").causes


def test_a_scene_never_changes() -> None:
    """Frozen: a change here changes every synthetic video, and every number that was measured on them."""
    scene = draw_scene(7, 0, "medium")
    (body,) = scene.causes.bodies
    assert (body.shape, body.bounce_seconds, scene.label) == ("triangle", None, "triangle")
    assert (body.radius, body.stripes, body.bounce_phase) == pytest.approx(
        (0.16088907040010827, 3.693620503236226, 0.7066080953252863)
    )
    assert (body.u.middle, *body.u.amplitudes, *body.u.frequencies_hz, *body.u.phases) == pytest.approx(
        (
            0.594096733363069,
            0.11698790977303512,
            0.10301209022696488,
            0.4589274948846095,
            0.29649031606715515,
            0.7198138968774289,
            0.015166376000619652,
        )
    )
    wheel = scene.causes.wheel
    assert wheel is not None
    assert (wheel.spokes, wheel.right) == (5, True)
    assert (wheel.turns_per_second, wheel.phase) == pytest.approx((1.052931802786124, 0.5417106385207995))
    seen, heard = scene.frame_nuisance, scene.audio_nuisance
    assert (seen.noise_seed, heard.noise_seed) == (3703155723326418291, 4512820895243414432)
    assert [silent.shape for silent in seen.silent] == ["bar", "bar"]
    assert [*seen.colors[0], *seen.offset, seen.noise] == pytest.approx(
        [
            0.6792314008014289,
            0.5426195376706446,
            0.4982749680707077,
            -0.04554409836406124,
            0.017897053850775196,
            5.755413420412987,
        ]
    )
    assert [heard.gain, heard.noise, *heard.echoes[0]] == pytest.approx(
        [1.4101820013135533, 0.008120459416362899, 0.042547916197870524, 0.10475069747025322]
    )


def test_a_twin_never_changes() -> None:
    body = draw_scene(7, 1, "hard", twins=True).causes.bodies[0]
    assert body.shape == "cross"
    assert (*body.u.phases, *body.height.phases, body.bounce_phase) == pytest.approx(
        (0.8674616157468783, 0.1637599825386712, 0.2265291390014973, 0.4850459031097174, 0.2419980913710852)
    )


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_causes_and_nuisance_stay_in_the_ranges_of_their_level(difficulty: str) -> None:
    level: Level = LEVELS[difficulty]
    for index in range(150):
        scene = draw_scene(11, index, difficulty)
        for body in scene.causes.bodies:
            assert body.shape in SHAPES
            assert level.radius[0] <= body.radius <= level.radius[1]
            assert level.stripes[0] <= body.stripes <= level.stripes[-1]
            assert level.smooth or body.stripes in level.stripes
            assert body.bounce_seconds is None or 0.35 <= body.bounce_seconds <= 1.2
            assert sum(body.height.amplitudes) == pytest.approx(0.5)
        wheel = scene.causes.wheel
        assert wheel is None or 2 <= wheel.spokes <= 6
        seen, heard = scene.frame_nuisance, scene.audio_nuisance
        assert level.silent_bodies[0] <= len(seen.silent) <= level.silent_bodies[1]
        assert all(body.shape in SILENT_SHAPES for body in seen.silent)
        assert all(abs(offset) <= level.camera_offset for offset in seen.offset)
        assert level.camera_noise / 2 <= seen.noise <= level.camera_noise
        assert all(0.0 <= value <= 1.0 for color in seen.colors for value in color)
        assert len(heard.echoes) == level.echoes[0]
        assert [delay for delay, _ in heard.echoes] == sorted(delay for delay, _ in heard.echoes)
        assert all(0.02 <= delay <= 0.2 and 0 < strength <= level.echoes[1] for delay, strength in heard.echoes)
        assert abs(20 * np.log10(heard.gain)) <= level.gain_db + 1e-9
        assert level.room_noise_db - 6 <= 20 * np.log10(heard.noise) <= level.room_noise_db


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_probabilities_of_a_level(difficulty: str) -> None:
    level, scenes = LEVELS[difficulty], [draw_scene(13, index, difficulty) for index in range(300)]
    bodies = [body for scene in scenes for body in scene.causes.bodies]
    assert np.mean([scene.causes.wheel is not None for scene in scenes]) == pytest.approx(level.wheel, abs=0.08)
    assert np.mean([len(scene.causes.bodies) == 2 for scene in scenes]) == pytest.approx(level.second_body, abs=0.08)
    assert np.mean([body.bounce_seconds is not None for body in bodies]) == pytest.approx(level.bouncing, abs=0.08)


def test_twins_ahead_by_nothing_are_equal() -> None:
    first, second = (draw_scene(3, index, "easy", twins=True, twin_ahead_seconds=0.0) for index in (4, 5))
    for one, other in zip(first.causes.bodies, second.causes.bodies, strict=True):
        assert other.u.phases == pytest.approx(one.u.phases)
        assert other.height.phases == pytest.approx(one.height.phases)


def test_every_shape_occurs_and_is_the_label() -> None:
    labels = [draw_scene(1, index, "easy").label for index in range(200)]
    assert set(labels) == set(SHAPES)
    assert min(labels.count(shape) for shape in SHAPES) >= 20


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_twins_differ_in_their_timing_only(difficulty: str) -> None:
    def untimed(scene: Scene) -> Scene:
        bodies = tuple(
            dataclasses.replace(
                body,
                u=dataclasses.replace(body.u, phases=(0.0, 0.0)),
                height=dataclasses.replace(body.height, phases=(0.0, 0.0)),
                bounce_phase=0.0,
            )
            for body in scene.causes.bodies
        )
        wheel = scene.causes.wheel and dataclasses.replace(scene.causes.wheel, phase=0.0)
        return dataclasses.replace(scene, causes=Causes(bodies, wheel))

    for pair in range(20):
        first, second = (draw_scene(3, 2 * pair + one, difficulty, twins=True) for one in (0, 1))
        assert first == draw_scene(3, 2 * pair, difficulty)
        assert untimed(first) == untimed(second)
        for one, other in zip(first.causes.bodies, second.causes.bodies, strict=True):
            assert not set(one.height.phases) & set(other.height.phases)
            assert one.bounce_phase != other.bounce_phase
        assert draw_scene(3, 2 * pair + 1, difficulty, twins=True) == second


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_twin_ahead_does_what_the_other_does_later(difficulty: str) -> None:
    times = np.linspace(0.0, 3.0, 31)
    for pair in range(20):
        first, second = (
            draw_scene(3, 2 * pair + one, difficulty, twins=True, twin_ahead_seconds=0.3) for one in (0, 1)
        )
        assert first == draw_scene(3, 2 * pair, difficulty)
        assert (first.frame_nuisance, first.audio_nuisance) == (second.frame_nuisance, second.audio_nuisance)
        for one, other in zip(first.causes.bodies, second.causes.bodies, strict=True):
            np.testing.assert_allclose(other.centers(times), one.centers(times + 0.3), atol=1e-9)
            if one.bounce_seconds is not None:
                later = one.impacts(3.3) - 0.3
                np.testing.assert_allclose(other.impacts(3.0), later[later >= 0], atol=1e-9)
        one_wheel, other_wheel = first.causes.wheel, second.causes.wheel
        if one_wheel is not None:
            assert other_wheel is not None
            later = one_wheel.clicks(3.3) - 0.3
            np.testing.assert_allclose(other_wheel.clicks(3.0), later[later >= 0], atol=1e-9)


def test_hard_scenes_vary_less_and_have_more_noise() -> None:
    measured = {}
    for difficulty in ("easy", "hard"):
        scenes = [draw_scene(1, index, difficulty) for index in range(100)]
        octaves = np.log2([pitch_hz(scene.causes.bodies[0].radius) for scene in scenes])
        measured[difficulty] = (octaves.std(), np.mean([scene.frame_nuisance.noise for scene in scenes]))
    assert measured["hard"][0] < 0.6 * measured["easy"][0]
    assert measured["hard"][1] > 4 * measured["easy"][1]


def test_an_unknown_difficulty_is_refused() -> None:
    with pytest.raises(SettingsError, match="--difficulty: got 'eazy', expected one of easy, medium, hard"):
        draw_scene(0, 0, "eazy")
