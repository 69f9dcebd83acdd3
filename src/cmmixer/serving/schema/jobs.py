"""Folders that are indexed in the background."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from cmmixer.serving.schema.base import Id, Value

State = Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]


class JobOrder(Value):
    """Which folder to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"folder": "9d2f4b6a8c0e1f3a5b7c9d1e"}]})
    folder: Id = Field(description="id of a folder of GET /folders")
    remove_gone: bool = Field(False, description="also take files out that are gone from the folder")


class Skipped(Value):
    """A file that was left out, and why."""

    name: str
    reason: str
    message: str


class JobReport(Value):
    """What indexing did."""

    added: int
    changed: int
    unchanged: int
    removed: int
    skipped: int
    moments: int = Field(description="moments in the whole index")


class Job(Value):
    """Indexing of a folder, in the background."""

    id: str
    folder: str
    folder_name: str
    state: State
    phase: str = Field(description="what is going on")
    done: int
    total: int | None = Field(description="null: not known yet")
    seconds: float = Field(description="since it began")
    seconds_left: float | None
    report: JobReport | None
    skipped: list[Skipped] = Field(description="files of the folder that were left out, the first thousand")
    skipped_total: int
    problem: str | None = Field(description="why it failed")


class JobList(Value):
    """Jobs since the service started, the newest first."""

    jobs: list[Job]
