"""Clips one can ask for by number: from films, from a clip store, or from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.base import is_remote
from cmmixer.config.clip import ClipSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.clips import ClipRef, list_clips, read_ref
from cmmixer.data.manifest import read_layout
from cmmixer.data.skips import SkipReport
from cmmixer.data.store import ClipStore, StoreCard, differences
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.progress import Progress
from cmmixer.storage.files import LOCK
from cmmixer.storage.folder import open_folder
from cmmixer.types import Clip


class ClipDataset(Protocol):
    """Clips by number, with what is known of each before it is decoded."""

    @property
    def ids(self) -> Sequence[str]:
        """The clips' ids, all different."""

    @property
    def sources(self) -> Sequence[str]:
        """For each clip, the film it was cut from."""

    @property
    def labels(self) -> Sequence[str | None]:
        """For each clip, its class name."""

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
        """Decodes clips in the order asked for; what cannot be decoded comes back as its error."""


class FilmClips:
    """Clips decoded from their films each time they are asked for.

    Args:
        refs: where the clips lie.
        clip: their geometry.
        skips: films that were left out when the clips were listed.
        file_seconds: longest time spent on decoding one clip.
        picture, sound: what to decode.
    """

    def __init__(
        self,
        refs: Sequence[ClipRef],
        clip: ClipSettings,
        *,
        skips: SkipReport | None = None,
        file_seconds: float = 60.0,
        picture: bool = True,
        sound: bool = True,
    ) -> None:
        self.refs = list(refs)
        self.clip = clip
        self.skips = SkipReport() if skips is None else skips
        self.file_seconds = file_seconds
        self.picture, self.sound = picture, sound
        self.ids = [ref.id for ref in self.refs]
        self.sources = [ref.source for ref in self.refs]
        self.labels = [ref.label for ref in self.refs]

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> Clip:
        """Decodes one clip; MediaError where that cannot be done."""
        return read_ref(
            self.refs[index], self.clip, file_seconds=self.file_seconds, picture=self.picture, sound=self.sound
        )

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Decodes clips one after the other."""
        return [self._try(index) for index in indices]

    def _try(self, index: int) -> Clip | MediaError:
        try:
            return self[index]
        except MediaError as error:
            return error


class StoreClips:
    """Clips of a clip store, all of them or those of one split.

    Args:
        store: an open store.
        split: only clips of this split.

    Raises:
        DataError: the store has no clip of that split.
    """

    def __init__(self, store: ClipStore, split: str | None = None) -> None:
        self.store = store
        self.rows = [row for row, its in enumerate(store.splits) if split is None or its == split]
        if not self.rows:
            there = ", ".join(sorted({its for its in store.splits if its is not None})) or "none"
            raise DataError(f"{store.folder}: no clip of split {split!r}; splits there: {there}")
        self.skips = SkipReport.read(store.folder)
        self.ids = [store.ids[row] for row in self.rows]
        self.sources = [store.sources[row] for row in self.rows]
        self.labels = [store.labels[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Clip:
        """One clip."""
        return self.store.read([self.rows[index]])[0]

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Clips in one request, in the order asked for."""
        return [*self.store.read([self.rows[index] for index in indices])]

    def read_into(self, indices: Sequence[int], video_BTCHW: NDArray[np.uint8], audio_BTN: NDArray[np.int16]) -> None:
        """Clips straight to where a batch wants them; see `ClipStore.read_into`."""
        self.store.read_into([self.rows[index] for index in indices], video_BTCHW, audio_BTN)


class KeptClips:
    """The clips of another data set, kept decoded once they were read, as far as memory is given.

    Args:
        dataset: where they come from.
        most_bytes: pictures and sound kept at most; clips beyond it are decoded each time.
    """

    def __init__(self, dataset: ClipDataset, most_bytes: int) -> None:
        self.dataset, self.most_bytes = dataset, most_bytes
        self.kept_bytes = 0
        self._kept: dict[int, Clip] = {}

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
        """One clip; MediaError where it cannot be decoded."""
        (clip,) = self.read([index])
        if isinstance(clip, MediaError):
            raise clip
        return clip

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Clips in the order asked for; those that are not kept come in one request."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        found: dict[int, Clip | MediaError] = dict(zip(missing, self.dataset.read(missing), strict=True))
        for index, clip in found.items():
            self._keep(index, clip)
        return [self._kept[index] if index in self._kept else found[index] for index in indices]

    def _keep(self, index: int, clip: Clip | MediaError) -> None:
        if isinstance(clip, MediaError):  # whoever asks decides whether to try again
            return
        size = 0 if clip.frames is None else clip.frames.pixels_THWC.nbytes
        size += 0 if clip.sound is None else clip.sound.samples_TN.nbytes
        if self.kept_bytes + size <= self.most_bytes:
            self._kept[index] = clip
            self.kept_bytes += size


def open_clips(
    settings: DataSettings,
    clip: ClipSettings,
    *,
    workers: int = 0,
    picture: bool = True,
    sound: bool = True,
    progress: Progress | None = None,
) -> ClipDataset:
    """Opens a clip store or any layout of films.

    Args:
        settings: which data, which split, how films are cut.
        clip: geometry of a clip.
        workers: decoder processes that look into the films; 0 takes every core.
        picture, sound: what a clip needs; a film without it is left out.
        progress: told about every film that is looked into.

    Raises:
        DataError: nothing there, or no film that gives a clip; the message counts the reasons.
        StoreError: a clip store made with another geometry.
    """
    if is_remote(settings.data) or ClipStore.is_store(settings.data):
        return _open_store(settings, clip)
    layout = read_layout(settings.data, settings.split)
    refs, skips = list_clips(
        layout.entries,
        clip,
        stride_seconds=settings.stride_seconds,
        file_seconds=settings.file_seconds,
        workers=workers,
        need_picture=picture,
        need_sound=sound,
        progress=progress,
    )
    for skip in layout.ignored:
        skips.add_skip(skip)
    if not refs:
        raise DataError(f"{settings.data}: no film gives a clip of {clip.clip_seconds:g} s; {skips.summary}")
    return FilmClips(refs, clip, skips=skips, file_seconds=settings.file_seconds, picture=picture, sound=sound)


def _open_store(settings: DataSettings, clip: ClipSettings) -> StoreClips:
    folder = open_folder(settings.data)
    card = StoreCard.read(folder)
    if not card.complete:
        told = "its `prepare` was stopped; run the same command again, it goes on from there"
        if folder.is_held(LOCK):
            told = "a `prepare` is writing to it; wait until it has ended, then run the same command again"
        raise StoreError(f"{settings.data}: {told}")
    store = ClipStore(folder, card)
    differing = differences(store.settings, clip)
    if settings.stride_seconds not in (None, store.card.stride_seconds):
        differing.append(f"stride_seconds {store.card.stride_seconds:g} there, {settings.stride_seconds} asked for")
    if differing:
        told = "; ".join(differing)
        raise StoreError(f"{store.folder}: the clip store was prepared differently: {told}; prepare another one")
    return StoreClips(store, settings.split)
