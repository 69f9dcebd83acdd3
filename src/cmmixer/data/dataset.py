"""Data sets of clips by index: decoded from media files, or read from a clip store; and a cache in memory for either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.base import is_remote
from cmmixer.config.clip import ClipSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.manifest import read_layout
from cmmixer.data.segments import Segment, SegmentSpec, decode_segment, list_segments, training_spec
from cmmixer.data.skips import SkipReport
from cmmixer.data.store import ClipStore, StoreMetadata, differences
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.progress import Progress
from cmmixer.storage.files import LOCK
from cmmixer.storage.folder import open_folder
from cmmixer.types import Clip


class ClipDataset(Protocol):
    """Clips by index, with what is known about each before it is decoded."""

    @property
    def ids(self) -> Sequence[str]:
        """The clips' ids, all different."""

    @property
    def sources(self) -> Sequence[str]:
        """The video that each clip was cut from."""

    @property
    def labels(self) -> Sequence[str | None]:
        """The class name of each clip."""

    @property
    def skips(self) -> SkipReport:
        """Files that were left out."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Decodes one clip.

        Raises:
            MediaError: it cannot be decoded.
        """

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Decodes clips in the order of `indices`; one that cannot be decoded is returned as its error."""


class MediaClips:
    """Clips decoded from media files each time they are read.

    Args:
        segments: where the clips lie.
        spec: their geometry and the modalities to decode.
        skips: files that were left out when the segments were listed.
    """

    def __init__(self, segments: Sequence[Segment], spec: SegmentSpec, *, skips: SkipReport | None = None) -> None:
        self.segments = list(segments)
        self.spec = spec
        self.skips = SkipReport() if skips is None else skips
        self.ids = [segment.id for segment in self.segments]
        self.sources = [segment.entry.source for segment in self.segments]
        self.labels = [segment.entry.label for segment in self.segments]

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Clip:
        """Decodes one clip.

        Raises:
            MediaError: it cannot be decoded.
        """
        return decode_segment(self.segments[index], self.spec)

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Decodes clips one after the other; see `ClipDataset.read`."""
        return [self._try(index) for index in indices]

    def _try(self, index: int) -> Clip | MediaError:
        try:
            return self[index]
        except MediaError as error:
            return error


class StoreClips:
    """Clips of a clip store: all of them, or those of one split.

    Args:
        store: an open store.
        split: only clips of this split.

    Raises:
        DataError: the store has no clip of that split.
    """

    def __init__(self, store: ClipStore, split: str | None = None) -> None:
        self.store = store
        self.rows = [row for row, its_split in enumerate(store.splits) if split is None or its_split == split]
        if not self.rows:
            names = ", ".join(sorted({name for name in store.splits if name is not None})) or "none"
            raise DataError(f"{store.folder}: no clip of split {split!r}; its splits: {names}")
        self.skips = SkipReport.read(store.folder)
        self.ids = [store.ids[row] for row in self.rows]
        self.sources = [store.sources[row] for row in self.rows]
        self.labels = [store.labels[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Clip:
        """Reads one clip."""
        return self.store.read([self.rows[index]])[0]

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Reads clips in one request, in the order of `indices`."""
        return [*self.store.read([self.rows[index] for index in indices])]

    def read_into(self, indices: Sequence[int], video_BTCHW: NDArray[np.uint8], audio_BTN: NDArray[np.int16]) -> None:
        """Reads clips into the arrays of a batch; see `ClipStore.read_into`."""
        self.store.read_into([self.rows[index] for index in indices], video_BTCHW, audio_BTN)


class CachedClips:
    """Another data set with its clips cached in memory, up to a limit.

    Args:
        dataset: where the clips come from.
        max_bytes: size of the cache; clips that do not fit are decoded each time.
    """

    def __init__(self, dataset: ClipDataset, max_bytes: int) -> None:
        self.dataset, self.max_bytes = dataset, max_bytes
        self.cached_bytes = 0
        self._cached: dict[int, Clip] = {}

    @property
    def ids(self) -> Sequence[str]:
        return self.dataset.ids

    @property
    def sources(self) -> Sequence[str]:
        return self.dataset.sources

    @property
    def labels(self) -> Sequence[str | None]:
        return self.dataset.labels

    @property
    def skips(self) -> SkipReport:
        return self.dataset.skips

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        """Returns one clip.

        Raises:
            MediaError: it cannot be decoded.
        """
        (clip,) = self.read([index])
        if isinstance(clip, MediaError):
            raise clip
        return clip

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Returns clips in the order of `indices`; those not cached are read in one request."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._cached]
        found: dict[int, Clip | MediaError] = dict(zip(missing, self.dataset.read(missing), strict=True))
        for index, clip in found.items():
            self._add(index, clip)
        return [self._cached[index] if index in self._cached else found[index] for index in indices]

    def _add(self, index: int, clip: Clip | MediaError) -> None:
        if isinstance(clip, MediaError):  # the caller decides whether to try again
            return
        size = 0 if clip.frames is None else clip.frames.pixels_THWC.nbytes
        size += 0 if clip.sound is None else clip.sound.samples_TN.nbytes
        if self.cached_bytes + size <= self.max_bytes:
            self._cached[index] = clip
            self.cached_bytes += size


def open_clips(
    settings: DataSettings, clip: ClipSettings, *, workers: int = 0, progress: Progress | None = None
) -> ClipDataset:
    """Opens a clip store, or any layout of media files.

    Args:
        settings: which data, which split, how files are cut.
        clip: geometry of a clip.
        workers: decoder processes that measure the files; 0 takes every core.
        progress: advances with every file that is measured.

    Raises:
        DataError: no such data, or no file that gives a clip; the message counts the reasons.
        StoreError: a clip store made with another geometry, or not complete.
    """
    if is_remote(settings.data) or ClipStore.is_store(settings.data):
        return _open_store(settings, clip)
    layout = read_layout(settings.data, settings.split)
    spec = training_spec(clip, settings.stride_seconds, settings.file_seconds)
    segments, skips = list_segments(layout.entries, spec, workers=workers, progress=progress)
    for skip in layout.ignored:
        skips.add_skip(skip)
    if not segments:
        raise DataError(f"{settings.data}: no video gives a clip of {clip.clip_seconds:g} s; {skips.summary}")
    return MediaClips(segments, spec, skips=skips)


def _open_store(settings: DataSettings, clip: ClipSettings) -> StoreClips:
    folder = open_folder(settings.data)
    metadata = StoreMetadata.read(folder)
    if not metadata.complete:
        message = "its `prepare` was stopped; run the same command again, it resumes"
        if folder.is_locked(LOCK):
            message = "a `prepare` is writing to it; wait until it has ended, then run the same command again"
        raise StoreError(f"{settings.data}: {message}")
    store = ClipStore(folder, metadata)
    differing = differences(store.settings, clip)
    if settings.stride_seconds not in (None, store.metadata.stride_seconds):
        differing.append(f"stride_seconds: got {settings.stride_seconds}, holds {store.metadata.stride_seconds:g}")
    if differing:
        message = "; ".join(differing)
        raise StoreError(f"{store.folder}: the clip store was prepared differently: {message}; prepare another one")
    return StoreClips(store, settings.split)
