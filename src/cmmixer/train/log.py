"""The log of a training run and its result: log.jsonl, TensorBoard where it is installed, and what the command returns."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor

from cmmixer.data.dataset import ClipDataset
from cmmixer.storage.files import write_atomically
from cmmixer.train.resume import Run


class Log:
    """Writer of log.jsonl, one line per logged step, and of TensorBoard events where TensorBoard is installed.

    Args:
        folder: the run's folder.
        enabled: whether this process writes; only the first one does.
    """

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self.file = folder / "log.jsonl"
        self.folder = folder
        self.enabled = enabled
        self._writer: Any = None

    def truncate(self, step: int) -> None:
        """Drops the lines after `step`, which a killed run wrote after its last checkpoint."""
        if self.file.exists():
            # The last line may be incomplete.
            lines = [line for line in self.file.read_text().splitlines() if line.endswith("}")]
            write_atomically(self.file, "".join(line + "\n" for line in lines if json.loads(line)["step"] <= step))

    def write(self, row: dict[str, float]) -> None:
        """Writes the values of one step; `row` has its number as `step`."""
        if not self.enabled:
            return
        with self.file.open("a") as file:
            file.write(json.dumps({name: round(value, 8) for name, value in row.items()}) + "\n")
        writer = self._tensorboard(int(row["step"]))
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, int(row["step"]))

    def write_image(self, step: int, image_HWC: Tensor) -> None:
        """Adds an image of a reconstruction to TensorBoard, uint8 [H, W, 3]."""
        writer = self._tensorboard(step)
        if self.enabled and writer is not None:
            writer.add_image("reconstruction", image_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._writer:
            self._writer.close()

    def _tensorboard(self, step: int) -> Any:
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # the extra `report` is not installed; log.jsonl has the same values
                self._writer = False
            else:
                self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        return self._writer or None


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training command.

    Attributes:
        run: the run's folder.
        model_id: sha256 of the final weights.
        step: optimizer steps done.
        clips: number of training clips.
        skipped: number of videos that could not be used; skipped.txt in the run lists them.
        losses: losses of the last step.
        is_main: whether this is the first process, which reports for all of them.
    """

    run: Path
    model_id: str
    step: int
    clips: int
    skipped: int
    losses: dict[str, float]
    is_main: bool

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        return {
            "run": str(self.run),
            "model_id": self.model_id,
            "step": self.step,
            "clips": self.clips,
            "skipped": self.skipped,
            "losses": self.losses,
        }


def describe_data(data: str, dataset: ClipDataset) -> dict[str, Any]:
    """Describes the clips for a checkpoint's metadata: path, counts, and a sha256 of the sorted clip ids."""
    fingerprint = hashlib.sha256("\n".join(sorted(dataset.ids)).encode()).hexdigest()
    return {
        "path": data,
        "clips": len(dataset),
        "sources": len(set(dataset.sources)),
        "skipped": len(dataset.skips),
        "ids_sha256": fingerprint,
    }


def summarize(run: Run, dataset: ClipDataset, fabric: Fabric) -> TrainingResult:
    """Returns the result of a finished run and writes sources.txt, the videos that a later evaluation must not contain."""
    metadata = run.metadata
    assert metadata is not None
    if fabric.is_global_zero:
        write_atomically(run.folder / "sources.txt", "".join(f"{source}\n" for source in sorted(set(dataset.sources))))
    return TrainingResult(
        run.folder,
        metadata.model_id,
        metadata.step,
        len(dataset),
        len(dataset.skips),
        metadata.metrics,
        is_main=bool(fabric.is_global_zero),
    )
