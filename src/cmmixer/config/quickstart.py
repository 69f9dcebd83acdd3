"""Settings of the quick start."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of, within
from cmmixer.config.training import DEVICES


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """Films, pre-training, fine-tuning, evaluation, index, search and a report, in one go.

    Attributes:
        data: one's own films instead of synthetic ones; a `split` column train/gallery is honoured
        out: folder of the runs and the report
        scale: how much of everything; 1 is the ten-minute run on two cores, less is for a quick look
        seed: of everything drawn at random
        workers: processes for making and decoding films; 0 takes every core
        device: auto, cpu or cuda
        overwrite: start anew; without it finished steps are kept and the rest is done
    """

    data: str | None = None
    out: str = "runs/quickstart"
    scale: float = 1.0
    seed: int = 0
    workers: int = 0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        within("scale", self.scale, 0.0, 100.0, open_low=True)
        at_least("seed", self.seed, 0)
        at_least("workers", self.workers, 0)
        one_of("device", self.device, DEVICES)
