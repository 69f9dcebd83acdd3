"""Settings of moments of films: their vectors in a table, an index of them, a search in it.

Settings of looking at a trained run: evaluate and inspect.

How an index finds: exactly, or through an approximate index whose recall is measured.

How vectors are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import FILMS_ELSEWHERE, INDEX_ELSEWHERE, at_least, one_of, refuse_remote, within
from cmmixer.config.clip import CuttingSettings
from cmmixer.config.data import ClusterSettings, DataSettings
from cmmixer.config.training import DEVICES, PRECISIONS
from cmmixer.errors import SettingsError

RERANKS = ("none", "sequence")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DataSettings):
    """Rank a frozen gallery both ways and report R@K, MedR and MRR with intervals.

    Attributes:
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        gallery: gallery file to rank; if it does not exist it is frozen there from the data
        clips_per_film: how many clips of each film enter the gallery; 0 takes all
        rerank: sequence orders each query's best candidates anew by what happens when; none leaves them as the clip vectors say
        rerank_top: how many of them
        batch_size: clips at a time; changes nothing but speed
        num_workers: decoder processes
        device: auto, cpu or cuda
        bootstrap: resamplings of the 95 % intervals
        seed: of the bootstrap and of the shuffled-pairs control
        rankings: write the ranked candidates of every query to this JSON Lines file
        out: write the metrics to this JSON file
    """

    model: str
    gallery: str | None = None
    clips_per_film: int = 1
    rerank: str = "none"
    rerank_top: int = 100
    batch_size: int = 32
    num_workers: int = 1
    device: str = "auto"
    bootstrap: int = 1000
    seed: int = 0
    rankings: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        at_least("batch_size", self.batch_size, 1)
        at_least("bootstrap", self.bootstrap, 1)
        one_of("rerank", self.rerank, RERANKS)
        at_least("rerank_top", self.rerank_top, 1)
        for name in ("clips_per_film", "num_workers", "seed"):
            at_least(name, getattr(self, name), 0)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class InspectSettings(DataSettings):
    """Show what a run sees and gives back (pretrain), or who it puts next to whom (finetune), on a page with sounds.

    Attributes:
        model: run or checkpoint of pretrain or finetune
        out: folder for the page, its pictures and its sounds
        clips: how many clips are measured and may be neighbours, evenly from the data
        sheets: how many of them are shown
        num_workers: decoder processes that look into the films
        seed: of mixes and masks
        device: auto, cpu or cuda
    """

    model: str
    out: str = "runs/inspect"
    clips: int = 200
    sheets: int = 4
    num_workers: int = 1
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        at_least("clips", self.clips, 1)
        at_least("sheets", self.sheets, 1)
        for name in ("num_workers", "seed"):
            at_least(name, getattr(self, name), 0)
        one_of("device", self.device, DEVICES)


# From the fewest bytes read per moment to the most: one bit a value, a byte, the values themselves. HNSW takes long to build.
INDEX_KINDS = ("auto", "ivf_rq", "ivf_pq", "ivf_sq", "ivf_flat", "ivf_hnsw_sq")

# With fewer there is nothing to divide into cells, and looking at all is a matter of a millisecond.
FEWEST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """How an index finds: exactly, or through an approximate index whose recall is measured.

    Attributes:
        optimize: build approximate indexes for searching, tuned by their measured recall; without --data, of what is there
        index_kind: auto (the first that reaches the recall), ivf_rq, ivf_pq, ivf_sq, ivf_flat or ivf_hnsw_sq
        recall_target: part of the 10 nearest moments that must be found, measured against looking at all
        exact_below: with fewer moments than this every moment is looked at
    """

    optimize: bool = False
    index_kind: str = "auto"
    recall_target: float = 0.98
    exact_below: int = 100_000

    def __post_init__(self) -> None:
        one_of("index_kind", self.index_kind, INDEX_KINDS)
        within("recall_target", self.recall_target, 0.5, 1.0)
        at_least("exact_below", self.exact_below, FEWEST_ROWS)


# Bytes of a value. What a model computes in is another matter: see PRECISIONS.
VECTOR_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


SENSES = ("audio", "video", "film")

# What a file of vectors is named; other names are folders.
PARQUET = ".parquet"


@dataclass(frozen=True, kw_only=True)
class MomentSettings(CuttingSettings):
    """How films are cut into moments for embedding and search.

    Attributes:
        batch_size: moments at a time
        workers: decoder processes; 0 takes every core
        file_seconds: longest time spent on one file; then it is skipped and listed
        device: auto, cpu or cuda
        precision: 32-true or bf16-mixed, of the model's arithmetic
    """

    batch_size: int = 32
    workers: int = 0
    file_seconds: float = 60.0
    device: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        CuttingSettings.__post_init__(self)
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
        one_of("precision", self.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(MomentSettings, ClusterSettings):
    """Embed every moment of films and sounds into unit vectors, written as a Parquet file or a Lance table.

    Attributes:
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        data: a folder of films and sounds, or any layout that pretrain takes
        out: Parquet file named *.parquet: path, start and end of each moment, its vectors, None where a sense is missing; any
            other name is a folder with the same as a Lance table, which a stopped run goes on with; both may be s3://BUCKET/NAME
        frames: write the vectors of each frame, and of the sound around it, beside those of the moment
        vectors: how vectors are stored: fp32, bf16 (half the bytes) or int8 (a quarter, and a scale for each vector)
    """

    model: str
    data: str
    out: str
    frames: bool = False
    vectors: str = "fp32"

    def __post_init__(self) -> None:
        MomentSettings.__post_init__(self)
        ClusterSettings.__post_init__(self)
        one_of("vectors", self.vectors, VECTOR_BYTES)
        if self.engine == "ray" and self.out.endswith(PARQUET):
            raise SettingsError(f"--out {self.out}: --engine ray fills a table, from many machines; give a folder")
        if self.engine == "ray" and self.device == "cuda" and not self.ray_gpus:
            raise SettingsError("--device cuda: on a cluster an actor has the GPUs it asks for; give --ray_gpus 1 too")


@dataclass(frozen=True, kw_only=True)
class IndexSettings(MomentSettings, OptimizeSettings):
    """Build or refresh a search index of moments, and optimise it when they are many.

    Attributes:
        index: folder of the index
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        data: a folder of films and sounds, or any layout that pretrain takes; --optimize works without
        sync: also remove files that are gone from the data
    """

    index: str
    model: str | None = None
    data: str | None = None
    sync: bool = False

    def __post_init__(self) -> None:
        MomentSettings.__post_init__(self)
        OptimizeSettings.__post_init__(self)
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        refuse_remote("data", self.data, FILMS_ELSEWHERE)
        if self.data is None and not self.optimize:
            raise SettingsError("missing: --data, what to index; or --optimize, to optimise what is there")
        if self.data is None and self.sync:
            raise SettingsError("--sync: compares an index with its data; give --data too")
        if self.data is not None and self.model is None:
            raise SettingsError("missing: --model, the run that embeds the data")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Search an index with a film, a silent film or a sound.

    Attributes:
        query: file to search with; `-` reads it from standard input
        index: folder of the index
        target: what to find: audio, video, or film (both together); default: the sense the query lacks, or audio for a film
            with both
        by: what of the query to find it by: audio, video, or film; default: the other sense, or film for film
        k: how many hits
        rerank: sequence orders the best moments anew by what happens when; none leaves them as the clip vectors say; default:
            sequence where pictures look for sound or sound for pictures
        rerank_top: how many of each moment of the query
        timeline: also tell what goes with which part of the query, in its order
        edl: also write the hits as an edit decision list (CMX 3600) for an editing program to this file
        csv: also write the hits as a table to this file
        fps: frames per second of the timecodes in both; default: the query's, or the first hit's, or 25
        exact: look at every moment, in an optimised index too
        model: run that made the index, if it has moved since
        file_seconds: longest time spent on decoding the query
        device: auto, cpu or cuda
    """

    query: str
    index: str
    target: str | None = None
    by: str | None = None
    k: int = 10
    rerank: str | None = None
    rerank_top: int = 100
    timeline: bool = False
    edl: str | None = None
    csv: str | None = None
    fps: float | None = None
    exact: bool = False
    model: str | None = None
    file_seconds: float = 60.0
    device: str = "auto"

    def __post_init__(self) -> None:
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        at_least("k", self.k, 1)
        if self.rerank is not None:
            one_of("rerank", self.rerank, RERANKS)
        at_least("rerank_top", self.rerank_top, 1)
        if self.target is not None:
            one_of("for", self.target, SENSES)
        if self.by is not None:
            one_of("by", self.by, SENSES)
            if self.target is None:
                raise SettingsError(f"--by {self.by}: say what to find with it, --for audio, video or film")
        if self.rerank == "sequence" and "film" in (self.target, self.by):
            raise SettingsError(
                "--rerank sequence: compares one sense with one; use it with --for and --by audio or video"
            )
        if self.fps is not None:
            within("fps", self.fps, 1.0, 240.0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
