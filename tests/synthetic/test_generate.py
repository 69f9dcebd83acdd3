"""Synthetic films: the picture causes the sound, nuisance tells nothing, and everything follows from the seed."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cmmixer.config import ClipSettings, SynthesizeSettings
from cmmixer.errors import DataError, SettingsError
from cmmixer.media.decode import Film
from cmmixer.storage.files import TEMPORARY
from cmmixer.synthetic.audio import _cycles, _harmonics, hear_film, white_noise
from cmmixer.synthetic.generate import synthesize
from cmmixer.synthetic.render import draw_frames, render_clip, synthetic_arrays
from cmmixer.synthetic.world import (
    DIFFICULTIES,
    FLOOR_V,
    SHAPES,
    Body,
    Causes,
    FilmPlan,
    Wave,
    Wheel,
    pitch_hz,
    plan_film,
    tremble_hz,
)

RATE = 16000
CLIP = ClipSettings(frames=4, height=48, width=48, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=RATE)


def still(value: float) -> Wave:
    return Wave(value, (0.0, 0.0), (0.1, 0.1), (0.0, 0.0))


def body_of(**changes: object) -> Body:
    plain = Body("disc", 0.18, 0.0, u=still(0.5), height=still(0.5), bounce_seconds=None, bounce_phase=0.0)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def film_of(*bodies: Body, wheel: Wheel | None = None) -> FilmPlan:
    """A film of chosen causes, without nuisance in its sound."""
    plan = plan_film(0, 0, "easy")
    quiet = dataclasses.replace(plan.sound, gain=1.0, noise=0.0, echoes=())
    clean = dataclasses.replace(plan.picture, noise=0.0, offset=(0.0, 0.0), shake=(still(0.0), still(0.0)))
    return FilmPlan(Causes(bodies, wheel), clean, quiet)


def strongest_hz(sound: NDArray[np.int16]) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 4 * RATE))
    return float(spectrum.argmax()) / 4


def energy(sound: NDArray[np.int16], start: float, seconds: float) -> float:
    part = sound[round(start * RATE) : round((start + seconds) * RATE)].astype(float)
    return float(np.mean(part**2))


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


def test_a_film_does_not_depend_on_how_many_there_are() -> None:
    many = synthetic_arrays(8, CLIP, seed=3, difficulty="medium")
    few = synthetic_arrays(2, CLIP, seed=3, difficulty="medium", first=5)
    np.testing.assert_array_equal(many.video_NTCHW[5:7], few.video_NTCHW)
    np.testing.assert_array_equal(many.audio_NTS[5:7], few.audio_NTS)
    assert many.labels[5:7] == few.labels


def test_other_seeds_share_nothing() -> None:
    plans = [plan_film(seed, index, "easy") for seed in range(4) for index in range(50)]
    radii = [plan.causes.bodies[0].radius for plan in plans]
    noises = [plan.picture.noise_seed for plan in plans] + [plan.sound.noise_seed for plan in plans]
    assert len(set(radii)) == len(plans)
    assert len(set(noises)) == 2 * len(plans)
    assert plan_film(1, 0, "easy").causes != plan_film(1, 0, "hard").causes


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_twins_differ_in_nothing_but_their_timing(difficulty: str) -> None:
    def untimed(plan: FilmPlan) -> FilmPlan:
        bodies = tuple(
            dataclasses.replace(
                body,
                u=dataclasses.replace(body.u, phases=(0.0, 0.0)),
                height=dataclasses.replace(body.height, phases=(0.0, 0.0)),
                bounce_phase=0.0,
            )
            for body in plan.causes.bodies
        )
        wheel = plan.causes.wheel and dataclasses.replace(plan.causes.wheel, phase=0.0)
        return dataclasses.replace(plan, causes=Causes(bodies, wheel))

    for pair in range(20):
        first, second = (plan_film(3, 2 * pair + one, difficulty, twins=True) for one in (0, 1))
        assert first == plan_film(3, 2 * pair, difficulty)
        assert untimed(first) == untimed(second)
        for one, other in zip(first.causes.bodies, second.causes.bodies, strict=True):
            assert not set(one.height.phases) & set(other.height.phases)
            assert one.bounce_phase != other.bounce_phase
        assert plan_film(3, 2 * pair + 1, difficulty, twins=True) == second
    clips = synthetic_arrays(4, CLIP, seed=3, difficulty=difficulty, twins=True)
    assert clips.labels[::2] == clips.labels[1::2]
    assert (clips.video_NTCHW[0] != clips.video_NTCHW[1]).any()
    assert (clips.audio_NTS[0] != clips.audio_NTS[1]).any()


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_twin_that_is_ahead_shows_and_sounds_what_the_other_does_later(difficulty: str) -> None:
    times = np.linspace(0.0, 3.0, 31)
    for pair in range(20):
        first, second = (plan_film(3, 2 * pair + one, difficulty, twins=True, twin_ahead_seconds=0.3) for one in (0, 1))
        assert first == plan_film(3, 2 * pair, difficulty)
        assert (first.picture, first.sound) == (second.picture, second.sound)
        for one, other in zip(first.causes.bodies, second.causes.bodies, strict=True):
            np.testing.assert_allclose(other.centres(times), one.centres(times + 0.3), atol=1e-9)
            if one.bounce_seconds is not None:
                later = one.impacts(3.3) - 0.3
                np.testing.assert_allclose(other.impacts(3.0), later[later >= 0], atol=1e-9)
        one_wheel, other_wheel = first.causes.wheel, second.causes.wheel
        if one_wheel is not None:
            assert other_wheel is not None
            later = one_wheel.clicks(3.3) - 0.3
            np.testing.assert_allclose(other_wheel.clicks(3.0), later[later >= 0], atol=1e-9)
    clips = synthetic_arrays(2, CLIP, seed=3, difficulty=difficulty, twins=True, twin_ahead_seconds=0.3)
    assert (clips.audio_NTS[0] != clips.audio_NTS[1]).any()


def test_twins_of_another_difference_are_not_mixed_into_a_folder(tmp_path: Path) -> None:
    def settings(**options: Any) -> SynthesizeSettings:
        return SynthesizeSettings(clips=2, out=str(tmp_path), seconds=0.5, size=32, workers=1, **options)

    synthesize(settings(twins=True, twin_ahead_seconds=0.25))
    causes = [json.loads(line) for line in (tmp_path / "causes.jsonl").read_text().splitlines()]
    turned = (causes[1]["wheel"]["phase"] - causes[0]["wheel"]["phase"]) % 1.0
    assert turned == pytest.approx(0.25)
    with pytest.raises(SettingsError, match=r"made with twin_ahead_seconds 0.25 instead of None"):
        synthesize(settings(twins=True))
    with pytest.raises(
        SettingsError, match=r"--twin_ahead_seconds: got 0.25 without --twins, which it is about; give both"
    ):
        settings(twin_ahead_seconds=0.25)


def test_every_shape_is_there_and_is_the_label() -> None:
    labels = [plan_film(1, index, "easy").label for index in range(200)]
    assert set(labels) == set(SHAPES)
    assert min(labels.count(shape) for shape in SHAPES) >= 20


@pytest.mark.parametrize("shape", ["disc", "square"])
def test_a_larger_body_sounds_lower(shape: str) -> None:
    for radius in (0.12, 0.18, 0.25):
        sound = hear_film(film_of(body_of(shape=shape, radius=radius)), 1.0, RATE)
        assert strongest_hz(sound) == pytest.approx(pitch_hz(radius), rel=0.02)
    assert pitch_hz(0.12) > 2 * pitch_hz(0.18) > 3 * pitch_hz(0.25)


def test_a_larger_body_is_larger_in_the_picture() -> None:
    area = []
    for radius in (0.12, 0.18, 0.25):
        plan = film_of(body_of(radius=radius))
        empty = draw_frames(film_of(), np.array([1.0]), 64, 64).astype(int)
        seen = draw_frames(plan, np.array([1.0]), 64, 64).astype(int)
        area.append(int((np.abs(seen - empty).max(axis=1) > 40).sum()) / 64**2)
    np.testing.assert_allclose(area, np.pi * np.array([0.12, 0.18, 0.25]) ** 2, rtol=0.12)


def test_pitch_follows_the_height() -> None:
    rising = body_of(height=Wave(0.5, (0.4, 0.0), (0.25, 0.1), (0.0, 0.0)))
    sound = hear_film(film_of(rising), 4.0, RATE)
    heights = rising.height.at(np.array([1.0, 3.0]))
    assert heights.tolist() == pytest.approx([0.9, 0.1])
    high, low = strongest_hz(sound[14400:17600]), strongest_hz(sound[46400:49600])
    assert high == pytest.approx(pitch_hz(0.18) * 2 ** (1.6 * 0.4), rel=0.02)
    assert low == pytest.approx(pitch_hz(0.18) / 2 ** (1.6 * 0.4), rel=0.02)
    _, seen_v = rising.centres(np.array([1.0, 3.0]))
    assert seen_v[0] < seen_v[1]


def test_speed_is_loud() -> None:
    calm = hear_film(film_of(body_of()), 2.0, RATE)
    quick = hear_film(film_of(body_of(u=Wave(0.5, (0.2, 0.0), (0.5, 0.1), (0.0, 0.0)))), 2.0, RATE)
    assert energy(quick, 0.0, 0.3) > 4 * energy(calm, 0.0, 0.3)


def test_stripes_make_the_sound_tremble() -> None:
    sound = hear_film(film_of(body_of(radius=0.15, stripes=4.0)), 4.0, RATE).astype(float)
    envelope = np.abs(sound).reshape(-1, 160).mean(axis=1)
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    assert spectrum.argmax() / 4 == pytest.approx(tremble_hz(4.0), abs=0.3)


def test_impacts_are_heard_when_the_body_is_on_the_floor() -> None:
    bouncing = body_of(bounce_seconds=0.8, bounce_phase=0.4, radius=0.12)
    sound = hear_film(film_of(bouncing), 4.0, RATE)
    times = bouncing.impacts(4.0)
    np.testing.assert_allclose(times, [0.32, 1.12, 1.92, 2.72, 3.52])
    _, v = bouncing.centres(times)
    np.testing.assert_allclose(v + bouncing.radius, FLOOR_V, atol=1e-9)
    assert not sound[: round(0.31 * RATE)].any()
    for time in times:
        assert energy(sound, time, 0.05) > 10 * energy(sound, time - 0.06, 0.05)


def test_a_bounce_rises_as_high_as_its_time_allows() -> None:
    rises = []
    for seconds in (0.5, 1.0):
        _, v = body_of(bounce_seconds=seconds).centres(np.array([seconds / 2]))
        rises.append(FLOOR_V - 0.18 - float(v[0]))
    assert rises[1] == pytest.approx(4 * rises[0])


def test_a_wheel_clicks_when_a_spoke_is_on_top() -> None:
    wheel = Wheel(spokes=3, turns_per_second=0.8, phase=0.1, right=True)
    times = wheel.clicks(4.0)
    np.testing.assert_allclose(np.mod(wheel.turned(times) * 3 + 0.5, 1.0), 0.5, atol=1e-9)
    np.testing.assert_allclose(np.diff(times), 1 / 2.4)
    sound = hear_film(film_of(wheel=wheel), 4.0, RATE)
    for time in times[1:-1]:
        assert energy(sound, time, 0.03) > 50 * (energy(sound, time - 0.05, 0.04) + 1)


def test_spokes_and_their_turning_are_seen() -> None:
    wheel = Wheel(spokes=4, turns_per_second=1.0, phase=0.0, right=True)
    pictures = draw_frames(film_of(wheel=wheel), np.array([0.0, 0.125, 0.25]), 128, 128).astype(int)
    same, other = np.abs(pictures[0] - pictures[2])[:, 84:, 90:], np.abs(pictures[0] - pictures[1])[:, 84:, 90:]
    assert other.mean() > 10 * (same.mean() + 0.01)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_nuisance_of_one_sense_does_not_touch_the_other(difficulty: str) -> None:
    plan, other = plan_film(5, 0, difficulty), plan_film(6, 1, difficulty)
    seen_otherwise = dataclasses.replace(plan, picture=other.picture)
    heard_otherwise = dataclasses.replace(plan, sound=other.sound)
    picture, sound = render_clip(plan, CLIP)
    assert render_clip(seen_otherwise, CLIP)[1].tobytes() == sound.tobytes()
    assert render_clip(seen_otherwise, CLIP)[0].tobytes() != picture.tobytes()
    assert render_clip(heard_otherwise, CLIP)[0].tobytes() == picture.tobytes()
    assert render_clip(heard_otherwise, CLIP)[1].tobytes() != sound.tobytes()


def test_hard_is_harder_to_see_and_hear() -> None:
    spread = {}
    for difficulty in ("easy", "hard"):
        plans = [plan_film(1, index, difficulty) for index in range(100)]
        octaves = np.log2([pitch_hz(plan.causes.bodies[0].radius) for plan in plans])
        spread[difficulty] = (octaves.std(), np.mean([plan.picture.noise for plan in plans]))
    assert spread["hard"][0] < 0.6 * spread["easy"][0]
    assert spread["hard"][1] > 4 * spread["easy"][1]


def test_a_body_is_where_its_causes_say() -> None:
    plan = film_of(body_of(radius=0.12, u=still(0.3), height=still(0.8)))
    picture = draw_frames(plan, np.array([1.0]), 96, 96)[0]
    u, v = plan.causes.bodies[0].centres(np.array([1.0]))
    assert picture[:, int(v[0] * 96), int(u[0] * 96)] / 255 == pytest.approx(plan.picture.colours[0], abs=0.01)


def test_a_wide_picture_is_the_middle_of_the_square_one() -> None:
    plan = film_of(body_of(), wheel=Wheel(3, 1.0, 0.0, True))
    square = draw_frames(plan, np.array([0.4]), 64, 64)
    np.testing.assert_array_equal(draw_frames(plan, np.array([0.4]), 32, 64), square[:, :, 16:48])
    np.testing.assert_array_equal(draw_frames(plan, np.array([0.4]), 64, 40), square[:, :, :, 12:52])


def test_a_picture_depends_on_its_instant_only() -> None:
    plan = plan_film(1, 1, "hard")
    together = draw_frames(plan, np.array([0.1, 0.7, 3.3]), 40, 40)
    for k, instant in enumerate((0.1, 0.7, 3.3)):
        np.testing.assert_array_equal(draw_frames(plan, np.array([instant]), 40, 40)[0], together[k])


def test_windows_are_cut_from_the_whole_sound_and_zero_beyond() -> None:
    clip = dataclasses.replace(CLIP, window_seconds=2.0)
    plan = plan_film(2, 0, "easy")
    sound = hear_film(plan, 4.0, RATE)
    _, windows = render_clip(plan, clip)
    assert not windows[0, :8000].any()
    np.testing.assert_array_equal(windows[0, 8000:], sound[:24000])
    np.testing.assert_array_equal(windows[1], sound[8000:40000])
    assert not windows[3, 24000:].any()


def test_fast_harmonics_are_sums_of_sines() -> None:
    cycles = np.random.default_rng(0).uniform(0, 300, 500)
    levels = [0.7, 0.0, 0.5, 0.2, 0.0, 0.1]
    slow = sum(level * np.sin(2 * np.pi * (k + 1) * cycles) for k, level in enumerate(levels))
    np.testing.assert_allclose(_harmonics(cycles, levels), slow, atol=2e-4)


def test_fast_phase_is_the_sum_of_the_pitch() -> None:
    pitch = np.array([100.0, 200.0, 150.0, 400.0])
    cycles = _cycles(pitch, 50, 8000)
    total, slow = 0.0, []
    for k in range(150):
        slow.append(total)
        here = np.interp(k / 50, np.arange(4), pitch)
        there = np.interp((k + 1) / 50, np.arange(4), pitch)
        total += (here + there) / 2 / 8000
    np.testing.assert_allclose(cycles, slow, atol=1e-9)


def test_fast_noise_is_white() -> None:
    noise = white_noise(np.random.default_rng(0), 200_000, 0.5).astype(float)
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    assert abs(noise.mean()) < 0.005
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.01


def settings_for(folder: Path, **changes: object) -> SynthesizeSettings:
    plain = SynthesizeSettings(clips=3, out=str(folder), seed=4, seconds=2.0, size=48, workers=1)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_films_are_the_arrays_up_to_the_codec(tmp_path: Path) -> None:
    paths = synthesize(settings_for(tmp_path)).paths
    assert [path.name for path in paths] == ["000000.mp4", "000001.mp4", "000002.mp4"]
    for index, path in enumerate(paths):
        plan = plan_film(4, index, "easy")
        with Film.open(path) as film:
            assert film.info.duration_seconds == pytest.approx(2.0, abs=0.07)
            shown = np.array([0, 7, 20]) / 12.5
            pixels = film.frames(shown + 0.01, 48, 48).pixels_THWC
            window = film.sound_windows([1.0], 2.0, RATE).samples_TN[0].astype(float)
        expected = draw_frames(plan, shown, 48, 48).transpose(0, 2, 3, 1)
        assert np.abs(pixels.astype(int) - expected).mean() < 8
        sound = hear_film(plan, 2.0, RATE).astype(float)
        assert np.corrcoef(window, sound)[0, 1] > 0.97
        assert np.std(window - sound) < 0.25 * np.std(sound)


def test_lists_tell_what_was_written(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path))
    with (tmp_path / "manifest.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["path"] for row in rows] == ["000000.mp4", "000001.mp4", "000002.mp4"]
    assert rows[1]["source"] == "synthetic-easy-4-000001"
    assert rows[1]["duration"] == "2"
    causes = [json.loads(line) for line in (tmp_path / "causes.jsonl").read_text().splitlines()]
    assert [cause["bodies"][0]["shape"] for cause in causes] == [row["label"] for row in rows]
    assert causes[0]["bodies"][0]["pitch_hz"] == pytest.approx(pitch_hz(causes[0]["bodies"][0]["radius"]))


def test_a_killed_run_is_continued_and_more_films_may_be_added(tmp_path: Path) -> None:
    paths = synthesize(settings_for(tmp_path)).paths
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in paths]
    paths[1].unlink()
    leftover = tmp_path / f"{TEMPORARY}99-000001.mp4"
    leftover.write_bytes(b"half a film")
    again = synthesize(settings_for(tmp_path, clips=5, workers=2)).paths
    assert len(again) == 5
    assert not leftover.exists()
    assert all(path.exists() for path in again)
    assert again[0].stat().st_mtime_ns == before[0][0]
    assert again[2].stat().st_mtime_ns == before[2][0]
    assert again[1].read_bytes() == before[1][1]
    assert len((tmp_path / "manifest.csv").read_text().splitlines()) == 6


def test_two_kinds_of_films_are_not_mixed(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path, clips=2))
    with pytest.raises(SettingsError, match="holds films made with seed 4 instead of 5; give another folder"):
        synthesize(settings_for(tmp_path, clips=2, seed=5))
    with pytest.raises(SettingsError, match=r"--clips: .* already holds 2 films; give 2 or more"):
        synthesize(settings_for(tmp_path, clips=1))


def test_a_full_disk_is_told_in_one_line_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmmixer.synthetic.generate.write_film", full)
    with pytest.raises(DataError, match="the disk is full; free some space"):
        synthesize(settings_for(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic.json"]


def test_an_unknown_difficulty_is_refused() -> None:
    with pytest.raises(SettingsError, match="--difficulty: got 'eazy', expected one of easy, medium, hard"):
        synthetic_arrays(1, CLIP, seed=0, difficulty="eazy")


def test_making_films_and_decoding_needs_no_torch() -> None:
    code = "import sys, cmmixer.synthetic, cmmixer.media.sandbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
