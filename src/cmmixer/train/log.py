"""The log of a run: log.jsonl, one line per logged step, and TensorBoard where it is installed.

What a training command gives back, and what its card says about the data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.data.dataset import ClipDataset
from cmmixer.storage.files import write_atomically


class Log:
    """log.jsonl, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self.file = folder / "log.jsonl"
        self.folder = folder
        self.enabled = enabled
        self._board: Any = None

    def cut(self, step: int) -> None:
        """Drops lines beyond `step`, which a killed run wrote after its last checkpoint."""
        if self.file.exists():
            # The last line may be half written.
            whole = [line for line in self.file.read_text().splitlines() if line.endswith("}")]
            write_atomically(self.file, "".join(line + "\n" for line in whole if json.loads(line)["step"] <= step))

    def write(self, row: dict[str, float]) -> None:
        if not self.enabled:
            return
        with self.file.open("a") as file:
            file.write(json.dumps({name: round(value, 8) for name, value in row.items()}) + "\n")
        board = self._tensorboard(int(row["step"]))
        if board is not None:
            for name, value in row.items():
                board.add_scalar(name, value, int(row["step"]))

    def picture(self, step: int, sheet_HWC: Tensor) -> None:
        board = self._tensorboard(step)
        if self.enabled and board is not None:
            board.add_image("separation", sheet_HWC, step, dataformats="HWC")

    def _tensorboard(self, step: int) -> Any:
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # the extra `report` is not installed; log.jsonl has the same figures
                self._board = False
            else:
                self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        return self._board or None

    def close(self) -> None:
        if self._board:
            self._board.close()


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
