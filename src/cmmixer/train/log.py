"""The log of a run: log.jsonl, one line per logged step, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cmmixer.atomic import write_atomically


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
