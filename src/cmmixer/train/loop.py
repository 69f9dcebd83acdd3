"""The one training loop, in the order things happen. A stage (pretrain, finetune) is a task that it runs.

Resume is exact: the order of clips comes from (seed, epoch), every draw from (seed, batch number), the step size from the
step, and weights and optimiser state from the newest checkpoint. A run killed at any moment and started again with the
same command ends with the same bits on a CPU.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.atomic import explain_full_disk, remove_leftovers, write_atomically
from cmmixer.checkpoint import Card
from cmmixer.config.training import TrainingSettings
from cmmixer.data.batches import ClipBatches
from cmmixer.data.dataset import ClipDataset, KeptClips
from cmmixer.data.skips import SkipReport
from cmmixer.errors import CheckpointError, NonFiniteError, SettingsError
from cmmixer.progress import Progress
from cmmixer.train.chance import Chance, chance_of_step
from cmmixer.train.optim import adamw, load_state_tensors, state_tensors
from cmmixer.train.schedule import step_size
from cmmixer.types import Batch

# Settings that may change between the parts of a run without changing what is computed.
FREE_SETTINGS = (
    "out",
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
)


class Task(Protocol):
    """What a stage adds to the loop.

    Attributes:
        network: the module that is trained; its `forward` is what runs on every process.
        title: what people are told is going on.
        default_blr: step size for 256 clips where the user gives none.
        card: what a checkpoint of it is, before any step.
    """

    network: nn.Module
    title: str
    default_blr: float
    card: Card

    def losses(self, network: nn.Module, batch: Batch, chance: Chance) -> dict[str, Tensor]:
        """Named losses of a batch; `loss` is the one that is minimised."""

    def picture(self, batch: Batch, chance: Chance) -> Tensor | None:
        """What the network sees and gives back, uint8 [H, W, 3], or None."""


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device: got cuda, but torch finds no CUDA device here; use --device cpu or auto")
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=local,
        num_nodes=world // local,
        # Buffers hold statistics over all processes already; sending them round again would be waste.
        strategy=DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision=settings.precision,
    )
    fabric.launch()
    return fabric


def fit(task: Task, dataset: ClipDataset, settings: TrainingSettings, fabric: Fabric, progress: Progress) -> Path:
    """Trains a task to the end of its epochs, from the newest checkpoint of the run if there is one.

    Returns:
        The last checkpoint's folder.

    Raises:
        SettingsError: fewer clips than one step needs.
        CheckpointError: the run's folder holds a run of other settings, or cannot be written.
        NonFiniteError: a step gave NaN or infinity; it was refused, the last checkpoint is sound.
    """
    return _Fit(task, dataset, settings, fabric, progress).run()


class _Fit:
    """State of one `fit`, so that its chapters stay short."""

    def __init__(
        self, task: Task, dataset: ClipDataset, settings: TrainingSettings, fabric: Fabric, progress: Progress
    ) -> None:
        self.task, self.dataset, self.settings, self.fabric, self.progress = task, dataset, settings, fabric, progress
        self.run_folder = Path(settings.out)
        self.clips_per_batch = settings.batch_size * fabric.world_size
        self.batches_per_epoch = len(dataset) // self.clips_per_batch
        if self.batches_per_epoch < settings.accum_iter:
            raise SettingsError(
                f"--batch_size: {settings.batch_size} x {fabric.world_size} processes x {settings.accum_iter} accumulated need "
                f"{self.clips_per_batch * settings.accum_iter} clips for one step, and there are {len(dataset)}; "
                "give a smaller batch or more films"
            )
        self.steps_per_epoch = self.batches_per_epoch // settings.accum_iter
        self.batches = ClipBatches(
            KeptClips(dataset, int(settings.keep_gb * 1e9)) if settings.keep_gb else dataset,
            batch_size=settings.batch_size,
            seed=settings.seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            num_workers=settings.num_workers,
            pin_memory=fabric.device.type == "cuda",
        )
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.peak = settings.step_size(self.clips_per_batch * settings.accum_iter, task.default_blr)
        self.step = 0
        self.saved_at, self.saved_step = time.monotonic(), -1
        self.log = _Log(self.run_folder, enabled=fabric.is_global_zero)
        self.network: nn.Module = task.network
        self.optimizer: torch.optim.Optimizer

    def run(self) -> Path:
        optimizer = adamw(self.task.network, self.settings)
        self._resume(optimizer)
        self.network, self.optimizer = self.fabric.setup(self.task.network, optimizer)
        self.network.train()
        self.progress.start(self.total_steps, f"{self.task.title} on {len(self.dataset)} clips")
        self.progress.advance(self.step)
        while self.step < self.total_steps:
            self._epoch(self.step // self.steps_per_epoch)
        if self.saved_step != self.step:
            self._save({})
        self.log.close()
        self.fabric.barrier()
        return checkpoint.resolve(self.run_folder)

    def _resume(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes up the newest checkpoint of the run, if its settings are these."""
        if self.settings.overwrite or not (self.run_folder / "latest").exists():
            self.fabric.barrier()
            if self.fabric.is_global_zero:
                start_run_folder(self.run_folder, self.settings)
            self.fabric.barrier()
            return
        card = checkpoint.load_card(self.run_folder)
        refuse_other_settings(self.run_folder, card, self.task.card, dataclasses.asdict(self.settings))
        checkpoint.fill(self.task.network, checkpoint.load_weights(self.run_folder), str(self.run_folder))
        tensors, where = checkpoint.load_training(self.run_folder)
        if where["clips_per_batch"] != self.clips_per_batch or where["clips"] != len(self.dataset):
            raise CheckpointError(
                f"{self.run_folder}: the run there has {where['clips']} clips in batches of {where['clips_per_batch']}, this command "
                f"{len(self.dataset)} in {self.clips_per_batch}; continue with the same data and processes x batch, or --overwrite"
            )
        load_state_tensors(optimizer, tensors)
        self.step = self.saved_step = where["step"]
        if self.fabric.is_global_zero:
            remove_leftovers(self.run_folder / "checkpoints")
            self.log.cut(self.step)
        self.fabric.barrier()

    def _epoch(self, epoch: int) -> None:
        """The rest of an epoch, from the step the run stands at."""
        batches = self._batches(epoch)
        seen, since = 0, time.monotonic()
        while self.step < (epoch + 1) * self.steps_per_epoch:
            losses, gradient_norm, last = self._optimizer_step(batches)
            self.step += 1
            seen += self.clips_per_batch * self.settings.accum_iter
            self.progress.advance(1)
            if self.step % self.settings.log_steps == 0 or self.step == self.total_steps:
                rate = seen / (time.monotonic() - since)
                seen, since = 0, time.monotonic()
                self._report(losses, gradient_norm, rate)
            if self._due():
                self._save(losses)
        if self._picture_due(epoch):
            self._picture(last)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        done = (self.step - epoch * self.steps_per_epoch) * self.settings.accum_iter
        for batch in self.batches.epoch(epoch, done):
            yield batch.to(self.fabric.device)

    def _optimizer_step(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], Tensor, Batch]:
        """One step of the optimiser over `accum_iter` batches; a step that is not finite is refused."""
        rate = self._step_size(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total: dict[str, Tensor] = {}
        ids: list[str] = []
        accum = self.settings.accum_iter
        for part in range(accum):
            batch = next(batches)
            ids += batch.ids
            with self.fabric.no_backward_sync(self.network, enabled=part < accum - 1):
                losses = self.task.losses(self.network, batch, self._chance(self.step * accum + part))
                self.fabric.backward(losses["loss"] / accum)
            for name, value in losses.items():
                total[name] = total.get(name, torch.zeros((), device=value.device)) + value.detach() / accum
        limit = self.settings.clip_grad or math.inf
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if not bool(torch.isfinite(gradient_norm) & torch.isfinite(total["loss"])):
            self._refuse(total, gradient_norm, rate, ids)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, gradient_norm, batch

    def _step_size(self, step: int) -> float:
        return step_size(
            step,
            total_steps=self.total_steps,
            warmup_steps=self.settings.warmup_epochs * self.steps_per_epoch,
            peak=self.peak,
            floor=self.settings.min_lr,
        )

    def _chance(self, number: int) -> Chance:
        return chance_of_step(
            self.settings.seed,
            number,
            device=self.fabric.device,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            batch_size=self.settings.batch_size,
        )

    def _refuse(self, losses: dict[str, Tensor], gradient_norm: Tensor, rate: float, ids: list[str]) -> None:
        told = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        kept = f"step {self.saved_step} in {self.run_folder}" if self.saved_step >= 0 else "none yet"
        raise NonFiniteError(
            f"step {self.step} of {self.total_steps} is not finite and was refused: {told}, gradient norm {gradient_norm.item():.4g}, "
            f"step size {rate:.3g}, clips {', '.join(ids[:3])} ...; last checkpoint: {kept}; try a smaller --lr or --precision 32-true"
        )

    def _report(self, losses: dict[str, Tensor], gradient_norm: Tensor, clips_per_second: float) -> None:
        """One line of the log: losses averaged over the processes."""
        values = {name: float(self.fabric.all_reduce(value, reduce_op="mean")) for name, value in losses.items()}
        row = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            **values,
            "lr": self._step_size(self.step - 1),
            "gradient_norm": float(gradient_norm),
            "clips_per_second": clips_per_second,
        }
        self.log.write(row)
        self.progress.message(f"loss {values['loss']:.4f}, {clips_per_second:.0f} clips/s")

    def _picture_due(self, epoch: int) -> bool:
        last = self.step >= self.total_steps
        every = self.settings.picture_epochs
        return last or (every > 0 and (epoch + 1) % every == 0)

    def _picture(self, batch: Batch) -> None:
        if not self.fabric.is_global_zero:
            return
        self.network.eval()
        sheet = self.task.picture(batch, self._chance(self.step))
        self.network.train()
        if sheet is not None:
            self.log.picture(self.step, sheet)

    def _due(self) -> bool:
        """Is it time for a checkpoint? The first process decides for all, since clocks differ."""
        if self.step == self.total_steps:
            return True
        every = self.settings.save_steps
        due = (
            every > 0 and self.step % every == 0
        ) or time.monotonic() - self.saved_at > 60 * self.settings.save_minutes
        return bool(self.fabric.broadcast(due)) if self.fabric.world_size > 1 else due

    def _save(self, losses: dict[str, Tensor]) -> None:
        self.saved_at, self.saved_step = time.monotonic(), self.step
        if self.fabric.is_global_zero:
            card = dataclasses.replace(
                self.task.card,
                step=self.step,
                epoch=self.step / self.steps_per_epoch,
                clips_seen=self.step * self.clips_per_batch * self.settings.accum_iter,
                metrics={name: value.item() for name, value in losses.items()},
            )
            where = {"step": self.step, "clips": len(self.dataset), "clips_per_batch": self.clips_per_batch}
            skips = SkipReport([*self.dataset.skips, *self.batches.skips])
            if len(skips):
                skips.write(self.run_folder)
            checkpoint.save(
                self.run_folder,
                card,
                self.task.network.state_dict(),
                state_tensors(self.optimizer),
                where,
                keep=self.settings.keep,
            )
        self.fabric.barrier()


def start_run_folder(folder: Path, settings: TrainingSettings) -> None:
    """Makes the folder of a new run, without what an overwritten one left there.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    with explain_full_disk(folder, CheckpointError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "latest").unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "log.jsonl").unlink(missing_ok=True)
        write_atomically(folder / "settings.json", json.dumps(dataclasses.asdict(settings), indent=1))


def refuse_other_settings(folder: Path, there: Card, here: Card, settings: dict[str, Any]) -> None:
    """Refuses to continue a run under settings that would make it another run.

    Raises:
        CheckpointError: names what differs.
    """
    asked = json.loads(json.dumps(settings))
    differ = [
        f"{name} {there.settings.get(name)!r} there, {value!r} here"
        for name, value in asked.items()
        if name not in FREE_SETTINGS and there.settings.get(name) != value
    ]
    if there.kind != here.kind:
        differ.insert(0, f"a {there.kind} there, a {here.kind} here")
    if differ:
        raise CheckpointError(
            f"{folder}: holds a run of other settings: {'; '.join(differ[:4])}; use the same, another --out, or --overwrite"
        )


class _Log:
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
