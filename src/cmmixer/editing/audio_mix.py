"""Mixes the new audio of a video: fades, ducking and level. libavfilter does the work; this module says with which parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.filter import Graph
from av.filter.context import FilterContext

from cmmixer.editing.audio_filters import (
    SAMPLE_RATE_HZ,
    Block,
    Loudness,
    Track,
    as_blocks,
    decibels,
    filter_chain,
    measure_loudness,
    run_filters,
)

# EBU R128 allows -1 dBTP. AAC overshoots its input, so the limit is a decibel lower.
CEILING_DBTP = -2.0

# The limiter works on samples; at four times the rate they are close enough to the peaks between them (BS.1770, annex 2).
_OVERSAMPLED_HZ = 4 * SAMPLE_RATE_HZ

# Both sounds are at -23 LUFS when they are ducked: speech lies about 15 dB above the threshold and lowers the other by about 12.
_DUCK = "threshold=0.012:ratio=6:attack=20:release=400:detection=rms:link=maximum"
_DUCK_LUFS = -23.0

# The filter reports peaks in thousandths of full scale; lower peaks are measured again after the gain.
_COARSE_PEAK_DBTP = -26.0

# The limiter reduces loudness; this many times, the gain is raised to compensate.
_MAX_STEPS = 6
_TOLERANCE_LU = 0.1
# Once more gain hardly makes it louder, the rest would be distortion.
_MIN_SLOPE = 0.25
# More gain than this only amplifies noise, or has to be undone by the limiter.
_MAX_GAIN_DB = 60.0

_SILENCE_DBFS = -90.0


@dataclass(frozen=True)
class Fades:
    """Fades of the new audio, in seconds of the video."""

    in_at: float
    in_seconds: float
    out_at: float
    out_seconds: float

    @classmethod
    def around(cls, begin_seconds: float, end_seconds: float, in_seconds: float, out_seconds: float) -> Fades:
        """Places fades at both ends of [begin, end); if they do not fit side by side, both are shortened alike."""
        shrink = min(1.0, (end_seconds - begin_seconds) / max(in_seconds + out_seconds, 1e-9))
        fade_out = out_seconds * shrink
        return cls(begin_seconds, in_seconds * shrink, end_seconds - fade_out, fade_out)

    def filters(self) -> list[tuple[str, str]]:
        """Returns the filters that fade, as (name, arguments)."""
        fades = (("in", self.in_at, self.in_seconds), ("out", self.out_at, self.out_seconds))
        # Given in samples, because the filter would round a start in seconds to microseconds.
        return [
            ("afade", f"t={direction}:ss={round(at * SAMPLE_RATE_HZ)}:ns={round(seconds * SAMPLE_RATE_HZ)}")
            for direction, at, seconds in fades
            if round(seconds * SAMPLE_RATE_HZ) > 0
        ]


@dataclass(frozen=True)
class Mix:
    """The audio of the new video before its level is set.

    Attributes:
        new: the new audio.
        fades: its fades.
        original: the video's own audio, if it is kept.
        new_gain_db, original_gain_db: gains that make both equally loud before they are ducked.
    """

    new: Track
    fades: Fades
    original: Track | None = None
    new_gain_db: float = 0.0
    original_gain_db: float = 0.0

    @classmethod
    def of(cls, new: Track, fades: Fades, original: Track | None) -> Mix:
        """Creates a mix in which both sounds, if there are two, are equally loud."""
        if original is None:
            return cls(new, fades)
        gains = [_ducking_gain(measure_loudness(track.blocks())) for track in (new, original)]
        return cls(new, fades, original, *gains)

    def blocks(self) -> Iterator[Block]:
        """Yields the mix as float32 (2, N), for the whole length of the video."""
        if self.original is None:
            frames = run_filters([self.new.blocks()], filter_chain(("anull", ""), *self.fades.filters()))
        else:
            frames = run_filters([self.new.blocks(), self.original.blocks()], self._duck)
        yield from as_blocks(frames)

    def _duck(self, graph: Graph, sources: list[FilterContext]) -> list[FilterContext]:
        """Compresses the new audio, leveled and faded, while the leveled original is heard, and adds both."""
        new, original = sources
        faded = [graph.add(*stage) for stage in (("volume", f"{self.new_gain_db}dB"), *self.fades.filters())]
        compressor, total = graph.add("sidechaincompress", _DUCK), graph.add("amix", "inputs=2:normalize=0")
        level, fork = graph.add("volume", f"{self.original_gain_db}dB"), graph.add("asplit", "2")
        graph.link_nodes(new, *faded, compressor)
        graph.link_nodes(original, level, fork)
        fork.link_to(compressor, 0, 1)
        compressor.link_to(total, 0, 0)
        fork.link_to(total, 1, 1)
        return [total]


@dataclass(frozen=True)
class Level:
    """How the level of a mix is changed.

    Attributes:
        gain_db: the gain.
        limited: whether peaks would exceed the ceiling and a limiter holds them below it.
    """

    gain_db: float
    limited: bool

    def applied(self, mix: Mix) -> Iterator[Block]:
        """Yields the mix at this level, float32 (2, N)."""
        stages = [("volume", f"{self.gain_db}dB")]
        if self.limited:
            ceiling = 10 ** (CEILING_DBTP / 20)
            stages += [
                ("aresample", str(_OVERSAMPLED_HZ)),
                ("alimiter", f"limit={ceiling:.6f}:level=disabled:attack=5:release=100:latency=1"),
                ("aresample", str(SAMPLE_RATE_HZ)),
            ]
        yield from as_blocks(run_filters([mix.blocks()], filter_chain(*stages)))


def find_level(mix: Mix, target_lufs: float) -> Level:
    """Finds the gain that brings a mix to a loudness, with a limiter if its peaks would be too high.

    A mix that is too short or too quiet to have a loudness (under 400 ms, under -70 LUFS) keeps its level.
    """
    before = measure_loudness(mix.blocks())
    if before.lufs is None:
        return Level(0.0, before.true_peak_dbtp > CEILING_DBTP)
    gain = min(target_lufs - before.lufs, _MAX_GAIN_DB)
    level = Level(gain, limited=False)
    peak_dbtp = before.true_peak_dbtp + gain
    if before.true_peak_dbtp < _COARSE_PEAK_DBTP:
        peak_dbtp = measure_loudness(level.applied(mix)).true_peak_dbtp
    if peak_dbtp <= CEILING_DBTP:
        return level
    return Level(_gain_under_limiter(mix, target_lufs, gain), limited=True)


def _gain_under_limiter(mix: Mix, target_lufs: float, gain_db: float) -> float:
    """Finds the gain before a limiter, which reduces loudness the more the higher the gain, by secant steps."""
    slope, previous = 1.0, None
    for _ in range(_MAX_STEPS):
        lufs = measure_loudness(Level(gain_db, limited=True).applied(mix)).lufs
        if lufs is None or abs(target_lufs - lufs) <= _TOLERANCE_LU:
            break
        if previous is not None:
            slope = min(1.0, max(_MIN_SLOPE, (lufs - previous[1]) / (gain_db - previous[0])))
        previous = (gain_db, lufs)
        next_gain_db = min(gain_db + (target_lufs - lufs) / slope, _MAX_GAIN_DB)
        if next_gain_db == gain_db:
            break
        gain_db = next_gain_db
    return gain_db


def _ducking_gain(loudness: Loudness) -> float:
    return 0.0 if loudness.lufs is None else min(_DUCK_LUFS - loudness.lufs, _MAX_GAIN_DB)


def is_silent(track: Track) -> bool:
    """Whether nothing in a track can be heard, however loud it is played."""
    return decibels(track.peak) < _SILENCE_DBFS
