"""Beginning a run, and going on with one: what must be the same, and what may differ."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cmmixer import checkpoint
from cmmixer.atomic import explain_full_disk, only_writer, remove_leftovers, write_atomically
from cmmixer.checkpoint import Card
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import CheckpointError, SettingsError

# Settings that may change between the parts of a run without changing what is computed, but for the rounding of sums.
FREE_SETTINGS = (
    "out",
    "batch_size",  # `clips_per_process` sees to the clips of a step
    "num_workers",
    "keep_gb",
    "save_minutes",
    "save_steps",
    "keep",
    "log_steps",
    "picture_epochs",
    "overwrite",
    "file_seconds",
    "device",
    "strategy",
    "compile",
    "grad_checkpointing",
)


def goes_on(settings: TrainingSettings) -> bool:
    """Is there a run in the folder that this command continues?"""
    # torchrun --max-restarts starts the same command again after a failure; that is no wish to begin anew.
    anew = settings.overwrite and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    return not anew and (Path(settings.out) / "latest").exists()


def clips_per_process(settings: TrainingSettings, world: int, clips: int) -> int:
    """How many clips of a batch each process takes: --batch_size, or what makes the batch that the run began with.

    A run may go on, by the same command, on another number of processes than it had; a batch over all processes stays as large
    as it was, so that steps stay what they were.

    Args:
        settings: of the command.
        world: processes now.
        clips: in the data set.

    Raises:
        SettingsError: fewer clips than one step needs.
        CheckpointError: the run's batches cannot be shared out among so many processes, or its data set was another.
    """
    if goes_on(settings):
        return _as_it_was(settings, world, clips)
    needed = settings.batch_size * world * settings.accum_iter
    if clips < needed:
        remedy = "give fewer processes or more films" if clips < world else "give a smaller batch or more films"
        raise SettingsError(
            f"--batch_size: {settings.batch_size} x {world} processes x {settings.accum_iter} accumulated need {needed} clips for "
            f"one step, and there are {clips}; {remedy}"
        )
    return settings.batch_size


def _as_it_was(settings: TrainingSettings, world: int, clips: int) -> int:
    began = checkpoint.load_card(settings.out).settings.get("batch_size")
    where = checkpoint.load_progress(settings.out)
    batch, asked = where["clips_per_batch"], settings.batch_size * world
    if where["clips"] != clips:
        raise CheckpointError(
            f"{settings.out}: the run there has {where['clips']} clips in batches of {batch}, this command {clips} in {asked}; "
            "continue with the same data, or --overwrite"
        )
    if asked == batch:
        return settings.batch_size
    if settings.batch_size != began:
        raise CheckpointError(
            f"{settings.out}: the run there has batches of {batch} clips, --batch_size {settings.batch_size} on {world} processes "
            f"makes {asked}; leave --batch_size at {began} and its batches are shared out anew, or --overwrite"
        )
    if batch % world:
        raise CheckpointError(
            f"{settings.out}: the run there has batches of {batch} clips, which {world} processes cannot share evenly; "
            f"go on with a number of processes that divides {batch}"
        )
    return int(batch) // world


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Holds the folder of a run, new or not: two trainings that write to one would spoil both.

    Raises:
        CheckpointError: another training writes there, or the folder cannot be written.
    """
    told = f"{folder}: another training writes to it; wait for it, end it, or choose another --out"
    with ExitStack() as held:
        with explain_full_disk(folder, CheckpointError):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_writer(folder, CheckpointError(told)))
        yield


def start_run_folder(folder: Path, settings: TrainingSettings) -> None:
    """Makes the folder of a new run, without what an overwritten one left there.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    with explain_full_disk(folder, CheckpointError):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        (folder / "latest").unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "log.jsonl").unlink(missing_ok=True)
        write_atomically(folder / "settings.json", json.dumps(dataclasses.asdict(settings), indent=1))


def refuse_other_settings(folder: Path, there: Card, here: Card, settings: TrainingSettings) -> None:
    """Refuses to continue a run under settings that would make it another run.

    Raises:
        CheckpointError: names what differs.
    """
    asked = json.loads(json.dumps(dataclasses.asdict(settings)))
    # A setting that came after the run began had the effect of its default.
    defaults = {entry.name: entry.default for entry in dataclasses.fields(settings)}
    began = {name: there.settings.get(name, defaults[name]) for name in asked}
    differ = [
        f"{name} {began[name]!r} there, {value!r} here"
        for name, value in asked.items()
        if name not in FREE_SETTINGS and began[name] != value
    ]
    if there.kind != here.kind:
        differ.insert(0, f"a {there.kind} there, a {here.kind} here")
    if differ:
        raise CheckpointError(
            f"{folder}: holds a run of other settings: {'; '.join(differ[:4])}; use the same, another --out, or --overwrite"
        )
