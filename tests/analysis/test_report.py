"""The report page: what it carries, that it fetches nothing, that names cannot break it, and its pictures' pixels."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmmixer.analysis.plots import Curves, StripRow, loss_curves, mel_picture, strip_picture
from cmmixer.analysis.report import (
    LARGEST_MEDIA_BYTES,
    Example,
    Found,
    Media,
    Picture,
    Rate,
    ReportData,
    RunFigures,
    SkippedFile,
    render_page,
    show_figure,
    write_report,
)
from cmmixer.errors import InputError

HOSTILE_NAME = "<script>alert(1)</script> & 'x\".mp4"


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _figures(first: float) -> dict[str, Rate]:
    return {
        "R@1": Rate(first, first - 0.05, first + 0.05),
        "R@5": Rate(0.8, 0.75, 0.85),
        "R@10": Rate(0.9),
        "MedR": Rate(2.0, 1.0, 2.5),
        "MRR": Rate(0.5123),
    }


@pytest.fixture
def sample() -> ReportData:
    mel = mel_picture(np.random.default_rng(0).normal(size=(8, 8)))
    sound = Media("bell.wav", b"RIFFsound", "audio/wav", mel, "bell")
    film = Media(HOSTILE_NAME, b"film bytes", "video/mp4")
    found = [Found(sound, 0.91, True, 0.0, 4.0), Found(sound, 0.5, False, 75.25, 79.25)]
    back = [Found(film, 0.7, False, 0.0, 4.0)]
    curve = Picture("Fine-tuning", "a falling line", "lower is better", mel, mel)
    return ReportData(
        title="CMMixer learned which sound belongs to which picture",
        summary="It watched 1,000 films.",
        runs=[
            RunFigures("with pre-training", _figures(0.4), _figures(0.3)),
            RunFigures("from scratch", _figures(0.2), {}),
        ],
        chance={"video_to_audio": {"R@1": 0.005, "MedR": 100.5}, "audio_to_video": {"R@1": 0.005}},
        candidates=200,
        gallery="ab" * 32,
        facts={"films": "1,000"},
        curves=[curve],
        mixer=Picture("One clip", "six strips", "top to bottom", mel),
        examples=[
            Example("video_to_audio", film, found, partner_place=1, candidates=200),
            Example("audio_to_video", sound, back, partner_place=7, candidates=200),
        ],
        skipped=[SkippedFile(HOSTILE_NAME, "empty", "zero bytes")],
        settings={"finetune": {"lr": 1e-3}},
        commands=["cmmixer quickstart --out 'runs/<x>'"],
        notes=["Only 200 films: the interval is wide."],
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


def test_page_fetches_nothing(sample: ReportData) -> None:
    page = render_page(sample)
    outline = _outline(page)
    assert outline.addresses
    assert all(address.startswith("data:") for address in outline.addresses)
    assert not re.search(r"https?://|@import|url\(", page)


def test_names_are_escaped(sample: ReportData) -> None:
    page = render_page(sample)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#39;x&#34;.mp4" in page
    assert len(_outline(page).all("script")) == 1
    assert "runs/&lt;x&gt;" in page


def test_page_carries_media_that_plays(sample: ReportData) -> None:
    outline = _outline(render_page(sample))
    film = "data:video/mp4;base64," + base64.b64encode(b"film bytes").decode()
    videos = outline.all("video")
    assert [video["src"] for video in videos] == [film, film]
    assert all("muted" in video and "controls" in video for video in videos)
    sounds = outline.all("audio")
    assert len(sounds) == 3
    assert base64.b64decode(str(sounds[0]["src"]).split(",")[1]) == b"RIFFsound"
    assert all(image["alt"] for image in outline.all("img"))


def test_figures_against_chance(sample: ReportData) -> None:
    text = re.sub(r"\s+", " ", render_page(sample))
    assert '<p class="big">40.0 %</p>' in text
    assert "Guessing: 0.5 %. That is 80 times better than guessing." in text
    assert "<td>40.0 %<small>35.0 % – 45.0 %</small></td>" in text
    assert "<td>2<small>1 – 2.5</small></td>" in text
    assert "<td>100.5</td>" in text
    assert "from scratch" in text
    assert text.count("✓ the true one") == 1
    assert "1:15.2 – 1:19.2, score 0.50" in text
    assert "place 7 of 200" in text


def test_chance_may_be_given_once_for_both_ways(sample: ReportData) -> None:
    both = ReportData(title="t", summary="s", runs=sample.runs, chance={"R@1": 0.005}, candidates=200)
    assert both.guessing("video_to_audio", "R@1") == 0.005
    assert both.guessing("audio_to_video", "MRR") is None
    page = render_page(both)
    assert "80 times better" in page
    for heading in ("examples", "skipped", "mixer", "curves", "again", "notes"):
        assert f'id="{heading}"' not in page


def test_large_or_missing_media_are_named_not_carried(tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(LARGEST_MEDIA_BYTES + 1)
    (tmp_path / "small.wav").write_bytes(b"RIFF")
    assert Media.from_file(large).content is None
    assert Media.from_file(tmp_path / "gone.mp4").content is None
    small = Media.from_file(tmp_path / "small.wav")
    assert (small.content, small.name, small.is_film) == (b"RIFF", "small.wav", False)


def test_written_whole_and_refused_clearly(sample: ReportData, tmp_path: Path) -> None:
    path = write_report(tmp_path / "deep" / "report.html", sample)
    assert path.read_text().startswith("<!doctype html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="its folder is a file; choose another place"):
        write_report(tmp_path / "file" / "report.html", sample)


def test_bad_report_data() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        ReportData(title="t", summary="s", runs=[], chance={}, candidates=1)
    with pytest.raises(ValueError, match="got 'sideways', expected one of video_to_audio, audio_to_video"):
        Example("sideways", Media("a", None, "audio/wav"), [], 1, 1)


@pytest.mark.parametrize(
    ("value", "measure", "shown"),
    [(0.125, "R@1", "12.5 %"), (1.0, "R@5", "100 %"), (3.0, "MedR", "3"), (3.5, "MedR", "3.5"), (0.5, "MRR", "0.500")],
)
def test_show_figure(value: float, measure: str, shown: str) -> None:
    assert show_figure(value, measure) == shown


def test_mel_picture_has_low_tones_at_the_bottom() -> None:
    decibels = np.zeros((4, 6))
    decibels[0] = 10.0  # the lowest band is loud
    picture = _pixels(mel_picture(decibels, scale=3))
    assert picture.shape == (12, 18, 3)
    assert picture[-1].min() > 150  # magma's loud end is pale
    assert picture[0].max() < 10
    with pytest.raises(ValueError, match=r"shape \(H, W\); got \(3,\)"):
        mel_picture(np.zeros(3))


def test_strip_picture_shows_pictures_in_order() -> None:
    frames = np.zeros((2, 5, 5, 3), np.uint8)
    frames[0, ..., 0] = 255
    frames[1, ..., 2] = 255
    picture = _pixels(strip_picture([StripRow("frames", frames)]))
    red, blue = (np.argwhere((picture == colour).all(-1)) for colour in ((255, 0, 0), (0, 0, 255)))
    assert len(red) > 1000
    assert abs(len(red) - len(blue)) < 0.1 * len(red)
    assert red[:, 1].max() < blue[:, 1].min()
    as_floats = _pixels(strip_picture([StripRow("frames", frames.astype(np.float32) / 255)]))
    assert np.array_equal(as_floats, picture)


def test_strip_picture_accepts_mel_and_refuses_others() -> None:
    mel = np.zeros((2, 4, 4))
    mel[1, 0] = 5.0
    assert _pixels(strip_picture([StripRow("mel", mel), StripRow("mixed", np.zeros((2, 4, 4, 3)))])).shape[2] == 3
    with pytest.raises(ValueError, match=r"got \(2, 4\)"):
        strip_picture([StripRow("flat", np.zeros((2, 4)))])
    with pytest.raises(ValueError, match="got no rows"):
        strip_picture([])


def test_loss_curves_draw_each_series() -> None:
    rows = [{"step": float(i), "loss": 1.0 / (i + 1)} for i in range(20)] + [{"step": 20.0, "other": 3.0}]
    panel = Curves("Pre-training", rows, {"loss": "both", "missing": "not there"}, level=(0.5, "guessing"))
    light, dark = loss_curves([panel, panel]), loss_curves([panel], dark=True)
    assert Image.open(io.BytesIO(light)).size[0] > 1.9 * Image.open(io.BytesIO(dark)).size[0]
    alpha = np.asarray(Image.open(io.BytesIO(light)))[..., 3]
    assert (alpha == 0).mean() > 0.5
    blue = (np.abs(_pixels(light).astype(int) - (0x00, 0x72, 0xB2)).sum(-1) < 12).sum()
    assert blue > 300
    with pytest.raises(ValueError, match="got no panels"):
        loss_curves([])


def test_pictures_do_not_touch_pyplot() -> None:
    import matplotlib._pylab_helpers as managers

    loss_curves([Curves("x", [{"step": 0.0, "loss": 1.0}], {"loss": "loss"})])
    assert managers.Gcf.get_all_fig_managers() == []
