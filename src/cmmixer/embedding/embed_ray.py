"""`cmmixer embed` on a Ray cluster: actors load the model, embed files and write their rows; the caller commits them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cmmixer.data.chunks import decode_chunk
from cmmixer.data.manifest import Entry
from cmmixer.embedding.pipeline import embed_moments, in_order
from cmmixer.embedding.vector_table import VectorsMetadata, WrittenFiles, write_files
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError
from cmmixer.media.sandbox import SandboxPool
from cmmixer.storage.folder import Folder, open_folder

# Enough to fill batches; also the most work that a lost actor costs.
VIDEOS_PER_PART = 64


@dataclass(frozen=True, kw_only=True)
class PartEmbedder:
    """Work of an actor. It is pickled, so it names the model and the folder instead of holding them.

    Attributes:
        place: the folder of vectors.
        metadata: of that folder.
        model, device, precision: arguments of `load_encoder`.
        batch_size, workers, file_seconds: arguments of `embed_moments`.
    """

    place: str
    metadata: VectorsMetadata
    model: str
    device: str
    precision: str
    batch_size: int
    workers: int
    file_seconds: float

    def __call__(self) -> Callable[[Sequence[Entry]], WrittenFiles]:
        """Loads the model and starts the decoder processes; runs in the actor.

        Raises:
            CheckpointError: the model is missing there, or is not the caller's.
        """
        encoder = load_encoder(self.model, self.device, self.precision)
        if encoder.id != self.metadata.model_id:
            raise CheckpointError(
                f"{self.model}: got model {encoder.id[:16]} on {os.uname().nodename}, expected {self.metadata.model_id[:16]} "
                "as here; copy the same model to all machines"
            )
        pool = SandboxPool(decode_chunk, workers=self.workers)
        return partial(self._embed, encoder, pool, open_folder(self.place))

    def _embed(self, encoder: Encoder, pool: SandboxPool, folder: Folder, entries: Sequence[Entry]) -> WrittenFiles:
        files = embed_moments(
            entries,
            encoder,
            segmentation=self.metadata.segmentation,
            batch_size=self.batch_size,
            file_seconds=self.file_seconds,
            pool=pool,
        )
        return write_files(folder, self.metadata, in_order(files))
