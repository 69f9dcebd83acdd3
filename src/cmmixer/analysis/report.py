"""What a report is made of, as plain values, and the page they become.

The page of `cmmixer inspect`: sheets of pictures, each with sounds to listen to.
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

# The measures of the metrics JSON, in the order of the table, and what each says in plain words.
MEASURES: dict[str, str] = {
    "R@1": "right one in first place",
    "R@5": "right one among the first 5",
    "R@10": "right one among the first 10",
    "MedR": "usual place of the right one",
    "MRR": "mean of 1 / place",
}

DIRECTIONS = {"video_to_audio": "Silent film → its sound", "audio_to_video": "Sound → its film"}

# A page of some dozens of megabytes still opens on a phone; larger files are named but not carried.
LARGEST_MEDIA_BYTES = 6_000_000


@dataclass(frozen=True)
class Rate:
    """A figure and its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run, both ways; a column of the comparison.

    Attributes:
        name: such as "with pre-training" or "from scratch".
        video_to_audio, audio_to_video: measure (a key of `MEASURES`) -> figure; rates in [0, 1], MedR in places.
        note: one line under the name.
    """

    name: str
    video_to_audio: Mapping[str, Rate]
    audio_to_video: Mapping[str, Rate]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with its words.

    Attributes:
        title: heading above it.
        alt: what is seen on it, for those who do not see it.
        caption: how to read it.
        png: for the light page.
        png_dark: for the dark page; without it the light one stands on a light card.
    """

    title: str
    alt: str
    caption: str
    png: bytes
    png_dark: bytes | None = None


@dataclass(frozen=True)
class Media:
    """A film or a sound that the page carries and plays.

    Attributes:
        name: shown, usually the file's name.
        content: bytes of an mp4, webm, wav, mp3 or ogg; None shows picture and name only.
        mime: such as `video/mp4` or `audio/wav`.
        picture: a PNG shown with a sound (its mel picture) or before a film plays.
        label: what the data set says it is, if anything.
    """

    name: str
    content: bytes | None
    mime: str
    picture: bytes | None = None
    label: str | None = None

    @classmethod
    def from_file(cls, path: str | Path, *, picture: bytes | None = None, label: str | None = None) -> Media:
        """A file of the disk; a missing or very large one is shown by name only."""
        path = Path(path)
        fits = path.is_file() and path.stat().st_size <= LARGEST_MEDIA_BYTES
        mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(path.name, path.read_bytes() if fits else None, mime, picture, label)

    @property
    def is_film(self) -> bool:
        return self.mime.startswith("video/")


@dataclass(frozen=True)
class Found:
    """One hit of an example search.

    Attributes:
        media: what was found.
        score: cosine similarity with the query, or its sequence score.
        partner: whether it is the query's true other half.
        start_seconds, end_seconds: where in the file.
    """

    media: Media
    score: float
    partner: bool
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Example:
    """One search of the gallery, to look at and listen to.

    Attributes:
        direction: a key of `DIRECTIONS`.
        query: what was searched with.
        found: the best hits, best first.
        partner_place: place of the true partner in the whole ranking, from 1.
        candidates: how many there were.
    """

    direction: str
    query: Media
    found: Sequence[Found]
    partner_place: int
    candidates: int

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction: got {self.direction!r}, expected one of {', '.join(DIRECTIONS)}")


@dataclass(frozen=True)
class SkippedFile:
    """A file that could not be used, the short reason and the sentence about it."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        title: of the page.
        summary: one or two sentences: what was done, with how much.
        runs: figures to compare; the first is the run the page is about.
        chance: direction -> measure -> what guessing would give, as in the metrics JSON; or measure -> value for both.
        candidates: size of the frozen gallery.
        gallery: its sha256.
        facts: short name -> value, shown at the top (films, minutes, machine).
        curves: pictures of the loss.
        mixer: the picture of {frames, mel, mixed, masked, reconstructions}.
        examples: searches to look at and listen to.
        skipped: files that could not be used.
        settings: heading -> name -> value.
        commands: the commands that do the same step by step.
        notes: honest remarks on what the figures say and do not say.
        written: date and time, as text.
    """

    title: str
    summary: str
    runs: Sequence[RunFigures]
    chance: Mapping[str, float] | Mapping[str, Mapping[str, float]]
    candidates: int
    gallery: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[Picture] = ()
    mixer: Picture | None = None
    examples: Sequence[Example] = ()
    skipped: Sequence[SkippedFile] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()
    written: str = ""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a report needs the figures of at least one run")

    def guessing(self, direction: str, measure: str) -> float | None:
        """What guessing gives, or None where it is not known."""
        values = self.chance.get(direction, self.chance)
        value = values.get(measure) if isinstance(values, Mapping) else None
        return None if value is None or isinstance(value, Mapping) else float(value)


def write_report(path: str | Path, data: ReportData) -> Path:
    """Writes the page; it fetches nothing from anywhere, so it can be mailed or kept as it is.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with explain_full_disk(path, InputError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as fault:
            raise InputError(f"{path}: its folder is a file; choose another place for the report") from fault
        write_atomically(path, render_page(data))
    return path


def templates() -> Environment:
    """Where pages come from, with their filters; all words are escaped."""
    environment = Environment(
        loader=PackageLoader("cmmixer.analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=show_figure, seconds=show_seconds, data_uri=data_uri)
    return environment


def render_page(data: ReportData) -> str:
    """The page as text. File names and all other words are escaped."""
    template = templates().get_template("page.html.j2")
    return template.render(data=data, directions=DIRECTIONS, measures=MEASURES, headlines=_headlines(data))


@dataclass(frozen=True)
class _Headline:
    """The main run's first place in one direction, against guessing."""

    direction: str
    rate: Rate
    chance: float | None

    @property
    def times(self) -> float | None:
        return self.rate.value / self.chance if self.chance else None


def _headlines(data: ReportData) -> list[_Headline]:
    main = data.runs[0]
    pairs = {"video_to_audio": main.video_to_audio, "audio_to_video": main.audio_to_video}
    return [
        _Headline(way, figures["R@1"], data.guessing(way, "R@1")) for way, figures in pairs.items() if "R@1" in figures
    ]


def show_figure(value: float, measure: str) -> str:
    """A rate in per cent, a place with at most one decimal, MRR with three."""
    if measure == "MedR":
        return f"{value:.1f}".removesuffix(".0")
    if measure == "MRR":
        return f"{value:.3f}"
    percent = 100.0 * value
    return f"{percent:.1f} %" if percent < 99.95 else "100 %"


def data_uri(content: bytes, mime: str) -> str:
    """The bytes themselves as an address, so that nothing needs to be fetched."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class Listen:
    """A sound on the page: what it is, and its wave file."""

    caption: str
    wav: bytes


@dataclass(frozen=True)
class Sheet:
    """One section of the page.

    Attributes:
        title, words: above the picture.
        png, alt: the picture, and what it shows in words.
        sounds: beside it.
    """

    title: str
    words: str
    png: bytes
    alt: str
    sounds: Sequence[Listen] = ()


def write_sheets(path: Path, title: str, lead: str, sheets: Sequence[Sheet]) -> Path:
    """Writes the page; it fetches nothing from anywhere."""
    template = templates().get_template("inspect.html.j2")
    write_atomically(path, template.render(title=title, lead=lead, sheets=sheets))
    return path


def wav(samples_N: NDArray[np.number], sample_rate_hz: int) -> bytes:
    """A wave file of int16 samples, or of floats with full scale 1; what is louder is clipped."""
    if samples_N.dtype != np.int16:
        samples_N = (np.clip(samples_N, -1.0, 1.0) * 32767.0).astype(np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate_hz)
        sound.writeframes(samples_N.astype("<i2").tobytes())
    return file.getvalue()
