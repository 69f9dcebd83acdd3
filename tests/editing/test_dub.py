"""Dubbing: the video stream is copied, the new audio is in its place and as loud as requested."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyloudnorm
import pytest
from numpy.typing import NDArray
from scipy.signal import resample_poly

import cmmixer
from cmmixer.cli.main import main
from cmmixer.editing import dub as dub_module
from cmmixer.editing.dub import DubReport
from cmmixer.errors import MediaError, SettingsError
from cmmixer.media.decode import MediaFile
from cmmixer.storage.files import TEMPORARY
from tests.support.counting_videos import counting_pixels, number_of, tone, write

RATE = 48000
ENDINGS = [".mp4", ".mov", ".mkv"]


def audio_file(path: Path, samples: NDArray[np.float64], rate: int = RATE) -> Path:
    """16-bit wav; (N,) is mono, (N, 2) stereo."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def decoded_audio(path: Path) -> NDArray[np.float64]:
    """The audio as a player hears it, placed by timestamps from time 0: float (N, 2) at 48 kHz."""
    with av.open(str(path)) as container:
        samples = np.zeros((0, 2))
        origin = (container.start_time or 0) / av.time_base
        resampler = av.AudioResampler(format="flt", layout="stereo", rate=RATE)
        for frame in container.decode(audio=0):
            begin = round((frame.time - origin) * RATE)
            block = np.concatenate([part.to_ndarray().reshape(-1, 2) for part in resampler.resample(frame)])
            samples = np.concatenate([samples, np.zeros((max(0, begin + len(block) - len(samples)), 2))])
            samples[begin : begin + len(block)] = block
    return samples


def video_packets(path: Path) -> list[tuple[float, bytes]]:
    """When each frame is shown, from the start of the video, and its bytes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin = (container.start_time or 0) / av.time_base
        return [
            (float(packet.pts * packet.time_base) - origin, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def dub(tmp_path: Path, video: Path, audio: Path, ending: str = ".mp4", **settings: object) -> tuple[Path, DubReport]:
    out = tmp_path / f"dubbed{ending}"
    return out, cmmixer.dub(cmmixer.DubSettings(video=str(video), audio=str(audio), out=str(out), **settings))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six seconds with a tone of its own."""
    return write(tmp_path / "video.mp4", pixels=counting_pixels(60), samples=tone(6.0, 16000, 200.0))


@pytest.fixture(scope="module")
def music_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    times = np.arange(20 * RATE) / RATE
    left = 0.3 * np.sin(2 * np.pi * 440 * times) * (1 + 0.5 * np.sin(2 * np.pi * 0.7 * times))
    samples = np.stack([left, 0.2 * np.sin(2 * np.pi * 660 * times)], axis=1)
    return audio_file(tmp_path_factory.mktemp("music") / "music.wav", samples).read_bytes()


@pytest.fixture
def music(tmp_path: Path, music_bytes: bytes) -> Path:
    """Twenty seconds of two tones in stereo."""
    path = tmp_path / "music.wav"
    path.write_bytes(music_bytes)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_video_packets_are_copied_exactly(tmp_path: Path, video: Path, music: Path, ending: str) -> None:
    out, report = dub(tmp_path, video, music, ending)
    before, after = video_packets(video), video_packets(out)
    assert [data for _, data in after] == [data for _, data in before]
    # Matroska counts in milliseconds.
    assert np.allclose([time for time, _ in after], [time for time, _ in before], atol=6e-4)
    assert report.video_codec == "h264"
    assert report.video_seconds == pytest.approx(6.0, abs=0.01)
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        codec = "pcm_s24le" if ending == ".mov" else "aac"
        assert container.streams.audio[0].codec_context.name == report.audio_codec == codec


@pytest.mark.parametrize(
    ("target", "level", "ending"), [(-23.0, 1.0, ".mp4"), (-16.0, 0.01, ".mkv"), (-30.0, 1.0, ".mov")]
)
def test_loudness_agrees_with_an_independent_meter(
    tmp_path: Path, video: Path, music: Path, target: float, level: float, ending: str
) -> None:
    with wave.open(str(music)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32768
    quiet = audio_file(tmp_path / "level.wav", samples * level)
    out, report = dub(tmp_path, video, quiet, ending, loudness_lufs=target)
    measured = pyloudnorm.Meter(RATE).integrated_loudness(decoded_audio(out))
    assert measured == pytest.approx(target, abs=0.5)
    assert report.loudness_lufs == pytest.approx(measured, abs=0.2)
    assert not report.limited


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_true_peaks_stay_below_the_ceiling(tmp_path: Path, video: Path, ending: str) -> None:
    generator = np.random.default_rng(0)
    # Noise with strokes 22 dB above it: at -16 LUFS they would reach beyond full scale.
    noise = 0.01 * generator.standard_normal(8 * RATE)
    for start in range(0, 8 * RATE, RATE // 4):
        noise[start : start + 480] *= 12
    strokes = audio_file(tmp_path / "strokes.wav", np.clip(noise, -1, 1))
    out, report = dub(tmp_path, video, strokes, ending, loudness_lufs=-16.0)
    result = decoded_audio(out)
    true_peak = 20 * np.log10(np.abs(resample_poly(result, 8, 1, axis=0)).max())
    assert report.limited
    assert true_peak <= -1.0
    assert report.true_peak_dbtp == pytest.approx(true_peak, abs=0.5)
    assert pyloudnorm.Meter(RATE).integrated_loudness(result) == pytest.approx(-16.0, abs=0.5)


@pytest.mark.parametrize(("ending", "rate"), [*((ending, 48000) for ending in ENDINGS), (".mp4", 44100)])
def test_a_click_is_where_start_and_at_place_it(tmp_path: Path, video: Path, ending: str, rate: int) -> None:
    samples = 0.02 * np.random.default_rng(1).standard_normal(10 * rate)
    samples[round(5.5 * rate)] = 0.9
    clicks = audio_file(tmp_path / "click.wav", samples, rate)
    out, _ = dub(tmp_path, video, clicks, ending, start=3.25, at=1.0)
    # Second 5.5 of the audio, of which second 3.25 is at second 1 of the video.
    found = float(np.abs(decoded_audio(out)).max(axis=1).argmax()) / RATE
    assert found == pytest.approx(5.5 - 3.25 + 1.0, abs=0.002)


def test_audio_and_video_stay_in_sync_whatever_the_start_of_the_video(tmp_path: Path) -> None:
    times = [3600.0 + 0.1 * number for number in range(40)]
    video = write(tmp_path / "late.mkv", pixels=counting_pixels(40), times=times)
    samples = 0.01 * np.random.default_rng(2).standard_normal(4 * RATE)
    samples[2 * RATE] = 0.9
    out, _ = dub(tmp_path, video, audio_file(tmp_path / "click.wav", samples))
    assert float(np.abs(decoded_audio(out)).max(axis=1).argmax()) / RATE == pytest.approx(2.0, abs=0.002)
    with MediaFile.open(out) as result:
        assert [number_of(frame) for frame in result.frames([0.05, 2.05, 3.95], 48, 64).pixels_THWC] == [0, 20, 11]


def test_short_audio_is_followed_by_silence_and_faded_at_both_ends(tmp_path: Path, video: Path) -> None:
    steady = audio_file(tmp_path / "steady.wav", 0.3 * np.sin(2 * np.pi * 1000 * np.arange(3 * RATE) / RATE))
    out, report = dub(tmp_path, video, steady, ".mov", at=1.0, fade_in_seconds=0.5, fade_out_seconds=1.0)
    assert (report.begins_seconds, report.ends_seconds) == (1.0, 4.0)
    result = decoded_audio(out)
    assert len(result) == 6 * RATE

    def level(second: float) -> float:
        return float(np.abs(result[round(second * RATE) : round(second * RATE) + 480]).max())

    full = level(2.0)
    assert level(0.9) == level(4.1) == level(5.9) == 0.0
    assert level(1.245) == pytest.approx(0.5 * full, rel=0.05)
    assert level(3.495) == pytest.approx(0.5 * full, rel=0.05)
    assert level(2.9) == pytest.approx(full, rel=0.01)


def test_long_audio_fades_out_at_the_end_of_the_video(tmp_path: Path, video: Path, music: Path) -> None:
    out, report = dub(tmp_path, video, music, fade_out_seconds=2.0)
    assert report.ends_seconds == report.video_seconds == pytest.approx(6.0, abs=0.01)
    result = decoded_audio(out)
    assert len(result) == pytest.approx(6 * RATE, abs=2048)
    assert np.abs(result[round(5.98 * RATE) : 6 * RATE]).max() < 0.02 * np.abs(result).max()


def test_fades_longer_than_the_audio_are_shortened(tmp_path: Path, video: Path) -> None:
    blip = audio_file(tmp_path / "blip.wav", 0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE // 2) / RATE))
    out, _ = dub(tmp_path, video, blip, ".mov", fade_in_seconds=3.0, fade_out_seconds=3.0)
    result = np.abs(decoded_audio(out)).max(axis=1)
    assert float(result[: RATE // 2].argmax()) / RATE == pytest.approx(0.25, abs=0.01)
    assert result[RATE // 2 + 10 :].max() == 0.0


def tone_level(samples: NDArray[np.float64], hz: float, start: float, seconds: float) -> float:
    """Level of a tone in a stretch, in decibels."""
    part = samples[round(start * RATE) : round((start + seconds) * RATE), 0]
    turning = np.exp(-2j * np.pi * hz * np.arange(len(part)) / RATE)
    return float(20 * np.log10(2 * np.abs(np.mean(part * turning)) + 1e-12))


def test_ducking_keeps_the_original_and_lowers_the_new_audio(tmp_path: Path) -> None:
    own = tone(6.0, 16000, 200.0)
    own[: 2 * 16000] = own[4 * 16000 :] = 0  # it speaks in the middle only
    video = write(tmp_path / "speaks.mp4", pixels=counting_pixels(60), samples=own)
    steady = audio_file(tmp_path / "steady.wav", 0.2 * np.sin(2 * np.pi * 1000 * np.arange(6 * RATE) / RATE))
    out, report = dub(tmp_path, video, steady, duck=True)
    result = decoded_audio(out)
    assert report.ducked
    assert 8.0 < tone_level(result, 1000, 0.5, 1.0) - tone_level(result, 1000, 3.0, 0.8) < 20.0
    assert tone_level(result, 200, 3.0, 0.8) - tone_level(result, 1000, 3.0, 0.8) > 8.0
    assert tone_level(result, 200, 0.5, 1.0) < -80.0
    assert pyloudnorm.Meter(RATE).integrated_loudness(result) == pytest.approx(-23.0, abs=0.5)
    plain, _ = dub(tmp_path, video, steady, ".mkv")
    assert tone_level(decoded_audio(plain), 200, 3.0, 0.8) < -80.0


def test_a_video_without_audio_can_be_dubbed_but_not_ducked(tmp_path: Path, music: Path) -> None:
    silent = write(tmp_path / "silent.mp4", pixels=counting_pixels(30))
    out, _ = dub(tmp_path, silent, music)
    assert pyloudnorm.Meter(RATE).integrated_loudness(decoded_audio(out)) == pytest.approx(-23.0, abs=0.5)
    with pytest.raises(MediaError, match="has no audio for --duck to keep; leave --duck out"):
        dub(tmp_path, silent, music, ".mkv", duck=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_rotation_and_pixel_aspect_are_kept(tmp_path: Path, music: Path, ending: str) -> None:
    video = write(tmp_path / "turned.mp4", pixels=counting_pixels(20), turn=90.0, aspect=Fraction(4, 3))
    out, _ = dub(tmp_path, video, music, ending)
    with av.open(str(video)) as before, av.open(str(out)) as after:
        first, second = next(before.decode(video=0)), next(after.decode(video=0))
        assert first.rotation == second.rotation != 0
        assert after.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("ending", ENDINGS)
def test_variable_frame_rates_are_kept(tmp_path: Path, music: Path, ending: str) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 1.7, 1.733, 2.9]
    video = write(tmp_path / "vfr.mkv", pixels=counting_pixels(7), times=times)
    out, _ = dub(tmp_path, video, music, ending)
    assert sorted(time for time, _ in video_packets(out)) == pytest.approx(times, abs=1e-3)


def test_audio_too_short_to_have_a_loudness_keeps_its_level(tmp_path: Path) -> None:
    video = write(tmp_path / "blink.mp4", pixels=counting_pixels(2))
    wave_N = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    steady = audio_file(tmp_path / "steady.wav", np.stack([wave_N, wave_N], axis=1))
    out, report = dub(tmp_path, video, steady, ".mov", fade_out_seconds=0.0)
    assert (report.loudness_lufs, report.gain_db) == (None, 0.0)
    assert "too short or too quiet" in str(report.render())
    assert np.abs(decoded_audio(out)).max() == pytest.approx(0.25, abs=0.01)


def test_inputs_are_never_overwritten(tmp_path: Path, video: Path, music: Path) -> None:
    alias = tmp_path / "alias.mp4"
    alias.symlink_to(video)
    twin = tmp_path / "twin.mp4"
    os.link(video, twin)
    content = video.read_bytes()
    for out in (video, alias, twin):
        with pytest.raises(
            SettingsError, match=r"is the same file as .*video.mp4, which would be lost; choose another name"
        ):
            cmmixer.dub(cmmixer.DubSettings(video=str(video), audio=str(music), out=str(out)))
    own = write(tmp_path / "sound.mkv", samples=tone(2.0, 16000))
    with pytest.raises(SettingsError, match=r"is the same file as .*sound.mkv"):
        cmmixer.dub(cmmixer.DubSettings(video=str(video), audio=str(own), out=str(own)))
    assert video.read_bytes() == content


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"start": 30.0}, "--start: got 30, but {music} lasts 20.00 s"),
        ({"at": 6.5}, "--at: got 6.5, but {video} lasts 6.00 s"),
        ({"out": "x.avi"}, "--out x.avi: got '.avi', expected one of .mp4, .m4v, .mov, .mkv"),
        ({"loudness_lufs": 3.0}, "--loudness_lufs: got 3.0, expected a value in [-60.0, -5.0]"),
        ({"start": -1.0}, "--start: got -1.0, expected a value in [0.0, inf)"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, video: Path, music: Path, settings: dict[str, object], line: str
) -> None:
    values = {"video": str(video), "audio": str(music), "out": str(tmp_path / "new.mp4"), **settings}
    with pytest.raises(SettingsError) as caught:
        cmmixer.dub(cmmixer.DubSettings(**values))  # type: ignore[arg-type]
    assert str(caught.value) == line.format(video=video, music=music)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["music.wav", "video.mp4"]


def test_silent_audio_is_refused(tmp_path: Path, video: Path) -> None:
    samples = np.zeros(12 * RATE)
    samples[: 2 * RATE] = 0.1
    with pytest.raises(MediaError, match=r"quiet.wav: is silent between 3 s and 9.00 s") as caught:
        dub(tmp_path, video, audio_file(tmp_path / "quiet.wav", samples), start=3.0)
    assert caught.value.reason == "silent"


@pytest.mark.parametrize(
    ("name", "codec", "advice"),
    [
        ("a.mkv", "vp8", "write .mkv"),
        ("a.mov", "prores", "write .mkv or .mov"),
        ("a.avi", "wmv2", "convert the video first"),
    ],
)
def test_a_codec_that_the_container_does_not_support_is_refused(
    tmp_path: Path, music: Path, name: str, codec: str, advice: str
) -> None:
    video = tmp_path / name
    encoder = {"vp8": "libvpx", "prores": "prores_ks"}.get(codec, codec)
    with av.open(str(video), "w") as container:
        stream = container.add_stream(encoder, rate=10)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv422p10le" if codec == "prores" else "yuv420p"
        for image in counting_pixels(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError) as caught:
        dub(tmp_path, video, music)
    assert caught.value.message == f"its video ({codec}) cannot be copied into .mp4; {advice}"
    assert not list(tmp_path.glob("*dubbed*"))
    for ending in (word for word in advice.split() if word.startswith(".")):
        out, _ = dub(tmp_path, video, music, ending)
        with MediaFile.open(video) as before, MediaFile.open(out) as after:
            instants = [0.05, 0.15, 0.35]
            expected, copied = (media.frames(instants, 48, 64).pixels_THWC for media in (before, after))
        assert np.array_equal(expected, copied)


def test_an_existing_file_is_kept_if_the_time_limit_is_reached(tmp_path: Path, video: Path, music: Path) -> None:
    out = tmp_path / "dubbed.mp4"
    out.write_bytes(b"yesterday's")
    with pytest.raises(MediaError) as caught:
        dub(tmp_path, video, music, file_seconds=0.05)
    assert caught.value.reason == "time-limit"
    assert out.read_bytes() == b"yesterday's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dubbed.mp4", "music.wav", "video.mp4"]


def test_a_killed_dub_leaves_no_video_and_the_next_one_cleans_up(tmp_path: Path, music: Path) -> None:
    long = write(
        tmp_path / "long.mp4", pixels=counting_pixels(600, 16, 16), times=[0.5 * number for number in range(600)]
    )
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
    cmmixer.dub(cmmixer.DubSettings(video=str(short), audio=str(music), out=str(out)))
    assert not list(tmp_path.glob(".tmp-*"))
    assert video_packets(out)


def test_hevc_is_tagged_for_quicktime(tmp_path: Path, music: Path) -> None:
    video = write(tmp_path / "video.mkv", pixels=counting_pixels(10, 64, 64), codecs=("libx265", "aac"))
    for ending in (".mp4", ".mov"):
        out, _ = dub(tmp_path, video, music, ending)
        with av.open(str(out)) as container:
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"
        with MediaFile.open(out) as result:
            assert number_of(result.frames([0.55], 64, 64).pixels_THWC[0]) == 5


def test_the_dub_command(tmp_path: Path, video: Path, music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "dubbed.mp4"
    assert main(["dub", str(video), str(music), "-o", str(out), "--start", "2.5", "--loudness-lufs", "-20"]) == 0
    assert "-20.0 LUFS" in capsys.readouterr().out
    assert out.stat().st_size > 1000
    assert main(["dub", str(music), str(video), "-o", str(tmp_path / "x.mp4")]) == 2
    assert "music.wav: has no video stream, only audio" in capsys.readouterr().err


REPORT = DubReport(
    out="[red].mp4",
    video_codec="h264",
    audio_codec="aac",
    video_seconds=6.0,
    begins_seconds=1.0,
    ends_seconds=4.5,
    gain_db=3.25,
    loudness_lufs=-23.04,
    true_peak_dbtp=-4.11,
    target_lufs=-23.0,
    limited=False,
    ducked=False,
)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {},
            [
                "[red].mp4: 6.00 s, video copied (h264), new audio from 1.00 to 4.50 s (aac)",
                "-23.0 LUFS, true peak -4.1 dBTP, +3.2 dB",
            ],
        ),
        (
            {"limited": True, "ducked": True, "loudness_lufs": -24.0},
            [
                "[red].mp4: 6.00 s, video copied (h264), new audio from 1.00 to 4.50 s (aac, ducked under the original)",
                "-24.0 LUFS, true peak -4.1 dBTP, +3.2 dB, peaks held by a limiter",
                "-23 LUFS could not be reached: its peaks are too high above the rest",
            ],
        ),
        (
            {"loudness_lufs": None, "true_peak_dbtp": None, "gain_db": 0.0},
            [
                "[red].mp4: 6.00 s, video copied (h264), new audio from 1.00 to 4.50 s (aac)",
                "the audio is too short or too quiet to have a loudness; its level was not changed",
            ],
        ),
    ],
)
def test_the_text_of_a_report(changes: dict[str, Any], lines: list[str]) -> None:
    assert dataclasses.replace(REPORT, **changes).render().plain.splitlines() == lines


def test_a_report_as_json_has_every_field() -> None:
    assert REPORT.as_json() == {field.name: getattr(REPORT, field.name) for field in dataclasses.fields(REPORT)}


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path, video: Path, music: Path) -> None:
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    with pytest.raises(SettingsError) as caught:
        cmmixer.dub(cmmixer.DubSettings(video=str(video), audio=str(music), out=str(folder)))
    assert str(caught.value) == f"--out {folder}: is a folder; give the name of a video"
    missing = str(tmp_path / "missing.wav")
    with pytest.raises(MediaError, match=r"missing.wav: no such file$"):
        cmmixer.dub(cmmixer.DubSettings(video=str(video), audio=missing, out=str(tmp_path / "out.mp4")))


def test_only_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "a[1].mp4"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f"{TEMPORARY}{dead.pid}-a[1].mp4": False,  # of this video, and its process is gone
        f"{TEMPORARY}{os.getpid()}-a[1].mp4": True,
        f"{TEMPORARY}1-a[1].mp4": True,  # runs, though it may belong to somebody else
        f"{TEMPORARY}{dead.pid}-b.mp4": True,
        f"{TEMPORARY}x-a[1].mp4": True,
        "a[1].mp4": True,
    }
    for name in names:
        (tmp_path / name).touch()
    dub_module._remove_leftovers(out)
    assert {path.name for path in tmp_path.iterdir()} == {name for name, kept in names.items() if kept}


def test_errors_about_settings_travel_as_text(tmp_path: Path, video: Path, music: Path) -> None:
    settings = cmmixer.DubSettings(video=str(video), audio=str(music), out=str(tmp_path / "out.mp4"), at=99.0)
    job = dub_module.DubJob(settings, str(tmp_path / "temporary"))
    assert job.path == str(video)
    assert dub_module.run_job(job) == f"--at: got 99, but {video} lasts 6.00 s"
