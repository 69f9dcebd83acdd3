"""Clips decoded once into plain files, for training that visits them many times, with one sense or both.

Letters: R clips, M moments of a piece, T frames, H x W pixels, N samples of a sound window, S senses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.clip import ClipSettings
from cmmixer.data.manifest import Entry, clip_id
from cmmixer.data.moments import Cut, DecodedPiece, decode_films
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.errors import DataError, MediaError
from cmmixer.media.timeline import SLACK_SECONDS, frame_instants
from cmmixer.progress import Progress
from cmmixer.storage.files import explain_full_disk
from cmmixer.types import Clip, Frames, SoundWindows, Span


@dataclass(frozen=True)
class SpooledClips:
    """A `ClipDataset` over spooled files, or some rows of them.

    Attributes:
        clip: geometry of a clip.
        spans, ids, sources: of the R clips.
        files_R: for each clip the number of its entry.
        there_RS: whether a clip has picture, and sound; what it lacks is black or silent here.
        pixels_RTCHW: uint8; of one black pixel each where no picture was asked for.
        samples_RTN: int16; of one sample each where no sound was asked for.
        skips: files left out, wholly or in part.
    """

    clip: ClipSettings
    spans: list[Span]
    ids: list[str]
    sources: list[str]
    files_R: NDArray[np.int64]
    there_RS: NDArray[np.bool_]
    pixels_RTCHW: NDArray[np.uint8]
    samples_RTN: NDArray[np.int16]
    skips: SkipReport
    chosen: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def labels(self) -> list[str | None]:
        """None of them: whoever trains knows the classes of the files."""
        return [None] * len(self)

    @property
    def is_short(self) -> NDArray[np.bool_]:
        """Which clips are shorter than `clip.clip_seconds`, as their files are."""
        least = self.clip.clip_seconds - SLACK_SECONDS
        return np.array([span.duration_seconds < least for span in self.spans], bool)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Clip:
        """One clip."""
        row = index if self.chosen is None else int(self.chosen[index])
        times_T = frame_instants(self.spans[index], self.clip.frames)
        return Clip(
            id=self.ids[index],
            source=self.sources[index],
            label=None,
            span=self.spans[index],
            frames=Frames(self.pixels_RTCHW[row].transpose(0, 2, 3, 1), times_T),
            sound=SoundWindows(self.samples_RTN[row], times_T, self.clip.sample_rate_hz),
        )

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Clips in the order asked for."""
        return [self[index] for index in indices]

    def rows(self, rows: NDArray[np.int64]) -> SpooledClips:
        """Some of the clips, in the order given; nothing is copied."""
        own = rows if self.chosen is None else self.chosen[rows]
        picked = [int(row) for row in rows]
        return SpooledClips(
            self.clip,
            [self.spans[row] for row in picked],
            [self.ids[row] for row in picked],
            [self.sources[row] for row in picked],
            self.files_R[rows],
            self.there_RS[rows],
            self.pixels_RTCHW,
            self.samples_RTN,
            self.skips,
            own,
        )


def spool_clips(
    entries: Sequence[Entry],
    clip: ClipSettings,
    folder: Path,
    *,
    even: int,
    picture: bool,
    sound: bool,
    workers: int,
    file_seconds: float,
    progress: Progress,
) -> SpooledClips:
    """Decodes `even` clips of every entry into files in `folder`; memory holds a piece at a time.

    Raises:
        DataError: the disk is full, or no entry gives a clip.
    """
    cut = Cut(clip, clip.clip_seconds, picture, sound, file_seconds, even)
    shapes = {
        "pixels": (clip.frames, 3, clip.height, clip.width) if picture else (clip.frames, 3, 1, 1),
        "samples": (clip.frames, clip.window_samples if sound else 1),
    }
    rows: list[tuple[int, Span, bool, bool]] = []
    faults: dict[int, list[MediaError]] = defaultdict(list)
    done: set[int] = set()
    with explain_full_disk(folder, DataError), ExitStack() as files:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = files.enter_context((folder / "pixels").open("wb"))
        samples = files.enter_context((folder / "samples").open("wb"))
        for piece, result in decode_films(entries, cut, workers=workers):
            if piece.number not in done:
                done.add(piece.number)
                progress.advance()
            if isinstance(result, MediaError):
                faults[piece.number].append(result)
                continue
            faults[piece.number] += result.faults
            for place, span in enumerate(result.spans):
                seen, heard = result.pixels_UCHW is not None, bool(result.heard_M[place])
                if not seen and not heard:
                    continue
                rows.append((piece.number, span, seen, heard))
                _write(pixels, _moment(result, place, result.pixels_UCHW), shapes["pixels"], np.uint8)
                _write(samples, _moment(result, place, result.samples_UN), shapes["samples"], np.int16)
    skips = _skips(entries, rows, faults)
    if not rows:
        raise DataError(f"no file gives a clip; {skips.summary}")
    clips = SpooledClips(
        clip,
        [span for _, span, _, _ in rows],
        # Numbered, for a file may be listed twice, with other labels.
        [f"{number}/{clip_id(entries[number], span)}" for number, span, _, _ in rows],
        [entries[number].source for number, _, _, _ in rows],
        np.array([number for number, _, _, _ in rows], np.int64),
        np.array([[seen, heard] for _, _, seen, heard in rows], bool),
        np.memmap(folder / "pixels", np.uint8, "r", shape=(len(rows), *shapes["pixels"])),
        np.memmap(folder / "samples", np.int16, "r", shape=(len(rows), *shapes["samples"])),
        skips,
    )
    # The further pieces of long films come when there is room for them; training that goes on needs the same order again.
    order = sorted(range(len(rows)), key=lambda row: (rows[row][0], rows[row][1].start_seconds))
    return clips.rows(np.array(order))


def _moment(piece: DecodedPiece, place: int, values_U: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if values_U is None else values_U[piece.instants_MT[place]]


def _write(file: Any, values: NDArray[Any] | None, shape: tuple[int, ...], kind: type[Any]) -> None:
    file.write((np.zeros(shape, kind) if values is None else values.astype(kind, copy=False)).tobytes())


def _skips(
    entries: Sequence[Entry], rows: Iterable[tuple[int, Span, bool, bool]], faults: dict[int, list[MediaError]]
) -> SkipReport:
    used = {number for number, _, _, _ in rows}
    skips = SkipReport()
    for number, entry in enumerate(entries):
        found = faults.get(number, [])
        if found and number in used:
            told = f"{found[0].message}; the rest of it is used"
            skips.add_skip(Skip.of(MediaError(found[0].path, found[0].reason, told)))
        elif found:
            skips.add_skip(Skip.of(found[0]))
        elif number not in used:
            skips.add(entry.path, "silent", "nothing in it can be heard, and its sound was asked for")
    return skips
