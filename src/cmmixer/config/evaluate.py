"""Settings of looking at a trained run: evaluate and inspect."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of
from cmmixer.config.data import DataSettings
from cmmixer.config.training import DEVICES

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
