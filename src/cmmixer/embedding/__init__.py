"""From films to unit vectors: `batch` asks the model, `films` is the machinery around it, `run` the Python face, `table` the command;
`parquet` and `storage` are its file. The models are `encoders`.
"""

from cmmixer.embedding.batch import Moment, both_senses, embed_batch
from cmmixer.embedding.films import EmbeddedFilm, embed_file, embed_moments, file_entry
from cmmixer.embedding.parquet import parquet_schema, read_vectors, vector_batches
from cmmixer.embedding.run import LoadedRun, from_pretrained, load
from cmmixer.embedding.table import EmbedReport, embed
from cmmixer.encoders import Encoder, ModelEncoder, device_named, load_encoder

__all__ = [
    "EmbedReport",
    "EmbeddedFilm",
    "Encoder",
    "LoadedRun",
    "ModelEncoder",
    "Moment",
    "both_senses",
    "device_named",
    "embed",
    "embed_batch",
    "embed_file",
    "embed_moments",
    "file_entry",
    "from_pretrained",
    "load",
    "load_encoder",
    "parquet_schema",
    "read_vectors",
    "vector_batches",
]
