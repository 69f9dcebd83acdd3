"""The one training loop, in the order things happen. A stage (pretrain, finetune) is a task that it runs.

Resume is exact: the order of clips comes from (seed, epoch), every draw from (seed, batch number), the step size from the
step, and weights and optimiser state from the newest checkpoint. A run killed at any moment and started again with the
same command ends with the same bits on a CPU.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config.training import TrainingSettings
from cmmixer.data.dataset import ClipDataset, KeptClips
from cmmixer.data.loader import ClipBatches
from cmmixer.data.skips import SkipReport
from cmmixer.models.vit import speed_up
from cmmixer.progress import Progress
from cmmixer.runtime import keep_freed_memory
from cmmixer.storage.files import remove_leftovers
from cmmixer.train.distributed import explain_lost_process
from cmmixer.train.inputs import Chance, chance_of_step
from cmmixer.train.log import Log
from cmmixer.train.optim import Attempt, StepGuard, adamw, clip_gradients, load_state_tensors, step_size
from cmmixer.train.resume import (
    clips_per_process,
    goes_on,
    hold_run_folder,
    read_state,
    refuse_other_settings,
    start_run_folder,
    write_checkpoint,
)
from cmmixer.types import Batch


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


def fit(task: Task, dataset: ClipDataset, settings: TrainingSettings, fabric: Fabric, progress: Progress) -> Path:
    """Trains a task to the end of its epochs, from the newest checkpoint of the run if there is one.

    Returns:
        The last checkpoint's folder.

    Raises:
        SettingsError: fewer clips than one step needs.
        CheckpointError: the run's folder holds a run of other settings, or cannot be written.
        NonFiniteError: a step gave NaN or infinity; it was refused, the last checkpoint is sound.
        LostProcessError: another process of the run was killed or failed.
    """
    with explain_lost_process(fabric):
        return _Fit(task, dataset, settings, fabric, progress).run()


class _Fit:
    """State of one `fit`, so that its chapters stay short."""

    def __init__(
        self, task: Task, dataset: ClipDataset, settings: TrainingSettings, fabric: Fabric, progress: Progress
    ) -> None:
        self.task, self.dataset, self.settings, self.fabric, self.progress = task, dataset, settings, fabric, progress
        self.run_folder = Path(settings.out)
        self.batch_size = clips_per_process(settings, fabric.world_size, len(dataset))
        self.clips_per_batch = self.batch_size * fabric.world_size
        self.batches_per_epoch = len(dataset) // self.clips_per_batch
        self.steps_per_epoch = self.batches_per_epoch // settings.accum_iter
        self.batches = ClipBatches(
            KeptClips(dataset, int(settings.keep_gb * 1e9)) if settings.keep_gb else dataset,
            batch_size=self.batch_size,
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
        self.log = Log(self.run_folder, enabled=fabric.is_global_zero)
        self.network: nn.Module = task.network
        self.optimizer: torch.optim.Optimizer
        self.guard: StepGuard

    def run(self) -> Path:
        with ExitStack() as held:
            if self.fabric.is_global_zero:
                held.enter_context(hold_run_folder(self.run_folder))
            return self._run()

    def _run(self) -> Path:
        if self.fabric.device.type == "cpu":
            keep_freed_memory()
        resumed = self._resume()
        settings = self.settings
        speed_up(self.task.network, compiled=settings.compile, recompute=settings.grad_checkpointing)
        self.network = self.fabric.setup_module(self.task.network)
        # After the set-up, which may have sliced the parameters.
        self.optimizer = adamw(self.task.network, self.settings)
        if resumed:
            state = read_state(self.run_folder, self.task.network)
            load_state_tensors(self.optimizer, self.task.network, state)
        self.guard = StepGuard(self.optimizer, self.fabric.device)
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

    def _resume(self) -> bool:
        """Takes up the newest checkpoint of the run, if there is one and its settings are these; all but the optimiser's state."""
        if not goes_on(self.settings):
            self.fabric.barrier()
            if self.fabric.is_global_zero:
                start_run_folder(self.run_folder, self.settings)
            self.fabric.barrier()
            return False
        card = checkpoint.load_card(self.run_folder)
        refuse_other_settings(self.run_folder, card, self.task.card, self.settings)
        checkpoint.fill(self.task.network, checkpoint.load_weights(self.run_folder), str(self.run_folder))
        self.step = self.saved_step = checkpoint.load_progress(self.run_folder)["step"]
        if self.fabric.is_global_zero:
            for folder in (self.run_folder, self.run_folder / "checkpoints"):
                remove_leftovers(folder)
            self.log.cut(self.step)
        self.fabric.barrier()
        return True

    def _epoch(self, epoch: int) -> None:
        """The rest of an epoch, from the step the run stands at."""
        batches = self._batches(epoch)
        seen, since = 0, time.monotonic()
        while self.step < (epoch + 1) * self.steps_per_epoch:
            losses, gradient_norm, last = self._optimizer_step(batches)
            self.step += 1
            seen += self.clips_per_batch * self.settings.accum_iter
            self.progress.advance(1)
            if self._logged():
                self._look()
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
        """One step of the optimiser over `accum_iter` batches; one that is not finite is refused. The host waits for nothing."""
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
        gradient_norm = clip_gradients(self.task.network, self.settings.clip_grad)
        self.guard.watch(Attempt(self.step, total, gradient_norm, rate, ids))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, gradient_norm, batch

    def _look(self) -> None:
        """The only place where the host waits for the device to hear whether the steps so far were finite."""
        kept = f"step {self.saved_step} in {self.run_folder}" if self.saved_step >= 0 else "none yet"
        self.guard.look(self.total_steps, kept)

    def _logged(self) -> bool:
        return self.step % self.settings.log_steps == 0 or self.step == self.total_steps

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
            batch_size=self.batch_size,
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
        # Every process takes part: of a sliced network none has all the weights.
        self.network.eval()
        # Not worth compiling anew for a batch of one.
        with torch.compiler.set_stance("force_eager"):
            sheet = self.task.picture(batch, self._chance(self.step))
        self.network.train()
        if sheet is not None and self.fabric.is_global_zero:
            self.log.picture(self.step, sheet)

    def _due(self) -> bool:
        """Is it time for a checkpoint? The first process decides by its clock for all, at steps that are logged anyway."""
        every = self.settings.save_steps
        if self.step == self.total_steps or (every > 0 and self.step % every == 0):
            return True
        late = time.monotonic() - self.saved_at > 60 * self.settings.save_minutes
        if self.fabric.world_size == 1:
            return late
        return bool(self.fabric.broadcast(late)) if self._logged() else False

    def _save(self, losses: dict[str, Tensor]) -> None:
        self._look()
        self.saved_at, self.saved_step = time.monotonic(), self.step
        card = dataclasses.replace(
            self.task.card,
            step=self.step,
            epoch=self.step / self.steps_per_epoch,
            clips_seen=self.step * self.clips_per_batch * self.settings.accum_iter,
            metrics={name: value.item() for name, value in losses.items()},
        )
        skips = SkipReport([*self.dataset.skips, *self.batches.skips])
        if len(skips) and self.fabric.is_global_zero:
            skips.write(self.run_folder)
        where = {"step": self.step, "clips": len(self.dataset), "clips_per_batch": self.clips_per_batch}
        write_checkpoint(
            self.fabric, self.run_folder, card, self.task.network, self.optimizer, where, keep=self.settings.keep
        )
