"""What `cmmixer doctor` takes."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, within


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Tell what this machine has, what works on it and what does not, and what to do.

    Attributes:
        data: also look into every file of this folder, list or manifest
        index: also check this index and its model
        model: run that made the index, if it has moved since
        file_seconds: longest time spent on looking into one file
        workers: decoder processes; 0 takes every core
    """

    data: str | None = None
    index: str | None = None
    model: str | None = None
    file_seconds: float = 20.0
    workers: int = 0

    def __post_init__(self) -> None:
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        at_least("workers", self.workers, 0)
