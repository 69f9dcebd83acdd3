"""What a training command gives back, and what its card says about the data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from cmmixer import checkpoint
from cmmixer.atomic import write_atomically
from cmmixer.data.dataset import ClipDataset


@dataclass(frozen=True)
class TrainingResult:
    """The end of a run.

    Attributes:
        run: the run's folder.
        model_id: sha256 of the final weights.
        step: optimiser steps done.
        clips: clips it was trained on.
        skipped: films that could not be used; listed in the run's skipped.txt.
        losses: the last step's.
        is_main: this is the process that speaks for all.
    """

    run: Path
    model_id: str
    step: int
    clips: int
    skipped: int
    losses: dict[str, float]
    is_main: bool

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "run": str(self.run),
            "model_id": self.model_id,
            "step": self.step,
            "clips": self.clips,
            "skipped": self.skipped,
            "losses": self.losses,
        }


def describe_data(data: str, dataset: ClipDataset) -> dict[str, Any]:
    """What a card says about the clips: where from, how many, and a fingerprint of their ids."""
    fingerprint = hashlib.sha256("\n".join(sorted(dataset.ids)).encode()).hexdigest()
    return {
        "path": data,
        "clips": len(dataset),
        "sources": len(set(dataset.sources)),
        "skipped": len(dataset.skips),
        "ids_sha256": fingerprint,
    }


def finish(folder: Path, dataset: ClipDataset, fabric: Fabric) -> TrainingResult:
    """Writes the list of sources that a later evaluation must not contain, and sums up."""
    run = folder.parent.parent
    card = checkpoint.load_card(folder)
    if fabric.is_global_zero:
        write_atomically(run / "sources.txt", "".join(f"{source}\n" for source in sorted(set(dataset.sources))))
    return TrainingResult(
        run,
        card.model_id,
        card.step,
        len(dataset),
        len(dataset.skips),
        card.metrics,
        is_main=bool(fabric.is_global_zero),
    )
