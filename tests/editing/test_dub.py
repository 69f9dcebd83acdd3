"""The film with another sound: pictures untouched, sound in its place, as loud as asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyloudnorm
import pytest
from numpy.typing import NDArray
from scipy.signal import resample_poly

import cmmixer
from cmmixer.cli.main import main
from cmmixer.editing.dub import DubReport
from cmmixer.errors import MediaError, SettingsError
from cmmixer.media.decode import Film
from tests.support.counting_videos import counting_pixels, number_of, tone, write

RATE = 48000
ENDINGS = [".mp4", ".mov", ".mkv"]


def sound_file(path: Path, samples: NDArray[np.float64], rate: int = RATE) -> Path:
    """16-bit wav; (N,) is mono, (N, 2) stereo."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def heard(path: Path) -> NDArray[np.float64]:
    """What a player gives, laid down by timestamps from film time 0: float (N, 2) at 48 kHz."""
    with av.open(str(path)) as container:
        samples = np.zeros((0, 2))
        origin = (container.start_time or 0) / av.time_base
        resampler = av.AudioResampler(format="flt", layout="stereo", rate=RATE)
        for frame in container.decode(audio=0):
            place = round((frame.time - origin) * RATE)
            block = np.concatenate([part.to_ndarray().reshape(-1, 2) for part in resampler.resample(frame)])
            samples = np.concatenate([samples, np.zeros((max(0, place + len(block) - len(samples)), 2))])
            samples[place : place + len(block)] = block
    return samples


def packets(path: Path) -> list[tuple[float, bytes]]:
    """When each picture is shown, from the film's beginning, and its bytes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin = (container.start_time or 0) / av.time_base
        return [
            (float(packet.pts * packet.time_base) - origin, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def lay(tmp_path: Path, film: Path, sound: Path, ending: str = ".mp4", **settings: object) -> tuple[Path, DubReport]:
    out = tmp_path / f"dubbed{ending}"
    return out, cmmixer.dub(cmmixer.DubSettings(film=str(film), sound=str(sound), out=str(out), **settings))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write(tmp_path / "film.mp4", pixels=counting_pixels(60), samples=tone(6.0, 16000, 200.0))


@pytest.fixture
def music(tmp_path: Path) -> Path:
    times = np.arange(20 * RATE) / RATE
    left = 0.3 * np.sin(2 * np.pi * 440 * times) * (1 + 0.5 * np.sin(2 * np.pi * 0.7 * times))
    return sound_file(tmp_path / "music.wav", np.stack([left, 0.2 * np.sin(2 * np.pi * 660 * times)], axis=1))


@pytest.mark.parametrize("ending", ENDINGS)
def test_pictures_are_copied_to_the_byte_at_their_times(tmp_path: Path, film: Path, music: Path, ending: str) -> None:
    out, report = lay(tmp_path, film, music, ending)
    before, after = packets(film), packets(out)
    assert [data for _, data in after] == [data for _, data in before]
    # Matroska counts in milliseconds.
    assert np.allclose([time for time, _ in after], [time for time, _ in before], atol=6e-4)
    assert report.picture_codec == "h264"
    assert report.film_seconds == pytest.approx(6.0, abs=0.01)
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        codec = "pcm_s24le" if ending == ".mov" else "aac"
        assert container.streams.audio[0].codec_context.name == report.sound_codec == codec


@pytest.mark.parametrize(
    ("target", "level", "ending"), [(-23.0, 1.0, ".mp4"), (-16.0, 0.01, ".mkv"), (-30.0, 1.0, ".mov")]
)
def test_loudness_by_an_independent_meter(
    tmp_path: Path, film: Path, music: Path, target: float, level: float, ending: str
) -> None:
    with wave.open(str(music)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32768
    quiet = sound_file(tmp_path / "level.wav", samples * level)
    out, report = lay(tmp_path, film, quiet, ending, loudness_lufs=target)
    measured = pyloudnorm.Meter(RATE).integrated_loudness(heard(out))
    assert measured == pytest.approx(target, abs=0.5)
    assert report.loudness_lufs == pytest.approx(measured, abs=0.2)
    assert not report.limited


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_peaks_stay_below_the_ceiling_between_the_samples_too(tmp_path: Path, film: Path, ending: str) -> None:
    generator = np.random.default_rng(0)
    # Noise with strokes 22 dB above it: at -16 LUFS they would reach beyond full scale.
    noise = 0.01 * generator.standard_normal(8 * RATE)
    for start in range(0, 8 * RATE, RATE // 4):
        noise[start : start + 480] *= 12
    strokes = sound_file(tmp_path / "strokes.wav", np.clip(noise, -1, 1))
    out, report = lay(tmp_path, film, strokes, ending, loudness_lufs=-16.0)
    result = heard(out)
    true_peak = 20 * np.log10(np.abs(resample_poly(result, 8, 1, axis=0)).max())
    assert report.limited
    assert true_peak <= -1.0
    assert report.true_peak_dbtp == pytest.approx(true_peak, abs=0.5)
    assert pyloudnorm.Meter(RATE).integrated_loudness(result) == pytest.approx(-16.0, abs=0.5)


@pytest.mark.parametrize(("ending", "rate"), [*((ending, 48000) for ending in ENDINGS), (".mp4", 44100)])
def test_a_click_lands_in_its_place(tmp_path: Path, film: Path, ending: str, rate: int) -> None:
    samples = 0.02 * np.random.default_rng(1).standard_normal(10 * rate)
    samples[round(5.5 * rate)] = 0.9
    clicks = sound_file(tmp_path / "click.wav", samples, rate)
    out, _ = lay(tmp_path, film, clicks, ending, start=3.25, at=1.0)
    # Second 5.5 of the sound, which begins with its second 3.25 at second 1 of the film.
    found = float(np.abs(heard(out)).max(axis=1).argmax()) / RATE
    assert found == pytest.approx(5.5 - 3.25 + 1.0, abs=0.002)


def test_sound_and_picture_keep_together_where_the_film_begins_at_any_hour(tmp_path: Path) -> None:
    times = [3600.0 + 0.1 * number for number in range(40)]
    film = write(tmp_path / "late.mkv", pixels=counting_pixels(40), times=times)
    samples = 0.01 * np.random.default_rng(2).standard_normal(4 * RATE)
    samples[2 * RATE] = 0.9
    out, _ = lay(tmp_path, film, sound_file(tmp_path / "click.wav", samples))
    assert float(np.abs(heard(out)).max(axis=1).argmax()) / RATE == pytest.approx(2.0, abs=0.002)
    with Film.open(out) as result:
        assert [number_of(picture) for picture in result.frames([0.05, 2.05, 3.95], 48, 64).pixels_THWC] == [0, 20, 11]


def test_a_short_sound_is_followed_by_silence_and_both_ends_are_faded(tmp_path: Path, film: Path) -> None:
    steady = sound_file(tmp_path / "steady.wav", 0.3 * np.sin(2 * np.pi * 1000 * np.arange(3 * RATE) / RATE))
    out, report = lay(tmp_path, film, steady, ".mov", at=1.0, fade_in_seconds=0.5, fade_out_seconds=1.0)
    assert (report.begins_seconds, report.ends_seconds) == (1.0, 4.0)
    result = heard(out)
    assert len(result) == 6 * RATE

    def level(second: float) -> float:
        return float(np.abs(result[round(second * RATE) : round(second * RATE) + 480]).max())

    full = level(2.0)
    assert level(0.9) == level(4.1) == level(5.9) == 0.0
    assert level(1.245) == pytest.approx(0.5 * full, rel=0.05)
    assert level(3.495) == pytest.approx(0.5 * full, rel=0.05)
    assert level(2.9) == pytest.approx(full, rel=0.01)


def test_a_long_sound_fades_out_at_the_films_end(tmp_path: Path, film: Path, music: Path) -> None:
    out, report = lay(tmp_path, film, music, fade_out_seconds=2.0)
    assert report.ends_seconds == report.film_seconds == pytest.approx(6.0, abs=0.01)
    result = heard(out)
    assert len(result) == pytest.approx(6 * RATE, abs=2048)
    assert np.abs(result[round(5.98 * RATE) : 6 * RATE]).max() < 0.02 * np.abs(result).max()


def test_fades_longer_than_the_sound_are_shortened(tmp_path: Path, film: Path) -> None:
    blip = sound_file(tmp_path / "blip.wav", 0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE // 2) / RATE))
    out, _ = lay(tmp_path, film, blip, ".mov", fade_in_seconds=3.0, fade_out_seconds=3.0)
    result = np.abs(heard(out)).max(axis=1)
    assert float(result[: RATE // 2].argmax()) / RATE == pytest.approx(0.25, abs=0.01)
    assert result[RATE // 2 + 10 :].max() == 0.0


def band(samples: NDArray[np.float64], hz: float, start: float, seconds: float) -> float:
    """Strength of a tone in a stretch, in decibels."""
    part = samples[round(start * RATE) : round((start + seconds) * RATE), 0]
    turning = np.exp(-2j * np.pi * hz * np.arange(len(part)) / RATE)
    return float(20 * np.log10(2 * np.abs(np.mean(part * turning)) + 1e-12))


def test_ducking_keeps_the_films_own_sound_and_the_new_one_gives_way(tmp_path: Path) -> None:
    own = tone(6.0, 16000, 200.0)
    own[: 2 * 16000] = own[4 * 16000 :] = 0  # speaks in the middle only
    film = write(tmp_path / "speaks.mp4", pixels=counting_pixels(60), samples=own)
    steady = sound_file(tmp_path / "steady.wav", 0.2 * np.sin(2 * np.pi * 1000 * np.arange(6 * RATE) / RATE))
    out, report = lay(tmp_path, film, steady, duck=True)
    result = heard(out)
    assert report.ducked
    assert 8.0 < band(result, 1000, 0.5, 1.0) - band(result, 1000, 3.0, 0.8) < 20.0
    assert band(result, 200, 3.0, 0.8) - band(result, 1000, 3.0, 0.8) > 8.0
    assert band(result, 200, 0.5, 1.0) < -80.0
    assert pyloudnorm.Meter(RATE).integrated_loudness(result) == pytest.approx(-23.0, abs=0.5)
    plain, _ = lay(tmp_path, film, steady, ".mkv")
    assert band(heard(plain), 200, 3.0, 0.8) < -80.0


def test_a_film_without_sound_gets_one_but_has_nothing_to_duck_for(tmp_path: Path, music: Path) -> None:
    silent = write(tmp_path / "silent.mp4", pixels=counting_pixels(30))
    out, _ = lay(tmp_path, silent, music)
    assert pyloudnorm.Meter(RATE).integrated_loudness(heard(out)) == pytest.approx(-23.0, abs=0.5)
    with pytest.raises(MediaError, match="has no sound of its own that --duck could keep; leave it out"):
        lay(tmp_path, silent, music, ".mkv", duck=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_turned_and_stretched_pictures_stay_so(tmp_path: Path, music: Path, ending: str) -> None:
    film = write(tmp_path / "turned.mp4", pixels=counting_pixels(20), turn=90.0, aspect=Fraction(4, 3))
    out, _ = lay(tmp_path, film, music, ending)
    with av.open(str(film)) as before, av.open(str(out)) as after:
        first, second = next(before.decode(video=0)), next(after.decode(video=0))
        assert first.rotation == second.rotation != 0
        assert after.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("ending", ENDINGS)
def test_variable_frame_rate(tmp_path: Path, music: Path, ending: str) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 1.7, 1.733, 2.9]
    film = write(tmp_path / "vfr.mkv", pixels=counting_pixels(7), times=times)
    out, _ = lay(tmp_path, film, music, ending)
    assert sorted(time for time, _ in packets(out)) == pytest.approx(times, abs=1e-3)


def test_a_sound_too_short_to_have_a_loudness_keeps_its_level(tmp_path: Path) -> None:
    film = write(tmp_path / "blink.mp4", pixels=counting_pixels(2))
    wave_N = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    steady = sound_file(tmp_path / "steady.wav", np.stack([wave_N, wave_N], axis=1))
    out, report = lay(tmp_path, film, steady, ".mov", fade_out_seconds=0.0)
    assert (report.loudness_lufs, report.gain_db) == (None, 0.0)
    assert "too short or too quiet" in str(report.render())
    assert np.abs(heard(out)).max() == pytest.approx(0.25, abs=0.01)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_inputs_are_never_overwritten(tmp_path: Path, film: Path, music: Path) -> None:
    alias = tmp_path / "alias.mp4"
    alias.symlink_to(film)
    twin = tmp_path / "twin.mp4"
    os.link(film, twin)
    content = film.read_bytes()
    for out in (film, alias, twin):
        with pytest.raises(
            SettingsError, match=r"is the same file as .*film.mp4, which would be lost; choose another name"
        ):
            cmmixer.dub(cmmixer.DubSettings(film=str(film), sound=str(music), out=str(out)))
    own = write(tmp_path / "sound.mkv", samples=tone(2.0, 16000))
    with pytest.raises(SettingsError, match=r"is the same file as .*sound.mkv"):
        cmmixer.dub(cmmixer.DubSettings(film=str(film), sound=str(own), out=str(own)))
    assert film.read_bytes() == content


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"start": 30.0}, "--start: got 30, but {music} lasts 20.00 s"),
        ({"at": 6.5}, "--at: got 6.5, but {film} lasts 6.00 s"),
        ({"out": "x.avi"}, "--out x.avi: got '.avi', expected one of .mp4, .m4v, .mov, .mkv"),
        ({"loudness_lufs": 3.0}, "--loudness_lufs: got 3.0, expected a value in [-60.0, -5.0]"),
        ({"start": -1.0}, "--start: got -1.0, expected a value in [0.0, inf)"),
    ],
)
def test_settings_that_cannot_be(
    tmp_path: Path, film: Path, music: Path, settings: dict[str, object], line: str
) -> None:
    values = {"film": str(film), "sound": str(music), "out": str(tmp_path / "new.mp4"), **settings}
    with pytest.raises(SettingsError) as told:
        cmmixer.dub(cmmixer.DubSettings(**values))  # type: ignore[arg-type]
    assert str(told.value) == line.format(film=film, music=music)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "music.wav"]


def test_a_silent_sound_is_refused(tmp_path: Path, film: Path) -> None:
    samples = np.zeros(12 * RATE)
    samples[: 2 * RATE] = 0.1
    with pytest.raises(MediaError, match=r"quiet.wav: is silent between 3 s and 9.00 s") as told:
        lay(tmp_path, film, sound_file(tmp_path / "quiet.wav", samples), start=3.0)
    assert told.value.reason == "silent"


@pytest.mark.parametrize(
    ("name", "codec", "advice"),
    [
        ("a.mkv", "vp8", "write .mkv"),
        ("a.mov", "prores", "write .mkv or .mov"),
        ("a.avi", "wmv2", "convert the film first"),
    ],
)
def test_pictures_that_a_container_cannot_hold(tmp_path: Path, music: Path, name: str, codec: str, advice: str) -> None:
    film = tmp_path / name
    encoder = {"vp8": "libvpx", "prores": "prores_ks"}.get(codec, codec)
    with av.open(str(film), "w") as container:
        picture = container.add_stream(encoder, rate=10)
        picture.width, picture.height = 64, 48
        picture.pix_fmt = "yuv422p10le" if codec == "prores" else "yuv420p"
        for image in counting_pixels(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
    with pytest.raises(MediaError) as told:
        lay(tmp_path, film, music)
    assert told.value.message == f"its pictures ({codec}) cannot be copied into .mp4; {advice}"
    assert not list(tmp_path.glob("*dubbed*"))
    for ending in (word for word in advice.split() if word.startswith(".")):
        out, _ = lay(tmp_path, film, music, ending)
        with Film.open(film) as before, Film.open(out) as after:
            instants = [0.05, 0.15, 0.35]
            wanted, got = (source.frames(instants, 48, 64).pixels_THWC for source in (before, after))
        assert np.array_equal(wanted, got)


def test_what_was_there_stays_when_time_runs_out(tmp_path: Path, film: Path, music: Path) -> None:
    out = tmp_path / "dubbed.mp4"
    out.write_bytes(b"yesterday's")
    with pytest.raises(MediaError) as told:
        lay(tmp_path, film, music, file_seconds=0.05)
    assert told.value.reason == "time-limit"
    assert out.read_bytes() == b"yesterday's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dubbed.mp4", "film.mp4", "music.wav"]


def test_killed_halfway_leaves_no_film_and_the_next_one_clears_up(tmp_path: Path, music: Path) -> None:
    long = write(tmp_path / "long.mp4", pixels=counting_pixels(3000), times=[0.4 * number for number in range(3000)])
    out = tmp_path / "dubbed.mp4"
    out.write_bytes(b"yesterday's")
    arguments = [sys.executable, "-m", "cmmixer", "dub", str(long), str(music), "-o", str(out)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob(".tmp-*")) and time.monotonic() < end:
            time.sleep(0.02)
        assert list(tmp_path.glob(".tmp-*"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert out.read_bytes() == b"yesterday's"
    short = write(tmp_path / "short.mp4", pixels=counting_pixels(20))
    cmmixer.dub(cmmixer.DubSettings(film=str(short), sound=str(music), out=str(out)))
    assert not list(tmp_path.glob(".tmp-*"))
    assert packets(out)


def test_hevc_plays_in_quicktime(tmp_path: Path, music: Path) -> None:
    film = write(tmp_path / "film.mkv", pixels=counting_pixels(10, 64, 64), codecs=("libx265", "aac"))
    for ending in (".mp4", ".mov"):
        out, _ = lay(tmp_path, film, music, ending)
        with av.open(str(out)) as container:
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"
        with Film.open(out) as result:
            assert number_of(result.frames([0.55], 64, 64).pixels_THWC[0]) == 5


def test_the_command(tmp_path: Path, film: Path, music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "dubbed.mp4"
    assert main(["dub", str(film), str(music), "-o", str(out), "--start", "2.5", "--loudness-lufs", "-20"]) == 0
    assert "-20.0 LUFS" in capsys.readouterr().out
    assert out.stat().st_size > 1000
    assert main(["dub", str(music), str(film), "-o", str(tmp_path / "x.mp4")]) == 2
    assert "music.wav: has no picture, only sound" in capsys.readouterr().err
