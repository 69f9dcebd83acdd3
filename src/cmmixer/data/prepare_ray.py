"""`cmmixer prepare` on a Ray cluster: actors decode videos and write rows beside the table; the caller commits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cmmixer.data.clip_encoding import EncodedMedia
from cmmixer.data.manifest import Entry, absolute
from cmmixer.data.segments import is_silent
from cmmixer.data.store_writer import WrittenPart, rows_of, write_part
from cmmixer.errors import MediaError
from cmmixer.media.sandbox import SandboxPool, map_sandboxed
from cmmixer.ray_cluster import Cluster
from cmmixer.storage.folder import Folder, open_folder

# At most this many videos are decoded again when an actor is lost.
VIDEOS_PER_PART = 16
# An actor writes a file once its rows hold this much.
_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class DecodedPart:
    """What an actor reports about its part of the videos.

    Attributes:
        videos: in the order of the part. Their clips come without frames and audio, which are written already.
        written: their rows.
    """

    videos: list[tuple[Entry, EncodedMedia | MediaError]]
    written: WrittenPart


@dataclass(frozen=True)
class PartDecoder:
    """How an actor decodes. It is pickled, so it only names the store.

    Attributes:
        store: location of the store.
        function: encodes an entry, as on a single machine.
        sample_rate_hz: of the audio windows.
        silence_dbfs: videos below it are not written.
        workers: decoder processes per actor.
        file_seconds: time limit for one video.
    """

    store: str
    function: Callable[[Entry], EncodedMedia]
    sample_rate_hz: int
    silence_dbfs: float
    workers: int
    file_seconds: float

    def __call__(self) -> Callable[[Sequence[Entry]], DecodedPart]:
        """Starts the decoder processes; called in the actor."""
        return partial(self._decode, SandboxPool(self.function, workers=self.workers), open_folder(self.store))

    def _decode(self, pool: SandboxPool, folder: Folder, entries: Sequence[Entry]) -> DecodedPart:
        videos: list[tuple[Entry, EncodedMedia | MediaError]] = []
        written = WrittenPart([], [])
        rows, size = [], 0
        for entry, video in map_sandboxed(self.function, entries, seconds_each=self.file_seconds, pool=pool):
            if isinstance(video, EncodedMedia):
                if not is_silent(video.loudest_dbfs, self.silence_dbfs):
                    rows += rows_of(entry, video, self.sample_rate_hz)
                    size += video.bytes
                video = replace(video, clips=[replace(clip, jpegs=[], windows=b"") for clip in video.clips])
            videos.append((entry, video))
            if size > _FILE_BYTES:
                written += write_part(folder, rows)
                rows, size = [], 0
        return DecodedPart(videos, written + write_part(folder, rows))


def decode_on_ray(entries: Sequence[Entry], decoder: PartDecoder, cluster: Cluster) -> Iterator[DecodedPart]:
    """Decodes videos on a cluster; yields them in parts, in their order."""
    return cluster.map(decoder, cluster.parts([absolute(entry) for entry in entries], VIDEOS_PER_PART))
