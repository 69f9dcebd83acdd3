"""What `cmmixer bench` measures, and at what size. Each subject has a class of its own; `BenchSettings` is made of them.

Settings of `cmmixer bench data` and `bench embed`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import at_least, one_of, within
from cmmixer.config.clip import PRESETS
from cmmixer.config.retrieval import INDEX_KINDS
from cmmixer.config.training import DEVICES, PRECISIONS


@dataclass(frozen=True, kw_only=True)
class FilmBenchSettings:
    """Feeding training, preparing clips, embedding films.

    Attributes:
        films: folder of films, or a list of them; default: some are made, which takes a while
        made_films: how many are made, of 20 seconds each
        workers: processes that read, decode or prepare; 0 takes every core
        turn_seconds: about how long each kind of reading works before it is the next one's turn
    """

    films: str | None = None
    made_films: int = 16
    workers: int = 0
    turn_seconds: float = 3.0

    def __post_init__(self) -> None:
        at_least("made_films", self.made_films, 2)
        at_least("workers", self.workers, 0)
        within("turn_seconds", self.turn_seconds, 0.1, 60.0)


SUBJECTS = ("data", "embed", "search", "step")


@dataclass(frozen=True, kw_only=True)
class SearchBenchSettings:
    """Search over a made library.

    Attributes:
        rows: moments of the library
        dim: values of a vector
        queries: how many are asked
        index_kind: of the index, as for `cmmixer index`
        recall_target: of the index and of faiss's graph
        graph_minutes: longest time spent on building faiss's graph; 0 leaves it out
        folder: where the library is made and kept, and used again; default: a temporary folder, removed afterwards
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
        preset: size of the network and of a clip; for data, of a clip
        batch_size: clips of a step; of embed, moments of a batch
        rounds: turns of each kind
        mask_ratio: part of the tokens the encoder does not see
        precision: 32-true or bf16-mixed, of both networks
        compile: our transformer blocks are compiled by torch; of embed, that is measured too
        grad_checkpointing: ours computes activations again in the backward pass
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
class BenchSettings(SearchBenchSettings, StepBenchSettings, FilmBenchSettings):
    """Measure how fast this machine does it, beside the floor and beside others: data, embed, search or step.

    Attributes:
        what: what to measure: data, embed, search or step
        seed: of everything drawn at random
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
        FilmBenchSettings.__post_init__(self)
