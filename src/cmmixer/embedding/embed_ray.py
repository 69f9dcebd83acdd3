"""`cmmixer embed` on a Ray cluster: actors hold the model, embed films and write their rows; the caller commits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cmmixer.data.manifest import Entry
from cmmixer.data.moments import decode_piece
from cmmixer.embedding.pipeline import embed_moments, in_order
from cmmixer.embedding.vector_table import VectorsCard, WrittenFilms, write_films
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.storage.folder import Folder, open_folder

# At most: enough to fill batches, and what a lost actor costs.
FILMS_PER_PART = 64


@dataclass(frozen=True, kw_only=True)
class PartEmbedder:
    """How an actor embeds; pickled, so it says where model and folder are, not more.

    Attributes:
        place: the folder of vectors.
        card: of that folder.
        model: as `load_encoder` takes it.
        device, precision: as `load_encoder` takes them.
        batch_size, workers, file_seconds: as `embed_moments` takes them.
    """

    place: str
    card: VectorsCard
    model: str
    device: str
    precision: str
    batch_size: int
    workers: int
    file_seconds: float

    def __call__(self) -> Callable[[Sequence[Entry]], WrittenFilms]:
        """Loads the model and starts the decoder processes; called in the actor.

        Raises:
            CheckpointError: it is not there, or another one than the caller's.
        """
        encoder = load_encoder(self.model, self.device, self.precision)
        if encoder.id != self.card.model_id:
            raise CheckpointError(
                f"{self.model}: is model {encoder.id[:16]} on {os.uname().nodename}, {self.card.model_id[:16]} here; "
                "give all machines the same"
            )
        pool = IsolatedPool(decode_piece, workers=self.workers)
        return partial(self._embed, encoder, pool, open_folder(self.place))

    def _embed(self, encoder: Encoder, pool: IsolatedPool, folder: Folder, entries: Sequence[Entry]) -> WrittenFilms:
        films = embed_moments(
            entries,
            encoder,
            cutting=self.card.cutting,
            batch_size=self.batch_size,
            file_seconds=self.file_seconds,
            pool=pool,
        )
        return write_films(folder, self.card, in_order(films))
