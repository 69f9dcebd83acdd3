"""Settings of the commands around a trained model: evaluate, inspect, embed, index and search.

The docstring of a field is the help of its flag.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import INDEX_ELSEWHERE, VIDEOS_ELSEWHERE, at_least, one_of, refuse_remote, within
from cmmixer.config.clip import SegmentSettings
from cmmixer.config.data import ClusterSettings, DataSettings
from cmmixer.config.training import DEVICES, PRECISIONS
from cmmixer.errors import SettingsError

RERANKS = ("none", "sequence")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DataSettings):
    """Rank a fixed gallery in both directions and report R@K, MedR and MRR with confidence intervals.

    Attributes:
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        gallery: gallery file to rank; if it does not exist, it is written from the data
        clips_per_video: clips of each video in the gallery; 0 takes all
        rerank: sequence reranks each query's best candidates by the order of events; none ranks by clip vectors alone
        rerank_top: how many candidates are reranked
        batch_size: clips in a batch; affects speed only
        num_workers: decoder processes
        device: auto, cpu or cuda
        bootstrap: resamples for the 95 % intervals
        seed: of the bootstrap and of the shuffled-pairs control
        rankings: write the ranked candidates of every query to this JSON Lines file
        out: write the metrics to this JSON file
    """

    model: str
    gallery: str | None = None
    clips_per_video: int = 1
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
        for name in ("clips_per_video", "num_workers", "seed"):
            at_least(name, getattr(self, name), 0)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class InspectSettings(DataSettings):
    """Write a page with a run's reconstructions (pretrain) or nearest neighbours (finetune), to look at and listen to.

    Attributes:
        model: run or checkpoint of pretrain or finetune
        out: folder for the page, its images and its sounds
        clips: how many clips, spaced evenly over the data, are measured and may be neighbours
        sheets: how many of them are shown
        num_workers: decoder processes
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


# Sorted by bytes read per moment: one bit a value, one byte a value, the values themselves. HNSW takes long to build.
INDEX_KINDS = ("auto", "ivf_rq", "ivf_pq", "ivf_sq", "ivf_flat", "ivf_hnsw_sq")

# Fewer rows are too few to divide into cells, and their exact search takes a millisecond.
FEWEST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """How an index is searched: exactly, or through an approximate index whose recall is measured.

    Attributes:
        optimize: build approximate (ANN) indexes, tuned by their measured recall; works without --data too
        index_kind: auto (the first that reaches the recall), ivf_rq, ivf_pq, ivf_sq, ivf_flat or ivf_hnsw_sq
        recall_target: part of the 10 nearest moments that must be found, measured against exact search
        exact_below: search exactly if there are fewer moments than this
    """

    optimize: bool = False
    index_kind: str = "auto"
    recall_target: float = 0.98
    exact_below: int = 100_000

    def __post_init__(self) -> None:
        one_of("index_kind", self.index_kind, INDEX_KINDS)
        within("recall_target", self.recall_target, 0.5, 1.0)
        at_least("exact_below", self.exact_below, FEWEST_ROWS)


# Bytes of a stored value. What the model computes in is independent of it: see PRECISIONS.
VECTOR_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


MODALITIES = ("audio", "video", "any")

# The ending of a file of vectors; any other name is a folder.
PARQUET = ".parquet"


@dataclass(frozen=True, kw_only=True)
class MomentSettings(SegmentSettings):
    """How videos are cut into moments for embedding and search.

    Attributes:
        batch_size: moments in a batch
        workers: decoder processes; 0 uses every core
        file_seconds: longest time spent on one file; then it is skipped and listed
        device: auto, cpu or cuda
        precision: of the model's arithmetic: 32-true or bf16-mixed
    """

    batch_size: int = 32
    workers: int = 0
    file_seconds: float = 60.0
    device: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        SegmentSettings.__post_init__(self)
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
        one_of("precision", self.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(MomentSettings, ClusterSettings):
    """Embed every moment of videos and audio files into unit vectors, written as a Parquet file or a Lance table.

    Attributes:
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        data: a folder of videos and audio files, or any layout that pretrain takes
        out: Parquet file named *.parquet with path, start, end and vectors of each moment, None for a missing modality; any
            other name is a folder with the same as a Lance table, which a killed run resumes; both may be s3://BUCKET/NAME
        frames: also write the vectors of each frame and of the sound around it
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
            raise SettingsError(
                f"--out {self.out}: got a Parquet file, but --engine ray writes a table from many machines; give a folder"
            )
        if self.engine == "ray" and self.device == "cuda" and not self.ray_gpus:
            raise SettingsError("--device cuda: an actor of a cluster has only the GPUs it requests; add --ray_gpus 1")


@dataclass(frozen=True, kw_only=True)
class IndexSettings(MomentSettings, OptimizeSettings):
    """Build or update a search index of moments, and optimize it if they are many.

    Attributes:
        index: folder of the index
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        data: a folder of videos and audio files, or any layout that pretrain takes; not needed by --optimize
        sync: also remove files that are no longer in the data
    """

    index: str
    model: str | None = None
    data: str | None = None
    sync: bool = False

    def __post_init__(self) -> None:
        MomentSettings.__post_init__(self)
        OptimizeSettings.__post_init__(self)
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        refuse_remote("data", self.data, VIDEOS_ELSEWHERE)
        if self.data is None and not self.optimize:
            raise SettingsError("missing: --data, the files to index; or --optimize, to optimize the index as it is")
        if self.data is None and self.sync:
            raise SettingsError("--sync: compares the index with its data; add --data")
        if self.data is not None and self.model is None:
            raise SettingsError("missing: --model, the run that embeds the data")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Search an index with a video, a silent video or a sound.

    Attributes:
        query: file to search with; `-` reads it from standard input
        index: folder of the index
        target: what to find: audio, video, or any (both fused); default: the modality that the query lacks, or audio for a
            video with both
        by: modality of the query to search by: audio, video, or any; default: the other modality, or any for any
        k: number of hits
        rerank: sequence reranks the best moments by the order of events; none ranks by clip vectors alone; default: sequence
            if one modality searches for the other
        rerank_top: how many moments are reranked for each moment of the query
        timeline: also find the best match for each part of the query, in its order
        edl: also write the hits to this file, as an edit decision list (CMX 3600) for editing programs
        csv: also write the hits to this file, as a table
        fps: frames per second of the timecodes in both; default: the query's, or the first hit's, or 25
        exact: search exactly, even if the index is optimized
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
            one_of("for", self.target, MODALITIES)
        if self.by is not None:
            one_of("by", self.by, MODALITIES)
            if self.target is None:
                raise SettingsError(f"--by {self.by}: needs a target; add --for audio, video or any")
        if self.rerank == "sequence" and "any" in (self.target, self.by):
            raise SettingsError(
                "--rerank sequence: compares two single modalities; use it with --for and --by audio or video"
            )
        if self.fps is not None:
            within("fps", self.fps, 1.0, 240.0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
