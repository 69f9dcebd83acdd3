"""Fades, ducking and level: libavfilter does the work, here stands what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext

from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Block, Loudness, Track, decibels, filtered, in_line, measure

# EBU R128 allows -1 dBTP. AAC overshoots what it was given, so we stop a decibel earlier.
CEILING_DBTP = -2.0

# The limiter works on samples; at four times the rate they are near enough to what lies between them (BS.1770 annex 2).
_OVERSAMPLED_HZ = 4 * SAMPLE_RATE_HZ

# Both sounds stand at -23 LUFS then: speech lies about 15 dB above the threshold and pushes the other down by some 12.
_DUCK = "threshold=0.012:ratio=6:attack=20:release=400:detection=rms:link=maximum"
_DUCK_LUFS = -23.0

# The filter tells peaks in thousandths of full scale; below this they are measured again after the gain.
_TOLD_ROUGHLY_DBTP = -26.0

# The limiter takes loudness away; that much more gain is tried, so many times.
_TRIES = 6
_NEAR_ENOUGH_LU = 0.1
# Where more gain hardly makes it louder any more, all of it is distortion.
_LEAST_SLOPE = 0.25
# More than this is noise brought up, and a limiter that would have to undo it.
_MOST_GAIN_DB = 60.0


@dataclass(frozen=True)
class Fades:
    """Where the new sound is faded, in seconds of the film."""

    in_at: float
    in_seconds: float
    out_at: float
    out_seconds: float

    @classmethod
    def around(cls, begin_seconds: float, end_seconds: float, in_seconds: float, out_seconds: float) -> Fades:
        """Fades at both ends of [begin, end); where they do not fit side by side both are shortened alike."""
        shrink = min(1.0, (end_seconds - begin_seconds) / max(in_seconds + out_seconds, 1e-9))
        fade_out = out_seconds * shrink
        return cls(begin_seconds, in_seconds * shrink, end_seconds - fade_out, fade_out)

    def filters(self) -> list[tuple[str, str]]:
        wanted = (("in", self.in_at, self.in_seconds), ("out", self.out_at, self.out_seconds))
        # Rounded to samples, because the filter takes a start in microseconds.
        return [
            ("afade", f"t={way}:ss={round(at * SAMPLE_RATE_HZ)}:ns={round(seconds * SAMPLE_RATE_HZ)}")
            for way, at, seconds in wanted
            if round(seconds * SAMPLE_RATE_HZ) > 0
        ]


@dataclass(frozen=True)
class Mix:
    """The sound of the new film before its level is set.

    Attributes:
        sound: the new sound.
        fades: of it.
        own: the film's own sound, where it is kept.
        sound_gain_db, own_gain_db: what brings each to the same loudness before they are ducked.
    """

    sound: Track
    fades: Fades
    own: Track | None = None
    sound_gain_db: float = 0.0
    own_gain_db: float = 0.0

    @classmethod
    def of(cls, sound: Track, fades: Fades, own: Track | None) -> Mix:
        """A mix in which both sounds are equally loud, where there are two."""
        if own is None:
            return cls(sound, fades)
        return cls(sound, fades, own, _gain(measure(sound.blocks())), _gain(measure(own.blocks())))

    def blocks(self) -> Iterator[Block]:
        """The mix, float32 (2, N), the film's whole length."""
        if self.own is None:
            frames = filtered([self.sound.blocks()], in_line(("anull", ""), *self.fades.filters()))
        else:
            frames = filtered([self.sound.blocks(), self.own.blocks()], self._duck)
        yield from (np.asarray(frame.to_ndarray(), np.float32) for frame in frames)

    def _duck(self, graph: Graph, sources: list[FilterContext]) -> list[FilterContext]:
        """The sound, levelled and faded, is pressed down while the levelled own sound is heard; both are added."""
        sound, own = sources
        ahead = [graph.add(*stage) for stage in (("volume", f"{self.sound_gain_db}dB"), *self.fades.filters())]
        press, total = graph.add("sidechaincompress", _DUCK), graph.add("amix", "inputs=2:normalize=0")
        level, fork = graph.add("volume", f"{self.own_gain_db}dB"), graph.add("asplit", "2")
        graph.link_nodes(sound, *ahead, press)
        graph.link_nodes(own, level, fork)
        fork.link_to(press, 0, 1)
        press.link_to(total, 0, 0)
        fork.link_to(total, 1, 1)
        return [total]


@dataclass(frozen=True)
class Level:
    """How the mix becomes the result.

    Attributes:
        gain_db: by how much it is made louder.
        limited: whether its peaks would pass the ceiling and are held below it.
    """

    gain_db: float
    limited: bool

    def applied(self, mix: Mix) -> Iterator[Block]:
        """The result's samples, float32 (2, N)."""
        stages = [("volume", f"{self.gain_db}dB")]
        if self.limited:
            ceiling = 10 ** (CEILING_DBTP / 20)
            stages += [
                ("aresample", str(_OVERSAMPLED_HZ)),
                ("alimiter", f"limit={ceiling:.6f}:level=disabled:attack=5:release=100:latency=1"),
                ("aresample", str(SAMPLE_RATE_HZ)),
            ]
        yield from (np.asarray(frame.to_ndarray(), np.float32) for frame in filtered([mix.blocks()], in_line(*stages)))


def find_level(mix: Mix, target_lufs: float) -> Level:
    """The gain that brings a mix to a loudness, with a limiter where its peaks would be too high.

    What is too short or too quiet to have a loudness (under 400 ms, under -70 LUFS) keeps its level.
    """
    before = measure(mix.blocks())
    if before.lufs is None:
        return Level(0.0, before.true_peak_dbtp > CEILING_DBTP)
    gain = min(target_lufs - before.lufs, _MOST_GAIN_DB)
    level = Level(gain, limited=False)
    peak_dbtp = before.true_peak_dbtp + gain
    if before.true_peak_dbtp < _TOLD_ROUGHLY_DBTP:
        peak_dbtp = measure(level.applied(mix)).true_peak_dbtp
    if peak_dbtp <= CEILING_DBTP:
        return level
    return Level(_gain_under_limiter(mix, target_lufs, gain), limited=True)


def _gain_under_limiter(mix: Mix, target_lufs: float, gain_db: float) -> float:
    """The limiter takes loudness away, the more the higher the gain: secant steps towards the target."""
    slope, earlier = 1.0, None
    for _ in range(_TRIES):
        lufs = measure(Level(gain_db, limited=True).applied(mix)).lufs
        if lufs is None or abs(target_lufs - lufs) <= _NEAR_ENOUGH_LU:
            break
        if earlier is not None:
            slope = min(1.0, max(_LEAST_SLOPE, (lufs - earlier[1]) / (gain_db - earlier[0])))
        earlier = (gain_db, lufs)
        following = min(gain_db + (target_lufs - lufs) / slope, _MOST_GAIN_DB)
        if following == gain_db:
            break
        gain_db = following
    return gain_db


def _gain(loudness: Loudness) -> float:
    return 0.0 if loudness.lufs is None else min(_DUCK_LUFS - loudness.lufs, _MOST_GAIN_DB)


def is_silent(track: Track) -> bool:
    """Is there nothing in it that could be heard, however loud it is played?"""
    return decibels(track.peak) < -90.0
