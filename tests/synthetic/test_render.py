"""Frames of scenes, and whole clips as arrays: what the causes say is seen, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cmmixer.config import ClipSettings
from cmmixer.config.data import DIFFICULTIES
from cmmixer.synthetic.audio import render_audio
from cmmixer.synthetic.render import render_clip, render_frames, synthetic_arrays
from cmmixer.synthetic.scene import SilentBody, draw_scene
from cmmixer.synthetic.world import FLOOR_V, SHAPES, Wave, Wheel
from tests.support.scenes import RATE, body_of, scene_of, still

CLIP = ClipSettings(frames=4, height=48, width=48, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=RATE)

# Every eighth pixel of a frame of 24 x 32, channel by channel.
FROZEN = {
    "easy": [
        [43, 47, 56, 39, 44, 38, 43, 52, 48, 130, 38, 20],
        [39, 49, 52, 43, 51, 43, 47, 60, 61, 238, 46, 21],
        [52, 60, 62, 55, 52, 48, 50, 59, 63, 200, 46, 18],
    ],
    "medium": [
        [52, 32, 16, 38, 67, 61, 55, 28, 42, 101, 121, 16],
        [55, 40, 31, 39, 66, 70, 51, 25, 41, 98, 118, 19],
        [53, 18, 1, 6, 29, 30, 26, 0, 5, 54, 119, 28],
    ],
    "hard": [
        [54, 78, 85, 63, 59, 60, 91, 97, 76, 111, 98, 68],
        [22, 71, 81, 35, 22, 20, 73, 64, 26, 88, 78, 85],
        [66, 106, 88, 59, 53, 31, 102, 74, 58, 78, 69, 65],
    ],
}


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_frames_never_change(difficulty: str) -> None:
    frames = render_frames(draw_scene(7, 0, difficulty), np.array([0.4]), 24, 32)
    # CPUs differ in the last bit of a sine, which may round to another level.
    np.testing.assert_allclose(frames[0, :, 4::8, 4::8].reshape(3, -1), FROZEN[difficulty], atol=1)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_same_seed_gives_the_same_bytes(difficulty: str) -> None:
    one = synthetic_arrays(6, CLIP, seed=3, difficulty=difficulty)
    two = synthetic_arrays(6, CLIP, seed=3, difficulty=difficulty)
    assert one.video_NTCHW.tobytes() == two.video_NTCHW.tobytes()
    assert one.audio_NTS.tobytes() == two.audio_NTS.tobytes()
    assert one.causes == two.causes
    assert one.video_NTCHW.shape == (6, 4, 3, 48, 48)
    assert one.audio_NTS.shape == (6, 4, 16000)
    assert (one.video_NTCHW.dtype, one.audio_NTS.dtype) == (np.uint8, np.int16)


def test_a_video_does_not_depend_on_how_many_are_rendered() -> None:
    many = synthetic_arrays(8, CLIP, seed=3, difficulty="medium")
    few = synthetic_arrays(2, CLIP, seed=3, difficulty="medium", first=5)
    np.testing.assert_array_equal(many.video_NTCHW[5:7], few.video_NTCHW)
    np.testing.assert_array_equal(many.audio_NTS[5:7], few.audio_NTS)
    assert many.labels[5:7] == few.labels


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("ahead", [None, 0.3])
def test_arrays_of_twins_differ(difficulty: str, ahead: float | None) -> None:
    clips = synthetic_arrays(4, CLIP, seed=3, difficulty=difficulty, twins=True, twin_ahead_seconds=ahead)
    assert clips.labels[::2] == clips.labels[1::2]
    assert (clips.video_NTCHW[0] != clips.video_NTCHW[1]).any()
    assert (clips.audio_NTS[0] != clips.audio_NTS[1]).any()


def test_progress_advances_with_every_video() -> None:
    steps: list[int] = []
    clips = synthetic_arrays(3, CLIP, seed=0, difficulty="easy", advance=steps.append)
    assert steps == [1, 1, 1]
    assert [row["bodies"][0]["shape"] for row in clips.causes] == clips.labels


def test_a_larger_body_covers_more_pixels() -> None:
    area = []
    for radius in (0.12, 0.18, 0.25):
        scene = scene_of(body_of(radius=radius))
        empty = render_frames(scene_of(), np.array([1.0]), 64, 64).astype(int)
        seen = render_frames(scene, np.array([1.0]), 64, 64).astype(int)
        area.append(int((np.abs(seen - empty).max(axis=1) > 40).sum()) / 64**2)
    np.testing.assert_allclose(area, np.pi * np.array([0.12, 0.18, 0.25]) ** 2, rtol=0.12)


def test_a_body_is_where_its_causes_say() -> None:
    scene = scene_of(body_of(radius=0.12, u=still(0.3), height=still(0.8)))
    frame = render_frames(scene, np.array([1.0]), 96, 96)[0]
    u, v = scene.causes.bodies[0].centers(np.array([1.0]))
    assert frame[:, int(v[0] * 96), int(u[0] * 96)] / 255 == pytest.approx(scene.frame_nuisance.colors[0], abs=0.01)


def test_spokes_and_their_turning_are_seen() -> None:
    wheel = Wheel(spokes=4, turns_per_second=1.0, phase=0.0, right=True)
    frames = render_frames(scene_of(wheel=wheel), np.array([0.0, 0.125, 0.25]), 128, 128).astype(int)
    same, other = np.abs(frames[0] - frames[2])[:, 84:, 90:], np.abs(frames[0] - frames[1])[:, 84:, 90:]
    assert other.mean() > 10 * (same.mean() + 0.01)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_nuisance_of_one_modality_does_not_touch_the_other(difficulty: str) -> None:
    scene, other = draw_scene(5, 0, difficulty), draw_scene(6, 1, difficulty)
    seen_otherwise = dataclasses.replace(scene, frame_nuisance=other.frame_nuisance)
    heard_otherwise = dataclasses.replace(scene, audio_nuisance=other.audio_nuisance)
    frames, windows = render_clip(scene, CLIP)
    assert render_clip(seen_otherwise, CLIP)[1].tobytes() == windows.tobytes()
    assert render_clip(seen_otherwise, CLIP)[0].tobytes() != frames.tobytes()
    assert render_clip(heard_otherwise, CLIP)[0].tobytes() == frames.tobytes()
    assert render_clip(heard_otherwise, CLIP)[1].tobytes() != windows.tobytes()


def test_a_wide_frame_is_the_middle_of_the_square_one() -> None:
    scene = scene_of(body_of(), wheel=Wheel(3, 1.0, 0.0, True))
    square = render_frames(scene, np.array([0.4]), 64, 64)
    np.testing.assert_array_equal(render_frames(scene, np.array([0.4]), 32, 64), square[:, :, 16:48])
    np.testing.assert_array_equal(render_frames(scene, np.array([0.4]), 64, 40), square[:, :, :, 12:52])


def test_a_frame_depends_on_its_instant_only() -> None:
    scene = draw_scene(1, 1, "hard")
    together = render_frames(scene, np.array([0.1, 0.7, 3.3]), 40, 40)
    for k, instant in enumerate((0.1, 0.7, 3.3)):
        np.testing.assert_array_equal(render_frames(scene, np.array([instant]), 40, 40)[0], together[k])


def test_windows_are_cut_from_the_whole_audio_and_zero_beyond() -> None:
    clip = dataclasses.replace(CLIP, window_seconds=2.0)
    scene = draw_scene(2, 0, "easy")
    samples = render_audio(scene, 4.0, RATE)
    _, windows = render_clip(scene, clip)
    assert not windows[0, :8000].any()
    np.testing.assert_array_equal(windows[0, 8000:], samples[:24000])
    np.testing.assert_array_equal(windows[1], samples[8000:40000])
    assert not windows[3, 24000:].any()


def area_of(shape: str, radius: float = 0.2, side: int = 128) -> float:
    """The part of the frame that a body of a shape covers."""
    scene = scene_of(body_of(shape=shape, radius=radius))
    seen = render_frames(scene, np.array([1.0]), side, side).astype(int)
    empty = render_frames(scene_of(), np.array([1.0]), side, side).astype(int)
    return float((np.abs(seen - empty).max(axis=1) > 40).mean())


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("disc", np.pi),
        ("square", 4 * 0.88**2),
        ("triangle", 3 * np.sqrt(3) * 0.6**2),
        ("cross", 4 * 0.36 * (2 - 0.36)),
        ("ring", np.pi * (1.0 - 0.48**2)),
    ],
)
def test_areas_of_shapes(shape: str, area: float) -> None:
    assert shape in SHAPES
    assert area_of(shape) == pytest.approx(area * 0.2**2, rel=0.08)


def test_stripes_darken_parts_of_a_body() -> None:
    plain, striped = (
        render_frames(scene_of(body_of(stripes=stripes)), np.array([1.0]), 96, 96)[0].astype(int)
        for stripes in (0.0, 4.0)
    )
    center = slice(40, 56)
    assert (striped[:, center, 48] <= plain[:, center, 48]).all()
    rows = striped[0, 33:60, 48]  # along the vertical axis of the body
    assert rows.max() > 3 * rows.min()


def test_a_moving_body_leaves_a_trail() -> None:
    moving = body_of(radius=0.08, u=Wave(0.5, (0.3, 0.0), (0.5, 0.1), (0.0, 0.0)))
    frame = render_frames(scene_of(moving), np.array([0.0]), 96, 96)[0].astype(int)
    empty = render_frames(scene_of(), np.array([0.0]), 96, 96)[0].astype(int)
    u, v = (float(values[0]) for values in moving.centers(np.array([0.0])))
    light = np.abs(frame - empty).sum(axis=0)[int(v * 96)]
    behind, ahead = light[int((u - 0.2) * 96) : int((u - 0.09) * 96)], light[int((u + 0.1) * 96) :]
    assert behind.max() > 20
    assert ahead.max() == 0


def test_an_impact_flashes_on_the_floor_and_fades() -> None:
    bouncing = body_of(bounce_seconds=0.8, bounce_phase=0.5, radius=0.1)
    scene = scene_of(bouncing)
    rows = slice(int(FLOOR_V * 96) - 1, int(FLOOR_V * 96) + 3)
    frames = render_frames(scene, np.array([0.41, 0.6, 1.15]), 96, 96).astype(int)[:, :, rows, 58:70]
    assert frames[0].mean() > frames[1].mean() > frames[2].mean()


def test_the_clapper_lights_up_at_a_click() -> None:
    wheel = Wheel(spokes=2, turns_per_second=1.0, phase=0.0, right=False)
    frames = render_frames(scene_of(wheel=wheel), np.array([0.0, 0.4]), 128, 128).astype(int)
    lit, dark = (frame[:, int(0.575 * 128) - 2 : int(0.575 * 128) + 2, int(0.17 * 128) - 1].mean() for frame in frames)
    assert lit > 220
    assert dark < 0.7 * lit


@pytest.mark.parametrize(("right", "column"), [(True, 106), (False, 21)])
def test_a_wheel_stands_on_its_side(right: bool, column: int) -> None:
    with_wheel = render_frames(scene_of(wheel=Wheel(3, 1.0, 0.0, right)), np.array([0.1]), 128, 128).astype(int)
    without = render_frames(scene_of(), np.array([0.1]), 128, 128).astype(int)
    columns = np.flatnonzero(np.abs(with_wheel - without).max(axis=(0, 1, 2)) > 10)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(column, abs=1.5)


def test_camera_movement_shifts_everything() -> None:
    scene = scene_of(body_of())
    moved = dataclasses.replace(scene.frame_nuisance, offset=(8 / 64, 0.0))
    flat = ((0.2, 0.2, 0.2), (0.2, 0.2, 0.2))
    frames = []
    for nuisance in (scene.frame_nuisance, moved):
        plain = dataclasses.replace(nuisance, background=flat, pattern=(1.0, 1.0, 0.0, 0.0))
        frames.append(render_frames(dataclasses.replace(scene, frame_nuisance=plain), np.array([0.0]), 64, 64)[0])
    np.testing.assert_allclose(frames[1][:, :, 8:].astype(int), frames[0][:, :, :-8].astype(int), atol=1)


def test_silent_bodies_are_drawn_behind_those_that_sound() -> None:
    scene = scene_of(body_of(radius=0.1))
    silent = SilentBody("diamond", 0.2, still(0.5), still(FLOOR_V - 0.12 - 0.35))
    with_silent = dataclasses.replace(scene, frame_nuisance=dataclasses.replace(scene.frame_nuisance, silent=(silent,)))
    before, after = (render_frames(one, np.array([0.0]), 64, 64)[0].astype(int) for one in (scene, with_silent))
    center = int((FLOOR_V - 0.47) * 64)
    np.testing.assert_array_equal(before[:, center, 32], after[:, center, 32])
    assert (np.abs(before - after).max(axis=0) > 20).sum() > 20


def test_camera_noise_has_its_standard_deviation_and_differs_from_frame_to_frame() -> None:
    scene = scene_of()
    noisy = dataclasses.replace(scene, frame_nuisance=dataclasses.replace(scene.frame_nuisance, noise=8.0))
    times = np.array([0.0, 0.5])
    difference = render_frames(noisy, times, 64, 64).astype(int) - render_frames(scene, times, 64, 64)
    assert difference[0].std() == pytest.approx(8.0, rel=0.05)
    assert abs(np.corrcoef(difference[0].ravel(), difference[1].ravel())[0, 1]) < 0.05
