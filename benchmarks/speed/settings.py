"""Settings of the benchmarks of speed. Each has a class of its own; `BenchSettings` combines them."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import at_least, one_of, within
from cmmixer.config.clip import PRESETS
from cmmixer.config.retrieval import INDEX_KINDS
from cmmixer.config.training import DEVICES, PRECISIONS


@dataclass(frozen=True, kw_only=True)
class VideoBenchSettings:
    """Loading clips, preparing clips, embedding videos.

    Attributes:
        videos: folder or list of videos; default: synthetic ones are made, which takes a while
        synthetic_videos: number of synthetic videos, 20 seconds each
        workers: processes that load, decode or prepare; 0: one per core
        turn_seconds: approximate length of a turn of each kind of loading
    """

    videos: str | None = None
    synthetic_videos: int = 16
    workers: int = 0
    turn_seconds: float = 3.0

    def __post_init__(self) -> None:
        at_least("synthetic_videos", self.synthetic_videos, 2)
        at_least("workers", self.workers, 0)
        within("turn_seconds", self.turn_seconds, 0.1, 60.0)


SUBJECTS = ("data", "embed", "search", "step")


@dataclass(frozen=True, kw_only=True)
class SearchBenchSettings:
    """Search in a synthetic library.

    Attributes:
        rows: number of moments in the library
        dim: length of a vector
        queries: number of queries
        index_kind: of the index, as for `cmmixer index`
        recall_target: of the index and of the graph of faiss
        graph_minutes: time limit for building the graph of faiss; 0 skips it
        folder: where the library is written, kept and reused; default: a temporary folder
    """

    rows: int = 1_000_000
    dim: int = 256
    queries: int = 1000
    index_kind: str = "auto"
    recall_target: float = 0.98
    graph_minutes: float = 60.0
    folder: str | None = None

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1000)
        within("dim", self.dim, 2, 8192)
        within("queries", self.queries, 10, 100_000)
        one_of("index_kind", self.index_kind, INDEX_KINDS)
        at_least("graph_minutes", self.graph_minutes, 0.0)
        within("recall_target", self.recall_target, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class StepBenchSettings:
    """A pre-training step.

    Attributes:
        preset: size of the network and geometry of a clip
        batch_size: clips per step; for embed, moments per batch
        rounds: number of turns
        mask_ratio: fraction of masked tokens
        precision: 32-true or bf16-mixed, of both networks
        compile: compile the transformer blocks of CMMixer; for embed, measure them compiled as well
        grad_checkpointing: recompute activations of CMMixer in the backward pass
        device: auto, cpu or cuda
    """

    preset: str = "base"
    batch_size: int = 8
    rounds: int = 10
    mask_ratio: float = 0.75
    precision: str = "32-true"
    compile: bool = False
    grad_checkpointing: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        one_of("preset", self.preset, PRESETS)
        at_least("batch_size", self.batch_size, 1)
        at_least("rounds", self.rounds, 1)
        within("mask_ratio", self.mask_ratio, 0.0, 1.0, open_low=True, open_high=True)
        one_of("precision", self.precision, PRECISIONS)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class BenchSettings(SearchBenchSettings, StepBenchSettings, VideoBenchSettings):
    """Measure a speed on this machine, next to its lower bound and to other libraries: data, embed, search or step.

    Attributes:
        what: what to measure: data, embed, search or step
        seed: of all random numbers
        out: write the figures to this JSON file
    """

    what: str
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        one_of("what", self.what, SUBJECTS)
        at_least("seed", self.seed, 0)
        SearchBenchSettings.__post_init__(self)
        StepBenchSettings.__post_init__(self)
        VideoBenchSettings.__post_init__(self)
