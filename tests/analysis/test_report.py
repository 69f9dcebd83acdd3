"""The HTML report: its content, self-containment and escaping, and the pixels of the plots."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cmmixer.analysis.plots import mel_spectrogram
from cmmixer.analysis.report import (
    LARGEST_MEDIA_BYTES,
    Estimate,
    Example,
    ExampleHit,
    Media,
    Plot,
    ReportData,
    RunMetrics,
    SkippedFile,
    render_report,
    show_metric,
    write_report,
)
from cmmixer.errors import InputError

HOSTILE_NAME = "<script>alert(1)</script> & 'x\".mp4"


def _metrics(first: float) -> dict[str, Estimate]:
    return {
        "R@1": Estimate(first, first - 0.05, first + 0.05),
        "R@5": Estimate(0.8, 0.75, 0.85),
        "R@10": Estimate(0.9),
        "MedR": Estimate(2.0, 1.0, 2.5),
        "MRR": Estimate(0.5123),
    }


@pytest.fixture
def sample() -> ReportData:
    mel = mel_spectrogram(np.random.default_rng(0).normal(size=(8, 8)))
    sound = Media("bell.wav", b"RIFFsound", "audio/wav", mel, "bell")
    video = Media(HOSTILE_NAME, b"video bytes", "video/mp4")
    sounds = [ExampleHit(sound, 0.91, True, 0.0, 4.0), ExampleHit(sound, 0.5, False, 75.25, 79.25)]
    videos = [ExampleHit(video, 0.7, False, 0.0, 4.0)]
    curve = Plot("Fine-tuning", "a falling line", "lower is better", mel, mel)
    return ReportData(
        title="CMMixer learned which sound belongs to which picture",
        summary="It watched 1,000 videos.",
        runs=[
            RunMetrics("with pre-training", _metrics(0.4), _metrics(0.3)),
            RunMetrics("no pre-training (baseline)", _metrics(0.2), {}),
        ],
        chance={"video_to_audio": {"R@1": 0.005, "MedR": 100.5}, "audio_to_video": {"R@1": 0.005}},
        candidates=200,
        gallery="ab" * 32,
        facts={"videos": "1,000"},
        curves=[curve],
        mixer=Plot("One clip", "six strips", "top to bottom", mel),
        examples=[
            Example("video_to_audio", video, sounds, partner_rank=1, candidates=200),
            Example("audio_to_video", sound, videos, partner_rank=7, candidates=200),
        ],
        skipped=[SkippedFile(HOSTILE_NAME, "empty", "zero bytes")],
        settings={"finetune": {"lr": 1e-3}},
        commands=["cmmixer quickstart --out 'runs/<x>'"],
        notes=["Only 200 videos: the interval is wide."],
        written="2030-01-02 03:04",
    )


class _Outline(HTMLParser):
    """Collects tags, addresses and unclosed elements."""

    VOID = frozenset({"meta", "img", "source", "br", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


def test_report_loads_nothing(sample: ReportData) -> None:
    page = render_report(sample)
    outline = _outline(page)
    assert outline.addresses
    assert all(address.startswith("data:") for address in outline.addresses)
    assert not re.search(r"https?://|@import|url\(", page)


def test_names_are_escaped(sample: ReportData) -> None:
    page = render_report(sample)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#39;x&#34;.mp4" in page
    assert len(_outline(page).all("script")) == 1
    assert "runs/&lt;x&gt;" in page


def test_report_embeds_playable_media(sample: ReportData) -> None:
    outline = _outline(render_report(sample))
    video = "data:video/mp4;base64," + base64.b64encode(b"video bytes").decode()
    videos = outline.all("video")
    assert [video["src"] for video in videos] == [video, video]
    assert all("muted" in video and "controls" in video for video in videos)
    sounds = outline.all("audio")
    assert len(sounds) == 3
    assert base64.b64decode(str(sounds[0]["src"]).split(",")[1]) == b"RIFFsound"
    assert all(image["alt"] for image in outline.all("img"))


def test_report_compares_with_chance(sample: ReportData) -> None:
    text = re.sub(r"\s+", " ", render_report(sample))
    assert '<p class="big">40.0 %</p>' in text
    assert "Chance: 0.5 %. That is 80 times better than chance." in text
    assert "<td>40.0 %<small>35.0 % – 45.0 %</small></td>" in text
    assert "<td>2<small>1 – 2.5</small></td>" in text
    assert "<td>100.5</td>" in text
    assert "no pre-training (baseline)" in text
    assert text.count("✓ the right one") == 1
    assert "1:15.2 – 1:19.2, score 0.50" in text
    assert "ranked 7 of 200" in text


def test_chance_may_be_given_once_for_both_directions(sample: ReportData) -> None:
    both = ReportData(title="t", summary="s", runs=sample.runs, chance={"R@1": 0.005}, candidates=200)
    assert both.chance_of("video_to_audio", "R@1") == 0.005
    assert both.chance_of("audio_to_video", "MRR") is None
    page = render_report(both)
    assert "80 times better" in page
    for heading in ("examples", "skipped", "mixer", "curves", "reproduce", "notes"):
        assert f'id="{heading}"' not in page


def test_large_or_missing_media_are_named_not_embedded(tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(LARGEST_MEDIA_BYTES + 1)
    (tmp_path / "small.wav").write_bytes(b"RIFF")
    assert Media.from_file(large).content is None
    assert Media.from_file(tmp_path / "gone.mp4").content is None
    small = Media.from_file(tmp_path / "small.wav")
    assert (small.content, small.name, small.is_video) == (b"RIFF", "small.wav", False)


def test_write_report_is_atomic_and_refuses_a_file_as_folder(sample: ReportData, tmp_path: Path) -> None:
    path = write_report(tmp_path / "deep" / "report.html", sample)
    assert path.read_text().startswith("<!doctype html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="its folder is a file; choose another place"):
        write_report(tmp_path / "file" / "report.html", sample)


def test_invalid_report_data_is_refused() -> None:
    with pytest.raises(ValueError, match="runs: got none, expected the metrics of at least one run"):
        ReportData(title="t", summary="s", runs=[], chance={}, candidates=1)
    with pytest.raises(ValueError, match="got 'sideways', expected one of video_to_audio, audio_to_video"):
        Example("sideways", Media("a", None, "audio/wav"), [], 1, 1)


@pytest.mark.parametrize(
    ("value", "measure", "shown"),
    [(0.125, "R@1", "12.5 %"), (1.0, "R@5", "100 %"), (3.0, "MedR", "3"), (3.5, "MedR", "3.5"), (0.5, "MRR", "0.500")],
)
def test_show_metric(value: float, measure: str, shown: str) -> None:
    assert show_metric(value, measure) == shown
