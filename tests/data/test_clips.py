"""Films become clips, and whatever cannot is listed with its reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cmmixer.config.data import DataSettings
from cmmixer.data.clips import list_clips
from cmmixer.data.dataset import open_clips
from cmmixer.data.manifest import Entry, read_manifest
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError, MediaError
from tests.support.small_runs import PICO
from tests.support.small_videos import film, sound

QUICK = {"stride_seconds": None, "file_seconds": 20.0, "workers": 1}


class Counting:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def start(self, total: int | None, what: str) -> None:
        self.told.append((total, what))

    def advance(self, steps: int = 1) -> None:
        self.told.append(steps)

    def message(self, text: str) -> None:
        self.told.append(text)


def test_films_are_cut_into_full_clips(films: Path) -> None:
    progress = Counting()
    refs, skips = list_clips(read_manifest(films), PICO, **QUICK, progress=progress)
    assert len(refs) == 6 * 2 + 6 * 3
    assert [ref.id for ref in refs[:3]] == ["a/00.mp4#0.000-1.000", "a/00.mp4#1.000-2.000", "a/02.mp4#0.000-1.000"]
    assert refs[0].source == "a/00"
    assert skips.total == 0
    assert progress.told == [(12, "opening films"), *[1] * 12]


def test_every_reason_is_found(mixed_films: Path) -> None:
    os.mkfifo(mixed_films / "pipe.mp4")
    sound(mixed_films / "only sound.wav")
    refs, skips = list_clips(read_manifest(mixed_films), PICO, **QUICK)
    assert {ref.path.rsplit("/", 1)[1] for ref in refs} == {"copy.mp4", "good one.mp4", "good two.mp4", "still.mp4"}
    assert {Path(skip.path).name: skip.reason for skip in skips} == {
        "folder.mp4": "not-a-file",
        "gone.mp4": "not-a-file",
        "no sound.mp4": "no-sound",
        "nothing.mp4": "empty",
        "only sound.wav": "no-picture",
        "pipe.mp4": "not-a-file",
        "short.mp4": "too-short",
        "text.mp4": "unreadable",
    }


def test_one_sense_is_enough_where_only_one_is_needed(tmp_path: Path) -> None:
    film(tmp_path / "silent.mp4", sound=False)
    sound(tmp_path / "sound.wav")
    entries = read_manifest(tmp_path)
    assert [r.source for r in list_clips(entries, PICO, **QUICK, need_sound=False)[0]] == ["silent", "silent"]
    assert [r.source for r in list_clips(entries, PICO, **QUICK, need_picture=False)[0]] == ["sound", "sound"]


def test_stretches_strides_and_sound_from_elsewhere(tmp_path: Path) -> None:
    film(tmp_path / "f.mp4", seconds=5.0)
    sound(tmp_path / "short.wav", seconds=2.0)
    rows = ["f.mp4,1.5,4,", "f.mp4,4.5,9,", "f.mp4,,,short.wav", "f.mp4,,,gone.wav", "f.mp4,1.5,4,"]
    (tmp_path / "m.csv").write_text("\n".join(["path,start_seconds,end_seconds,audio_path", *rows]))
    entries = read_manifest(tmp_path / "m.csv")
    refs, skips = list_clips(entries, PICO, stride_seconds=0.5, file_seconds=20.0, workers=2)
    assert [(r.span.start_seconds, r.span.end_seconds) for r in refs if r.audio_path is None] == [
        (1.5, 2.5), (2.0, 3.0), (2.5, 3.5), (3.0, 4.0),
    ]  # fmt: skip
    # A sound file that ends early ends the clips: later ones would be paired with padding.
    assert [r.span.start_seconds for r in refs if r.audio_path is not None] == [0.0, 0.5, 1.0]
    assert [(Path(s.path).name, s.reason) for s in skips] == [
        ("f.mp4", "too-short"),
        ("gone.wav", "missing"),
        ("f.mp4", "duplicate"),
    ]


def test_open_clips_says_what_is_wrong_when_nothing_is_left(tmp_path: Path) -> None:
    film(tmp_path / "films/short.mp4", seconds=0.5)
    (tmp_path / "films/notes.txt").write_text("x")
    with pytest.raises(DataError) as caught:
        open_clips(DataSettings(data=str(tmp_path / "films")), PICO, workers=1)
    told = "no film gives a clip of 1 s; 2 files left out: 1 too short, 1 not films or sounds by their ending"
    assert told in str(caught.value)


def test_open_clips_decodes_and_keeps_the_report(mixed_films: Path) -> None:
    clips = open_clips(DataSettings(data=str(mixed_films)), PICO, workers=1)
    assert len(clips) == len(clips.ids) == len(clips.sources) == len(clips.labels) == 8
    assert clips.skips.counts["not-media"] == 1
    clip = clips[0]
    assert clip.frames is not None
    assert clip.frames.pixels_THWC.shape == (2, 32, 32, 3)
    assert clip.frames.times_seconds_T.tolist() == [0.25, 0.75]
    assert clip.sound is not None
    assert clip.sound.samples_TN.shape == (2, 2000)


def test_the_report_is_readable_and_comes_back(tmp_path: Path) -> None:
    report = SkipReport()
    assert report.summary == "no file left out"
    report.add("a.mp4", "silent", "its loudest window has -80 dBFS, below -60 dBFS")
    report.add("b.mp4", "too-short", "got 1.00 s, a clip takes 4 s")
    report.add("c.mp4", "too-short", "got 2.00 s, a clip takes 4 s")
    report.add("d\udce9.mp4", "unreadable", "damaged at 3 s", clips_used=2)
    report.write(tmp_path)
    assert report.summary == "4 files left out: 2 too short, 1 silent, 1 unreadable or damaged"
    assert (tmp_path / "skipped.txt").read_text() == (
        "4 files left out: 2 too short, 1 silent, 1 unreadable or damaged\n\n"
        "too short:\n  b.mp4: got 1.00 s, a clip takes 4 s\n  c.mp4: got 2.00 s, a clip takes 4 s\n\n"
        "silent:\n  a.mp4: its loudest window has -80 dBFS, below -60 dBFS\n\n"
        "unreadable or damaged:\n  d\\xe9.mp4: damaged at 3 s (its first 2 clips are used)\n"
    )
    assert json.loads((tmp_path / "skipped.json").read_text())["counts"]["too-short"] == 2
    assert list(SkipReport.read(tmp_path)) == list(report)
    assert SkipReport.read(tmp_path / "elsewhere").total == 0


def test_every_reason_has_words() -> None:
    from cmmixer.data.skips import WORDS

    assert set(WORDS) == set(MediaError.REASONS)


def test_entries_travel_to_decoder_processes() -> None:
    import pickle

    entry = Entry("a.mp4", "a.mp4", source="a", extra={"licence": "CC BY"})
    assert pickle.loads(pickle.dumps(entry)) == entry
