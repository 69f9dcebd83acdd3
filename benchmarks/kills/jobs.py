"""The jobs that are killed: how each is called, what of it is killed, how its work is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kills import contents

# What is killed: a decoding or loading process; the command's own process and nothing else; one of the training processes;
# torchrun and nothing else; everything.
WORKER, COMMAND, RANK, LAUNCHER, ALL = "a worker", "the command", "a rank", "torchrun", "all"

NANO = ["--preset", "nano", "--epochs", "4", "--batch_size", "8", "--warmup_epochs", "1", "--lr", "1e-3"]
TRAINING = [*NANO, "--num_workers", "1", "--save_steps", "2", "--log_steps", "1"]


@dataclass(frozen=True)
class Place:
    """Where the material lies: films, and what was made of them by uninterrupted jobs."""

    folder: Path

    @property
    def films(self) -> Path:
        """Films, one of them broken."""
        return self.folder / "films"

    def truth(self, job: str) -> Path:
        """What the uninterrupted job wrote."""
        return self.folder / job / "truth" / KINDS[job].out


@dataclass(frozen=True)
class Kind:
    """A job.

    Attributes:
        words: what it is, for the table.
        arguments: the command, from the place; `--out` or the like and its value come last.
        targets: what may be killed.
        look, differences: see `contents`.
        processes: how many training processes.
        out: name of what it writes.
    """

    words: str
    arguments: Callable[[Place], list[str]]
    targets: tuple[str, ...]
    look: Callable[[Path, Path], str]
    differences: Callable[[Path, Path], list[str]]
    processes: int = 1
    out: str = "out"


def _embedding(place: Place) -> list[str]:
    return ["--model", str(place.truth("finetune")), "--data", str(place.films), "--workers", "2", "--batch_size", "8"]


KINDS = {
    "prepare": Kind(
        "`prepare`, 2 decoders",
        lambda place: ["prepare", "--data", str(place.films), "--preset", "nano", "--workers", "2", "--out"],
        (WORKER, COMMAND, ALL),
        contents.look_at_store,
        contents.differences_of_stores,
    ),
    "pretrain": Kind(
        "`pretrain`, 1 process",
        lambda place: ["pretrain", "--data", str(place.truth("prepare")), *TRAINING, "--out"],
        (WORKER, COMMAND, ALL),
        contents.look_at_run,
        contents.differences_of_runs,
    ),
    "pretrain-2": Kind(
        "`pretrain`, 2 processes (torchrun, gloo)",
        lambda place: ["pretrain", "--data", str(place.truth("prepare")), *TRAINING, "--batch_size", "4", "--out"],
        (WORKER, RANK, LAUNCHER, ALL),
        contents.look_at_run,
        contents.differences_of_runs,
        processes=2,
    ),
    "pretrain-fsdp": Kind(
        "`pretrain --strategy fsdp`, 2 processes (torchrun, gloo)",
        lambda place: [
            *["pretrain", "--data", str(place.truth("prepare")), *TRAINING, "--batch_size", "4"],
            *["--strategy", "fsdp", "--out"],
        ],
        (WORKER, RANK, LAUNCHER, ALL),
        contents.look_at_run,
        contents.differences_of_runs,
        processes=2,
    ),
    "finetune": Kind(
        "`finetune`, 1 process",
        lambda place: ["finetune", "--data", str(place.truth("prepare")), *TRAINING, "--embed_dim", "32", "--out"],
        (WORKER, COMMAND, ALL),
        contents.look_at_run,
        contents.differences_of_runs,
    ),
    "embed": Kind(
        "`embed` into a file, 2 decoders",
        lambda place: ["embed", *_embedding(place), "--out"],
        (WORKER, COMMAND, ALL),
        contents.look_at_vectors,
        contents.differences_of_vectors,
        out="out.parquet",
    ),
    "embed-folder": Kind(
        "`embed` into a folder, 2 decoders",
        lambda place: ["embed", *_embedding(place), "--out"],
        (WORKER, COMMAND, ALL),
        contents.look_at_vector_folder,
        contents.differences_of_vector_folders,
    ),
    "index": Kind(
        "`index`, 2 decoders",
        lambda place: ["index", *_embedding(place), "--index"],
        (WORKER, COMMAND, ALL),
        contents.look_at_index,
        contents.differences_of_indexes,
    ),
}
