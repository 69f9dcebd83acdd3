"""Lists for an editing program: timecodes as OpenTimelineIO counts them, and its reader finds the same moments."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import opentimelineio as otio
import pytest

from cmmixer.editing.edl import FrameRate, SourceTiming, source_timing, write_csv, write_edl
from cmmixer.errors import SettingsError
from tests.support.counting_videos import counting_pixels, tone, write

NTSC = Fraction(30000, 1001)


@dataclass(frozen=True)
class Moment:
    rank: int
    path: str
    start_seconds: float
    end_seconds: float
    score: float = 0.5
    query_start_seconds: float = 0.0
    query_end_seconds: float = 2.0
    source: str = "s"
    label: str | None = None


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(24), Fraction(25), NTSC, Fraction(30), Fraction(60000, 1001)]
)
def test_timecodes_are_those_of_opentimelineio(rate: Fraction) -> None:
    ours = FrameRate(rate)
    generator = np.random.default_rng(0)
    day = ours.frames(24 * 3600) - 1
    some = [0, 1, 1799, 1800, 1801, 17981, 17982, 17983, 35963, 35964, *map(int, generator.integers(0, day, 2000))]
    for frame in some:
        theirs = otio.opentime.RationalTime(frame, float(rate)).to_timecode(float(rate), ours.drops)
        assert ours.timecode(frame) == theirs
        assert ours.frames(ours.seconds_of(theirs)) == frame  # type: ignore[arg-type]


def test_drop_frame_by_hand() -> None:
    rate = FrameRate(NTSC)
    assert rate.drops
    assert not FrameRate(Fraction(24000, 1001)).drops
    # ;00 and ;01 of each minute are not there, but of every tenth they are; an hour of clock time is an hour of count.
    assert [rate.timecode(frame) for frame in (1799, 1800, 17982)] == ["00:00:59;29", "00:01:00;02", "00:10:00;00"]
    assert rate.timecode(rate.frames(3600.0)) == "01:00:00;00"
    assert FrameRate(Fraction(25)).timecode(25 * 3600 * 24 + 1) == "00:00:00:01"


@pytest.mark.parametrize(
    ("pictures", "exact"),
    [
        (29.97, NTSC),
        (30000 / 1001, NTSC),
        (14.985, NTSC),
        (23.976, Fraction(24000, 1001)),
        (12.5, Fraction(25)),
        (15.0, Fraction(30)),
        (10.0, Fraction(30)),
        (28.7, Fraction(30000, 1001)),
        (120.0, Fraction(60)),
        (1e-12, Fraction(24000, 1001)),
    ],
)
def test_films_of_any_rate_get_one_that_programs_have(pictures: float, exact: Fraction) -> None:
    assert FrameRate.fitting(pictures).exact == exact


def _read(path: Path, rate: float) -> otio.schema.Timeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return otio.adapters.read_from_file(str(path), adapter_name="cmx_3600", rate=rate)


@pytest.mark.parametrize("rate", [FrameRate(Fraction(25)), FrameRate(NTSC)])
@pytest.mark.parametrize("target", ["audio", "video", "film"])
def test_another_reader_finds_the_same_moments(tmp_path: Path, rate: FrameRate, target: str) -> None:
    moments = [
        Moment(1, "/films/a b.mov", 61.0, 65.0),
        Moment(2, "/films/[red].wav", 0.0, 2.5),
        Moment(3, "/f/c.mp4", 3599.0, 3603.2),
    ]
    write_edl(
        tmp_path / "list.edl",
        moments,
        target=target,
        rate=rate,
        title="sounds for q.mp4",
        query="q.mp4",
        timing=lambda path: SourceTiming(),
    )
    tracks = _read(tmp_path / "list.edl", float(rate.exact)).tracks
    kinds = {"audio": ["Audio", "Audio"], "video": ["Video"], "film": ["Audio", "Audio", "Video"]}[target]
    assert sorted(track.kind for track in tracks) == kinds
    for track in tracks:
        clips = list(track.find_clips())
        assert [clip.name for clip in clips] == ["a b.mov", "[red].wav", "c.mp4"]
        for clip, moment in zip(clips, moments, strict=True):
            begin, length = clip.source_range.start_time, clip.source_range.duration
            assert begin.value == rate.frames(moment.start_seconds)
            assert begin.value + length.value == rate.frames(moment.end_seconds)


def test_the_text_of_a_list(tmp_path: Path) -> None:
    moments = [Moment(1, "/films/line\nbreak.wav", 5.0, 7.0, 0.9734, 1.0, 3.0), Moment(2, "/films/b.wav", 0.0, 0.001)]
    timing = {"/films/b.wav": SourceTiming(25.0, 36000.0)}
    write_edl(
        tmp_path / "new" / "list.edl",
        moments,
        target="audio",
        rate=FrameRate(Fraction(25)),
        title="sounds for q.mp4",
        query="q.mp4",
        timing=lambda path: timing.get(path, SourceTiming()),
    )
    assert (tmp_path / "new" / "list.edl").read_bytes().decode().split("\r\n") == [
        "TITLE: sounds for q.mp4",
        "FCM: NON-DROP FRAME",
        "",
        "001  AX       AA    C        00:00:05:00 00:00:07:00 01:00:00:00 01:00:02:00",
        "* FROM CLIP NAME: line break.wav",
        "* SOURCE FILE: /films/line break.wav",
        "* COMMENT: RANK 1, SCORE 0.973, GOES WITH 00:00:01:00 - 00:00:03:00 OF q.mp4",
        "",
        "002  AX       AA    C        10:00:00:00 10:00:00:01 01:00:02:00 01:00:02:01",
        "* FROM CLIP NAME: b.wav",
        "* SOURCE FILE: /films/b.wav",
        "* COMMENT: RANK 2, SCORE 0.500, GOES WITH 00:00:00:00 - 00:00:02:00 OF q.mp4",
        "",
    ]


def test_more_than_the_format_counts(tmp_path: Path) -> None:
    moments = [Moment(rank, "/f/a.wav", 0.0, 1.0) for rank in range(1, 1001)]
    with pytest.raises(SettingsError, match="got 1000 moments, but CMX 3600 holds 999; ask for fewer"):
        write_edl(tmp_path / "x.edl", moments, target="audio", rate=FrameRate(Fraction(25)), title="", query="q")
    assert not list(tmp_path.iterdir())


def test_the_table(tmp_path: Path) -> None:
    moments = [Moment(1, '/films/"a", b.wav', 61.0, 65.5, 0.97344, 1.0, 3.0, "s", "bell")]
    write_csv(tmp_path / "x.csv", moments, rate=FrameRate(NTSC), query="q.mp4", timing=lambda path: SourceTiming())
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "rank": "1",
        "path": '/films/"a", b.wav',
        "start_seconds": "61.000",
        "end_seconds": "65.500",
        "source_in": "00:01:01;00",
        "source_out": "00:01:05;15",
        "query": "q.mp4",
        "query_start_seconds": "1.000",
        "query_end_seconds": "3.000",
        "query_in": "00:00:01;00",
        "query_out": "00:00:03;00",
        "score": "0.9734",
        "source": "s",
        "label": "bell",
    }


def test_a_cameras_timecode_counts(tmp_path: Path) -> None:
    path = tmp_path / "camera.mov"
    with av.open(str(path), "w") as container:
        container.metadata["timecode"] = "10:20:30:05"
        picture = container.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for image in counting_pixels(5):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(picture.encode(None))
    assert source_timing(path) == SourceTiming(25.0, 10 * 3600 + 20 * 60 + 30 + 5 / 25)
    assert source_timing(write(tmp_path / "plain.mp4", pixels=counting_pixels(5))) == SourceTiming(10.0, 0.0)
    assert source_timing(write(tmp_path / "sound.mkv", samples=tone(1.0, 16000))) == SourceTiming()
    assert source_timing(tmp_path / "gone.mp4") == SourceTiming()
