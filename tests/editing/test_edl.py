"""Edit decision lists and tables: OpenTimelineIO reads the same moments, and the text is as documented."""

from __future__ import annotations

import csv
import errno
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import opentimelineio as otio
import pytest

from cmmixer.editing.edl import COLUMNS, SourceTiming, source_timing, write_csv, write_edl
from cmmixer.editing.timecode import FrameRate
from cmmixer.errors import InputError, SettingsError
from tests.support.counting_videos import counting_pixels, tone, write

NTSC = Fraction(30000, 1001)


@dataclass(frozen=True)
class Found:
    rank: int
    path: str
    start_seconds: float
    end_seconds: float
    score: float = 0.5
    query_start_seconds: float = 0.0
    query_end_seconds: float = 2.0
    source: str = "s"
    label: str | None = None


def _read_edl(path: Path, rate: float) -> otio.schema.Timeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return otio.adapters.read_from_file(str(path), adapter_name="cmx_3600", rate=rate)


@pytest.mark.parametrize("rate", [FrameRate(Fraction(25)), FrameRate(NTSC)])
@pytest.mark.parametrize("target", ["audio", "video", "any"])
def test_opentimelineio_reads_the_same_moments(tmp_path: Path, rate: FrameRate, target: str) -> None:
    moments = [
        Found(1, "/videos/a b.mov", 61.0, 65.0),
        Found(2, "/videos/[red].wav", 0.0, 2.5),
        Found(3, "/f/c.mp4", 3599.0, 3603.2),
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
    tracks = _read_edl(tmp_path / "list.edl", float(rate.exact)).tracks
    kinds = {"audio": ["Audio", "Audio"], "video": ["Video"], "any": ["Audio", "Audio", "Video"]}[target]
    assert sorted(track.kind for track in tracks) == kinds
    for track in tracks:
        clips = list(track.find_clips())
        assert [clip.name for clip in clips] == ["a b.mov", "[red].wav", "c.mp4"]
        for clip, moment in zip(clips, moments, strict=True):
            begin, length = clip.source_range.start_time, clip.source_range.duration
            assert begin.value == rate.frames(moment.start_seconds)
            assert begin.value + length.value == rate.frames(moment.end_seconds)


def test_the_text_of_an_edl(tmp_path: Path) -> None:
    moments = [Found(1, "/videos/line\nbreak.wav", 5.0, 7.0, 0.9734, 1.0, 3.0), Found(2, "/videos/b.wav", 0.0, 0.001)]
    timing = {"/videos/b.wav": SourceTiming(25.0, 36000.0)}
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
        "* SOURCE FILE: /videos/line break.wav",
        "* COMMENT: RANK 1, SCORE 0.973, GOES WITH 00:00:01:00 - 00:00:03:00 OF q.mp4",
        "",
        "002  AX       AA    C        10:00:00:00 10:00:00:01 01:00:02:00 01:00:02:01",
        "* FROM CLIP NAME: b.wav",
        "* SOURCE FILE: /videos/b.wav",
        "* COMMENT: RANK 2, SCORE 0.500, GOES WITH 00:00:00:00 - 00:00:02:00 OF q.mp4",
        "",
    ]


def test_more_moments_than_an_edl_can_number(tmp_path: Path) -> None:
    moments = [Found(rank, "/f/a.wav", 0.0, 1.0) for rank in range(1, 1001)]
    with pytest.raises(SettingsError, match="got 1000 moments, but CMX 3600 holds 999; ask for fewer"):
        write_edl(tmp_path / "x.edl", moments, target="audio", rate=FrameRate(Fraction(25)), title="", query="q")
    assert not list(tmp_path.iterdir())


def test_the_columns_of_a_table(tmp_path: Path) -> None:
    moments = [Found(1, '/videos/"a", b.wav', 61.0, 65.5, 0.97344, 1.0, 3.0, "s", "bell")]
    write_csv(tmp_path / "x.csv", moments, rate=FrameRate(NTSC), query="q.mp4", timing=lambda path: SourceTiming())
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "rank": "1",
        "path": '/videos/"a", b.wav',
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


def test_the_timecode_of_a_camera_is_read_edl(tmp_path: Path) -> None:
    path = tmp_path / "camera.mov"
    with av.open(str(path), "w") as container:
        container.metadata["timecode"] = "10:20:30:05"
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for image in counting_pixels(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(video.encode(None))
    assert source_timing(path) == SourceTiming(25.0, 10 * 3600 + 20 * 60 + 30 + 5 / 25)
    assert source_timing(write(tmp_path / "plain.mp4", pixels=counting_pixels(5))) == SourceTiming(10.0, 0.0)
    assert source_timing(write(tmp_path / "sound.mkv", samples=tone(1.0, 16000))) == SourceTiming()
    assert source_timing(tmp_path / "gone.mp4") == SourceTiming()


def test_a_drop_frame_list_says_so(tmp_path: Path) -> None:
    write_edl(
        tmp_path / "list.edl",
        [Found(1, "/videos/a.mp4", 0.0, 1.0)],
        target="video",
        rate=FrameRate(NTSC),
        title="a\nb",
        query="q.mp4",
        timing=lambda path: SourceTiming(),
    )
    lines = (tmp_path / "list.edl").read_text().splitlines()
    assert lines[:2] == ["TITLE: a b", "FCM: DROP FRAME"]
    assert lines[3].startswith("001  AX       V     C        00:00:00;00 00:00:01;00 01:00:00;00")


def test_an_empty_list_and_an_empty_table(tmp_path: Path) -> None:
    rate = FrameRate(Fraction(25))
    write_edl(tmp_path / "x.edl", [], target="any", rate=rate, title="nothing", query="q")
    assert (tmp_path / "x.edl").read_bytes() == b"TITLE: nothing\r\nFCM: NON-DROP FRAME\r\n"
    write_csv(tmp_path / "x.csv", [], rate=rate, query="q")
    assert (tmp_path / "x.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_names_that_are_not_unicode_are_written_with_a_mark(tmp_path: Path) -> None:
    moments = [Found(1, "/videos/\udcff.wav", 0.0, 1.0)]
    write_csv(tmp_path / "x.csv", moments, rate=FrameRate(NTSC), query="q", timing=lambda path: SourceTiming())
    assert "/videos/?.wav" in (tmp_path / "x.csv").read_text()


@pytest.mark.parametrize("name", ['=HYPERLINK("//x")', "+1+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_runs_no_name_as_a_formula(tmp_path: Path, name: str) -> None:
    moments = [Found(1, name, 0.0, 1.0)]
    write_csv(tmp_path / "x.csv", moments, rate=FrameRate(NTSC), query=name, timing=lambda path: SourceTiming())
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["query"]) == (f"'{name}", f"'{name}")


def test_an_ordinary_name_stays_as_it_is(tmp_path: Path) -> None:
    moments = [Found(1, "/videos/a = b.wav", 0.0, 1.0)]
    write_csv(tmp_path / "x.csv", moments, rate=FrameRate(NTSC), query="q-1.mp4", timing=lambda path: SourceTiming())
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["query"]) == ("/videos/a = b.wav", "q-1.mp4")


def test_an_existing_list_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("yesterday's")
    write_csv(path, [], rate=FrameRate(NTSC), query="q")
    assert path.read_text().startswith("rank,path")
    assert [file.name for file in tmp_path.iterdir()] == ["x.csv"]


def write_list(path: Path) -> None:
    """Writes an empty list of either kind."""
    if path.suffix == ".edl":
        write_edl(path, [], target="any", rate=FrameRate(NTSC), title="t", query="q")
    else:
        write_csv(path, [], rate=FrameRate(NTSC), query="q")


@pytest.mark.parametrize("name", ["list.edl", "table.csv"])
def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmmixer.editing.edl.write_atomically", full)
    with pytest.raises(InputError, match="the disk is full; free some space") as caught:
        write_list(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
