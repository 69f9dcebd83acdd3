"""The jobs that are killed: their commands, the processes to kill, and how their output is inspected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kills import contents

# What is killed: a decoder or loader process; only the main process of the command; one of the training processes; only
# torchrun; all processes.
WORKER, COMMAND, RANK, LAUNCHER, ALL = "a worker", "the command", "a rank", "torchrun", "all"

NANO = ["--preset", "nano", "--epochs", "4", "--batch_size", "8", "--warmup_epochs", "1", "--lr", "1e-3"]
TRAINING = [*NANO, "--num_workers", "1", "--save_steps", "2", "--log_steps", "1"]


@dataclass(frozen=True)
class Workspace:
    """The folder of a benchmark: videos, and the output of uninterrupted jobs."""

    folder: Path

    @property
    def videos(self) -> Path:
        """The folder of videos, one of them broken."""
        return self.folder / "videos"

    def truth(self, job: str) -> Path:
        """The output of the uninterrupted job."""
        return self.folder / job / "truth" / JOBS[job].out


@dataclass(frozen=True)
class JobSpec:
    """How a job is run, killed and inspected.

    Attributes:
        title: name in the table.
        arguments: workspace -> the command; the caller appends the output path.
        targets: what may be killed.
        inspect, differences: see `contents`.
        processes: number of training processes.
        out: name of its output.
    """

    title: str
    arguments: Callable[[Workspace], list[str]]
    targets: tuple[str, ...]
    inspect: Callable[[Path, Path], str]
    differences: Callable[[Path, Path], list[str]]
    processes: int = 1
    out: str = "out"


def _embedding(workspace: Workspace) -> list[str]:
    return [
        "--model",
        str(workspace.truth("finetune")),
        "--data",
        str(workspace.videos),
        "--workers",
        "2",
        "--batch_size",
        "8",
    ]


JOBS = {
    "prepare": JobSpec(
        "`prepare`, 2 decoders",
        lambda workspace: ["prepare", "--data", str(workspace.videos), "--preset", "nano", "--workers", "2", "--out"],
        (WORKER, COMMAND, ALL),
        contents.inspect_store,
        contents.differences_of_stores,
    ),
    "pretrain": JobSpec(
        "`pretrain`, 1 process",
        lambda workspace: ["pretrain", "--data", str(workspace.truth("prepare")), *TRAINING, "--out"],
        (WORKER, COMMAND, ALL),
        contents.inspect_run,
        contents.differences_of_runs,
    ),
    "pretrain-2": JobSpec(
        "`pretrain`, 2 processes (torchrun, gloo)",
        lambda workspace: [
            "pretrain",
            "--data",
            str(workspace.truth("prepare")),
            *TRAINING,
            "--batch_size",
            "4",
            "--out",
        ],
        (WORKER, RANK, LAUNCHER, ALL),
        contents.inspect_run,
        contents.differences_of_runs,
        processes=2,
    ),
    "pretrain-fsdp": JobSpec(
        "`pretrain --strategy fsdp`, 2 processes (torchrun, gloo)",
        lambda workspace: [
            *["pretrain", "--data", str(workspace.truth("prepare")), *TRAINING, "--batch_size", "4"],
            *["--strategy", "fsdp", "--out"],
        ],
        (WORKER, RANK, LAUNCHER, ALL),
        contents.inspect_run,
        contents.differences_of_runs,
        processes=2,
    ),
    "finetune": JobSpec(
        "`finetune`, 1 process",
        lambda workspace: [
            "finetune",
            "--data",
            str(workspace.truth("prepare")),
            *TRAINING,
            "--embed_dim",
            "32",
            "--out",
        ],
        (WORKER, COMMAND, ALL),
        contents.inspect_run,
        contents.differences_of_runs,
    ),
    "embed": JobSpec(
        "`embed` into a file, 2 decoders",
        lambda workspace: ["embed", *_embedding(workspace), "--out"],
        (WORKER, COMMAND, ALL),
        contents.inspect_vectors,
        contents.differences_of_vectors,
        out="out.parquet",
    ),
    "embed-folder": JobSpec(
        "`embed` into a folder, 2 decoders",
        lambda workspace: ["embed", *_embedding(workspace), "--out"],
        (WORKER, COMMAND, ALL),
        contents.inspect_vector_folder,
        contents.differences_of_vector_folders,
    ),
    "index": JobSpec(
        "`index`, 2 decoders",
        lambda workspace: ["index", *_embedding(workspace), "--index"],
        (WORKER, COMMAND, ALL),
        contents.inspect_index,
        contents.differences_of_indexes,
    ),
}
