"""`cmmixer prepare` on a Ray cluster: actors decode films and write their rows beside the table; this process commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cmmixer.data.clip_encoding import FilmRows, too_quiet
from cmmixer.data.manifest import Entry, absolute
from cmmixer.data.store_writer import WrittenPart, rows_of, write_part
from cmmixer.errors import MediaError
from cmmixer.media.sandbox import IsolatedPool, map_isolated
from cmmixer.ray_cluster import Cluster
from cmmixer.storage.folder import Folder, open_folder

# At most: what a lost actor costs.
FILMS_PER_PART = 16
# Rows an actor holds before it writes a file.
_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class DecodedPart:
    """What an actor tells about its films.

    Attributes:
        films: in the order of the part; clips without their pictures and sound, which are written.
        written: their rows.
    """

    films: list[tuple[Entry, FilmRows | MediaError]]
    written: WrittenPart


@dataclass(frozen=True)
class PartDecoder:
    """How an actor decodes; pickled, so it says where the store is, not more.

    Attributes:
        place: the store.
        function: Entry -> FilmRows, the local path's.
        sample_rate_hz: of the sound windows.
        silence_dbfs: films below it are not written.
        workers: decoder processes of an actor.
        file_seconds: longest time spent on one film.
    """

    place: str
    function: Callable[[Entry], FilmRows]
    sample_rate_hz: int
    silence_dbfs: float
    workers: int
    file_seconds: float

    def __call__(self) -> Callable[[Sequence[Entry]], DecodedPart]:
        """Starts the decoder processes; called in the actor."""
        return partial(self._decode, IsolatedPool(self.function, workers=self.workers), open_folder(self.place))

    def _decode(self, pool: IsolatedPool, folder: Folder, entries: Sequence[Entry]) -> DecodedPart:
        films: list[tuple[Entry, FilmRows | MediaError]] = []
        written = WrittenPart([], [])
        rows, size = [], 0
        for entry, film in map_isolated(self.function, entries, seconds_each=self.file_seconds, pool=pool):
            if isinstance(film, FilmRows):
                if not too_quiet(film, self.silence_dbfs):
                    rows += rows_of(entry, film, self.sample_rate_hz)
                    size += film.bytes
                film = replace(film, clips=[replace(clip, jpegs=[], windows=b"") for clip in film.clips])
            films.append((entry, film))
            if size > _FILE_BYTES:
                written += write_part(folder, rows)
                rows, size = [], 0
        return DecodedPart(films, written + write_part(folder, rows))


def decode_on_ray(entries: Sequence[Entry], decoder: PartDecoder, cluster: Cluster) -> Iterator[DecodedPart]:
    """Decodes films on a cluster, in parts, in their order."""
    return cluster.map(decoder, cluster.parts([absolute(entry) for entry in entries], FILMS_PER_PART))
