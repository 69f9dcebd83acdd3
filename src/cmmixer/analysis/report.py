"""The two HTML pages: the report of a quickstart and the sheets of `cmmixer inspect`, with the plain values they show.

Both pages are self-contained: images, videos and sounds are embedded, so a page can be mailed or archived as one file.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from cmmixer.errors import InputError
from cmmixer.retrieval.search import show_seconds
from cmmixer.storage.files import explain_full_disk, write_atomically

# Metrics in the order of the table, each with a plain description.
MEASURES: dict[str, str] = {
    "R@1": "right one in first place",
    "R@5": "right one in the first 5",
    "R@10": "right one in the first 10",
    "MedR": "median rank of the right one",
    "MRR": "mean of 1 / rank",
}

DIRECTIONS = {"video_to_audio": "Silent video → its sound", "audio_to_video": "Sound → its video"}

# A page of a few dozen megabytes still opens on a phone. Larger files are named, not embedded.
LARGEST_MEDIA_BYTES = 6_000_000


@dataclass(frozen=True)
class Estimate:
    """The value of a metric and its 95 % confidence interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunMetrics:
    """Retrieval metrics of one run in both directions; a row of the comparison.

    Attributes:
        name: such as "with pre-training".
        video_to_audio, audio_to_video: metric (a key of `MEASURES`) -> value; rates in [0, 1], MedR as a rank.
        note: one line under the name.
    """

    name: str
    video_to_audio: Mapping[str, Estimate]
    audio_to_video: Mapping[str, Estimate]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A PNG with its title and caption.

    Attributes:
        title: heading above it.
        alt: description for readers who cannot see it.
        caption: how to read it.
        png: for the light page.
        png_dark: for the dark page. Without it, `png` is shown on a white background.
    """

    title: str
    alt: str
    caption: str
    png: bytes
    png_dark: bytes | None = None


@dataclass(frozen=True)
class Media:
    """A video or a sound that is embedded in the page and can be played.

    Attributes:
        name: shown on the page, usually the file's name.
        content: bytes of an mp4, webm, wav, mp3 or ogg file; None shows the poster and the name only.
        mime: such as `video/mp4` or `audio/wav`.
        poster: a PNG shown with a sound (its mel spectrogram) or before a video plays.
        label: class in the data set, if any.
    """

    name: str
    content: bytes | None
    mime: str
    poster: bytes | None = None
    label: str | None = None

    @classmethod
    def from_file(cls, path: str | Path, *, poster: bytes | None = None, label: str | None = None) -> Media:
        """Reads a file. A missing or very large file is shown by its name only."""
        path = Path(path)
        fits = path.is_file() and path.stat().st_size <= LARGEST_MEDIA_BYTES
        mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(path.name, path.read_bytes() if fits else None, mime, poster, label)

    @property
    def is_video(self) -> bool:
        return self.mime.startswith("video/")


@dataclass(frozen=True)
class ExampleHit:
    """One hit of an example search.

    Attributes:
        media: what was found.
        score: cosine similarity with the query, or the sequence score.
        partner: whether it is the query's true counterpart.
        start_seconds, end_seconds: position in the file.
    """

    media: Media
    score: float
    partner: bool
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Example:
    """One search of the gallery, shown with its media.

    Attributes:
        direction: a key of `DIRECTIONS`.
        query: what was searched with.
        hits: best first.
        partner_rank: rank of the true counterpart among all candidates, from 1.
        candidates: size of the gallery.
    """

    direction: str
    query: Media
    hits: Sequence[ExampleHit]
    partner_rank: int
    candidates: int

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction: got {self.direction!r}, expected one of {', '.join(DIRECTIONS)}")


@dataclass(frozen=True)
class SkippedFile:
    """A file that could not be used, with the short reason and the full message."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows.

    Attributes:
        title: of the page.
        summary: one or two sentences: what was done, on how much data.
        runs: metrics to compare; the page is about the first run.
        chance: chance level as direction -> metric -> value, as in the metrics JSON; or metric -> value for both directions.
        candidates: size of the frozen gallery.
        gallery: its sha256.
        facts: short name -> value, shown at the top (videos, minutes, machine).
        curves: plots of the loss.
        mixer: the strips: frames, mel spectrograms, mix, masked mix, reconstructions.
        examples: searches to watch and listen to.
        skipped: files that could not be used.
        settings: heading -> name -> value.
        commands: the same steps as commands.
        notes: what the figures show and what they do not.
        written: date and time, as text.
    """

    title: str
    summary: str
    runs: Sequence[RunMetrics]
    chance: Mapping[str, float] | Mapping[str, Mapping[str, float]]
    candidates: int
    gallery: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[Plot] = ()
    mixer: Plot | None = None
    examples: Sequence[Example] = ()
    skipped: Sequence[SkippedFile] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()
    written: str = ""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs: got none, expected the metrics of at least one run")

    def chance_of(self, direction: str, measure: str) -> float | None:
        """Returns the chance level of a metric, or None if it is not known."""
        values = self.chance.get(direction, self.chance)
        value = values.get(measure) if isinstance(values, Mapping) else None
        return None if value is None or isinstance(value, Mapping) else float(value)


def write_report(path: str | Path, data: ReportData) -> Path:
    """Writes the report as one self-contained HTML file.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with explain_full_disk(path, InputError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{path}: its folder is a file; choose another place for the report") from error
        write_atomically(path, render_report(data))
    return path


def render_report(data: ReportData) -> str:
    """Renders the report as HTML; all text, file names included, is escaped."""
    template = _templates().get_template("report.html.j2")
    return template.render(data=data, directions=DIRECTIONS, measures=MEASURES, headlines=_headlines(data))


@dataclass(frozen=True)
class _Headline:
    """R@1 of the main run in one direction, next to chance."""

    direction: str
    rate: Estimate
    chance: float | None

    @property
    def times(self) -> float | None:
        return self.rate.value / self.chance if self.chance else None


def _headlines(data: ReportData) -> list[_Headline]:
    main = data.runs[0]
    pairs = {"video_to_audio": main.video_to_audio, "audio_to_video": main.audio_to_video}
    return [
        _Headline(way, metrics["R@1"], data.chance_of(way, "R@1")) for way, metrics in pairs.items() if "R@1" in metrics
    ]


@dataclass(frozen=True)
class Sound:
    """A sound on a sheet: its caption and its wave file."""

    caption: str
    wav: bytes


@dataclass(frozen=True)
class Sheet:
    """One section of the page of `cmmixer inspect`.

    Attributes:
        title, text: above the image.
        png, alt: the image and its description.
        sounds: shown next to it.
    """

    title: str
    text: str
    png: bytes
    alt: str
    sounds: Sequence[Sound] = ()


def write_sheets(path: Path, title: str, lead: str, sheets: Sequence[Sheet]) -> Path:
    """Writes the sheets as one self-contained HTML file."""
    template = _templates().get_template("inspect.html.j2")
    write_atomically(path, template.render(title=title, lead=lead, sheets=sheets))
    return path


def wav(samples_N: NDArray[np.number], sample_rate_hz: int) -> bytes:
    """Encodes mono samples as a wave file: int16 as it is, floats with full scale 1, clipped."""
    if samples_N.dtype != np.int16:
        samples_N = (np.clip(samples_N, -1.0, 1.0) * 32767.0).astype(np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate_hz)
        sound.writeframes(samples_N.astype("<i2").tobytes())
    return file.getvalue()


def show_metric(value: float, measure: str) -> str:
    """Formats a metric: rates in per cent, MedR with at most one decimal, MRR with three."""
    if measure == "MedR":
        return f"{value:.1f}".removesuffix(".0")
    if measure == "MRR":
        return f"{value:.3f}"
    percent = 100.0 * value
    return f"{percent:.1f} %" if percent < 99.95 else "100 %"


def data_uri(content: bytes, mime: str) -> str:
    """Returns a `data:` URI that carries the bytes themselves, so that the page loads nothing else."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("cmmixer.analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(metric=show_metric, seconds=show_seconds, data_uri=data_uri)
    return environment
