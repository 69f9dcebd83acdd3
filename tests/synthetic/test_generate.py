"""Synthetic videos as files: they equal the arrays up to the codec, runs resume, and folders are not mixed."""

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

from cmmixer.config import SynthesizeSettings
from cmmixer.errors import DataError, SettingsError
from cmmixer.media.decode import MediaFile
from cmmixer.storage.files import TEMPORARY
from cmmixer.synthetic.audio import render_audio
from cmmixer.synthetic.generate import SAMPLE_RATE_HZ, SynthesizeReport, synthesize, write_synthetic_video
from cmmixer.synthetic.render import render_frames
from cmmixer.synthetic.scene import draw_scene
from cmmixer.synthetic.world import pitch_hz


def settings_for(folder: Path, **changes: object) -> SynthesizeSettings:
    plain = SynthesizeSettings(clips=3, out=str(folder), seed=4, seconds=2.0, size=48, workers=1)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_videos_are_the_arrays_up_to_the_codec(tmp_path: Path) -> None:
    paths = synthesize(settings_for(tmp_path)).paths
    assert [path.name for path in paths] == ["000000.mp4", "000001.mp4", "000002.mp4"]
    for index, path in enumerate(paths):
        scene = draw_scene(4, index, "easy")
        with MediaFile.open(path) as media:
            assert media.info.duration_seconds == pytest.approx(2.0, abs=0.07)
            shown = np.array([0, 7, 20]) / 12.5
            pixels = media.frames(shown + 0.01, 48, 48).pixels_THWC
            window = media.audio_windows([1.0], 2.0, SAMPLE_RATE_HZ).samples_TN[0].astype(float)
        expected = render_frames(scene, shown, 48, 48).transpose(0, 2, 3, 1)
        assert np.abs(pixels.astype(int) - expected).mean() < 8
        samples = render_audio(scene, 2.0, SAMPLE_RATE_HZ).astype(float)
        assert np.corrcoef(window, samples)[0, 1] > 0.97
        assert np.std(window - samples) < 0.25 * np.std(samples)


def test_lists_describe_what_was_written(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path))
    with (tmp_path / "manifest.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["path"] for row in rows] == ["000000.mp4", "000001.mp4", "000002.mp4"]
    assert rows[1]["source"] == "synthetic-easy-4-000001"
    assert rows[1]["duration"] == "2"
    causes = [json.loads(line) for line in (tmp_path / "causes.jsonl").read_text().splitlines()]
    assert [cause["bodies"][0]["shape"] for cause in causes] == [row["label"] for row in rows]
    assert causes[0]["bodies"][0]["pitch_hz"] == pytest.approx(pitch_hz(causes[0]["bodies"][0]["radius"]))


def test_a_killed_run_is_resumed_and_videos_can_be_added(tmp_path: Path) -> None:
    paths = synthesize(settings_for(tmp_path)).paths
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in paths]
    paths[1].unlink()
    leftover = tmp_path / f"{TEMPORARY}99-000001.mp4"
    leftover.write_bytes(b"half a video")
    again = synthesize(settings_for(tmp_path, clips=5, workers=2)).paths
    assert len(again) == 5
    assert not leftover.exists()
    assert all(path.exists() for path in again)
    assert again[0].stat().st_mtime_ns == before[0][0]
    assert again[2].stat().st_mtime_ns == before[2][0]
    assert again[1].read_bytes() == before[1][1]
    assert len((tmp_path / "manifest.csv").read_text().splitlines()) == 6


def test_videos_of_different_settings_are_not_mixed(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path, clips=2))
    with pytest.raises(SettingsError, match="holds videos made with seed 4 instead of 5; give another folder"):
        synthesize(settings_for(tmp_path, clips=2, seed=5))
    with pytest.raises(SettingsError, match=r"--clips: .* already holds 2 videos; give 2 or more"):
        synthesize(settings_for(tmp_path, clips=1))


def test_twins_of_different_settings_are_not_mixed(tmp_path: Path) -> None:
    def settings(**options: Any) -> SynthesizeSettings:
        return SynthesizeSettings(clips=2, out=str(tmp_path), seconds=0.5, size=32, workers=1, **options)

    synthesize(settings(twins=True, twin_ahead_seconds=0.25))
    causes = [json.loads(line) for line in (tmp_path / "causes.jsonl").read_text().splitlines()]
    turned = (causes[1]["wheel"]["phase"] - causes[0]["wheel"]["phase"]) % 1.0
    assert turned == pytest.approx(0.25)
    with pytest.raises(SettingsError, match=r"made with twin_ahead_seconds 0.25 instead of None"):
        synthesize(settings(twins=True))
    with pytest.raises(SettingsError, match=r"--twin_ahead_seconds: got 0.25 without --twins; give both"):
        settings(twin_ahead_seconds=0.25)


def test_a_full_disk_is_reported_and_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmmixer.synthetic.generate.write_video", full)
    with pytest.raises(DataError, match="the disk is full; free some space"):
        synthesize(settings_for(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic.json"]


def test_synthesis_and_decoding_import_no_torch() -> None:
    code = "import sys, cmmixer.synthetic, cmmixer.media.sandbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_report_counts_new_and_kept_videos(tmp_path: Path) -> None:
    first = synthesize(settings_for(tmp_path, seconds=0.5, clips=2))
    assert first.as_json() == {"out": str(tmp_path), "videos": 2, "kept": 0}
    assert synthesize(settings_for(tmp_path, seconds=0.5, clips=3)).kept == 2
    assert SynthesizeReport("x", [Path("a.mp4")], 1).as_json() == {"out": "x", "videos": 1, "kept": 1}


class Recorder:
    """Records what a command reports."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, total: int | None, label: str) -> None:
        self.calls.append((total, label))

    def advance(self, steps: int = 1) -> None:
        self.calls.append((steps,))


def test_progress_counts_kept_videos_at_once(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path, seconds=0.5, clips=2))
    progress = Recorder()
    synthesize(settings_for(tmp_path, seconds=0.5, clips=4), progress)  # type: ignore[arg-type]
    assert progress.calls == [(4, "making videos"), (2,), (1,), (1,)]


def test_the_settings_are_recorded(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path, seconds=0.5, clips=1, difficulty="hard"))
    record = json.loads((tmp_path / "synthetic.json").read_text())
    assert record.pop("fps") == 12.5
    assert record == {
        "seed": 4,
        "difficulty": "hard",
        "twins": False,
        "twin_ahead_seconds": None,
        "seconds": 0.5,
        "size": 48,
        "clips": 1,
    }


def test_all_changed_settings_are_named_at_once(tmp_path: Path) -> None:
    synthesize(settings_for(tmp_path, seconds=0.5, clips=1))
    with pytest.raises(SettingsError) as caught:
        synthesize(settings_for(tmp_path, seconds=0.75, clips=1, difficulty="hard"))
    assert str(caught.value) == (
        f"--out: {tmp_path} holds videos made with difficulty easy instead of hard, seconds 0.5 instead of 0.75; "
        "give another folder"
    )


def test_a_very_short_video_has_one_frame(tmp_path: Path) -> None:
    (path,) = synthesize(settings_for(tmp_path, seconds=0.5, clips=1, fps=1.0)).paths
    with MediaFile.open(path) as media:
        assert [timed.seconds for timed in media.video_frames_from(0.0)] == [0.0]


def test_errors_of_ffmpeg_arrive_as_plain_os_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FFmpegLikeError(OSError):
        """Cannot be pickled, as those of PyAV."""

        def __init__(self, code: int, message: str, log: object) -> None:
            super().__init__(code, message)

    def fails(*_: object) -> None:
        raise FFmpegLikeError(errno.EIO, "Input/output error", None)

    monkeypatch.setattr("cmmixer.synthetic.generate.write_video", fails)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_synthetic_video(0, settings_for(tmp_path, clips=1))
    assert type(caught.value) is OSError
    assert caught.value.filename == str(tmp_path / "000000.mp4")
