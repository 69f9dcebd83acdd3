"""The training loop, in the order things happen. Each stage (pretrain, finetune, classify) is a task that it runs.

Resuming is exact. The order of the clips follows from (seed, epoch), every random draw from (seed, batch number) and the
learning rate from the step; weights and optimizer state come from the newest checkpoint. A run that was killed at any
moment and started again by the same command ends with the same bits on a CPU.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.data.dataset import CachedClips, ClipDataset
from cmmixer.data.loader import ClipBatches
from cmmixer.data.skips import SkipReport
from cmmixer.models.vit import speed_up
from cmmixer.progress import Progress
from cmmixer.runtime import keep_freed_memory
from cmmixer.train.distributed import explain_lost_process
from cmmixer.train.inputs import StepRNG, rng_for_step
from cmmixer.train.log import Log
from cmmixer.train.optim import StepGuard, StepRecord, adamw, clip_gradients, learning_rate, load_state_tensors
from cmmixer.train.resume import Run, read_optimizer_state
from cmmixer.types import Batch


class Task(Protocol):
    """What a stage adds to the loop.

    Attributes:
        network: the module that is trained; its `forward` runs in every process.
        title: what the progress bar calls it.
        default_blr: learning rate for 256 clips when the user gives none.
        metadata: metadata of its checkpoints, before any step.
    """

    network: nn.Module
    title: str
    default_blr: float
    metadata: Metadata

    def losses(self, network: nn.Module, batch: Batch, rng: StepRNG) -> dict[str, Tensor]:
        """Returns the named losses of a batch; `loss` is the one that is minimized."""

    def reconstruction_image(self, batch: Batch, rng: StepRNG) -> Tensor | None:
        """Returns an image of the network's input and reconstruction, uint8 [H, W, 3], or None."""


def fit(task: Task, dataset: ClipDataset, run: Run, fabric: Fabric, progress: Progress) -> None:
    """Trains a task to the end of its epochs, from the newest checkpoint of the run if there is one.

    Afterwards `run.metadata` is that of the last checkpoint.

    Args:
        task: what is trained.
        dataset: the training clips.
        run: the opened run.
        fabric: the processes.
        progress: receives the progress and the losses.

    Raises:
        CheckpointError: the run has other settings or data, or its folder cannot be written.
        NonFiniteError: a step gave NaN or infinity; it was refused, and the last checkpoint is valid.
        LostProcessError: another process of the run was killed or failed.
    """
    with explain_lost_process(fabric):
        _Trainer(task, dataset, run, fabric, progress).train()


class _Trainer:
    """State of one `fit`."""

    def __init__(self, task: Task, dataset: ClipDataset, run: Run, fabric: Fabric, progress: Progress) -> None:
        self.task, self.dataset, self.run, self.fabric, self.progress = task, dataset, run, fabric, progress
        self.settings = settings = run.settings
        self.batch_size = run.batch_size()
        self.clips_per_batch = self.batch_size * fabric.world_size
        self.steps_per_epoch = len(dataset) // self.clips_per_batch // settings.accum_iter
        self.batches = ClipBatches(
            CachedClips(dataset, int(settings.keep_gb * 1e9)) if settings.keep_gb else dataset,
            batch_size=self.batch_size,
            seed=settings.seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            num_workers=settings.num_workers,
            pin_memory=fabric.device.type == "cuda",
        )
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.peak_lr = settings.learning_rate(self.clips_per_batch * settings.accum_iter, task.default_blr)
        self.step = run.step
        self.saved_at, self.saved_step = time.monotonic(), -1 if run.is_new else run.step
        self.log = Log(run.folder, enabled=fabric.is_global_zero)
        self.network: nn.Module = task.network
        self.optimizer: torch.optim.Optimizer
        self.guard: StepGuard

    def train(self) -> None:
        if self.fabric.device.type == "cpu":
            keep_freed_memory()
        if self.run.is_new:
            self._create_folder()
        else:
            self._restore_network()
        settings = self.settings
        speed_up(self.task.network, compiled=settings.compile, recompute=settings.grad_checkpointing)
        self.network = self.fabric.setup_module(self.task.network)
        # Created after the setup, which may have sharded the parameters.
        self.optimizer = adamw(self.task.network, settings)
        if self.run.checkpoint is not None:
            state = read_optimizer_state(self.run.checkpoint, self.task.network, self.run.progress)
            load_state_tensors(self.optimizer, self.task.network, state)
        self.guard = StepGuard(self.optimizer, self.fabric.device)
        self.network.train()
        self.progress.start(self.total_steps, f"{self.task.title} on {len(self.dataset)} clips")
        self.progress.advance(self.step)
        while self.step < self.total_steps:
            self._train_epoch(self.step // self.steps_per_epoch)
        if self.saved_step != self.step:
            self._save({})
        self.log.close()
        self.fabric.barrier()

    def _create_folder(self) -> None:
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            self.run.create_folder()
        self.fabric.barrier()

    def _restore_network(self) -> None:
        """Restores the weights from the newest checkpoint, if the settings are those of the run."""
        run = self.run
        assert run.checkpoint is not None
        run.check_settings()
        weights = checkpoint.load_weights(run.checkpoint, run.metadata)
        checkpoint.load_tensors(self.task.network, weights, str(run.folder))
        if self.fabric.is_global_zero:
            run.remove_leftovers()
            self.log.truncate(self.step)
        self.fabric.barrier()

    def _train_epoch(self, epoch: int) -> None:
        """Trains the rest of an epoch, from the current step."""
        batches = self._batches(epoch)
        clips, since = 0, time.monotonic()
        while self.step < (epoch + 1) * self.steps_per_epoch:
            losses, gradient_norm, last_batch = self._optimizer_step(batches)
            self.step += 1
            clips += self.clips_per_batch * self.settings.accum_iter
            self.progress.advance(1)
            if self._is_log_step():
                self._check_finite()
                clips_per_second = clips / (time.monotonic() - since)
                clips, since = 0, time.monotonic()
                self._write_log(losses, gradient_norm, clips_per_second)
            if self._is_save_step():
                self._save(losses)
        if self._wants_image(epoch):
            self._log_image(last_batch)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        done = (self.step - epoch * self.steps_per_epoch) * self.settings.accum_iter
        for batch in self.batches.epoch(epoch, done):
            yield batch.to(self.fabric.device)

    def _optimizer_step(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], Tensor, Batch]:
        """Runs one optimizer step over `accum_iter` batches, without the host waiting for the device.

        A step that is not finite does not change the weights.

        Returns:
            The losses, the gradient norm before clipping, and the last batch.
        """
        lr = self._learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total: dict[str, Tensor] = {}
        ids: list[str] = []
        accum = self.settings.accum_iter
        for micro_step in range(accum):
            batch = next(batches)
            ids += batch.ids
            with self.fabric.no_backward_sync(self.network, enabled=micro_step < accum - 1):
                losses = self.task.losses(self.network, batch, self._rng(self.step * accum + micro_step))
                self.fabric.backward(losses["loss"] / accum)
            for name, value in losses.items():
                total[name] = total.get(name, torch.zeros((), device=value.device)) + value.detach() / accum
        gradient_norm = clip_gradients(self.task.network, self.settings.clip_grad)
        self.guard.watch(StepRecord(self.step, total, gradient_norm, lr, ids))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, gradient_norm, batch

    def _learning_rate(self, step: int) -> float:
        return learning_rate(
            step,
            total_steps=self.total_steps,
            warmup_steps=self.settings.warmup_epochs * self.steps_per_epoch,
            peak_lr=self.peak_lr,
            min_lr=self.settings.min_lr,
        )

    def _rng(self, batch_number: int) -> StepRNG:
        return rng_for_step(
            self.settings.seed,
            batch_number,
            device=self.fabric.device,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            batch_size=self.batch_size,
        )

    def _check_finite(self) -> None:
        """Raises if a step since the last check was not finite; the only place where the host waits for the device."""
        saved = f"step {self.saved_step} in {self.run.folder}" if self.saved_step >= 0 else "none yet"
        self.guard.check(self.total_steps, saved)

    def _is_log_step(self) -> bool:
        return self.step % self.settings.log_steps == 0 or self.step == self.total_steps

    def _write_log(self, losses: dict[str, Tensor], gradient_norm: Tensor, clips_per_second: float) -> None:
        """Writes one line of the log, with the losses averaged over the processes."""
        values = {name: float(self.fabric.all_reduce(value, reduce_op="mean")) for name, value in losses.items()}
        row = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            **values,
            "lr": self._learning_rate(self.step - 1),
            "gradient_norm": float(gradient_norm),
            "clips_per_second": clips_per_second,
        }
        self.log.write(row)
        self.progress.message(f"loss {values['loss']:.4f}, {clips_per_second:.0f} clips/s")

    def _wants_image(self, epoch: int) -> bool:
        every = self.settings.image_epochs
        return self.step >= self.total_steps or (every > 0 and (epoch + 1) % every == 0)

    def _log_image(self, batch: Batch) -> None:
        # Every process takes part: none has all the weights of a sharded network.
        self.network.eval()
        # Compiling for a batch of one would take longer than it saves.
        with torch.compiler.set_stance("force_eager"):
            image = self.task.reconstruction_image(batch, self._rng(self.step))
        self.network.train()
        if image is not None and self.fabric.is_global_zero:
            self.log.write_image(self.step, image)

    def _is_save_step(self) -> bool:
        """Whether a checkpoint is due; the first process decides by its clock for all, at steps that are logged anyway."""
        every = self.settings.save_steps
        if self.step == self.total_steps or (every > 0 and self.step % every == 0):
            return True
        overdue = time.monotonic() - self.saved_at > 60 * self.settings.save_minutes
        if self.fabric.world_size == 1:
            return overdue
        return bool(self.fabric.broadcast(overdue)) if self._is_log_step() else False

    def _save(self, losses: dict[str, Tensor]) -> None:
        self._check_finite()
        self.saved_at, self.saved_step = time.monotonic(), self.step
        metadata = dataclasses.replace(
            self.task.metadata,
            step=self.step,
            epoch=self.step / self.steps_per_epoch,
            clips_seen=self.step * self.clips_per_batch * self.settings.accum_iter,
            metrics={name: value.item() for name, value in losses.items()},
        )
        skips = SkipReport([*self.dataset.skips, *self.batches.skips])
        if len(skips) and self.fabric.is_global_zero:
            skips.write(self.run.folder)
        progress = {"step": self.step, "clips": len(self.dataset), "clips_per_batch": self.clips_per_batch}
        self.run.save(self.fabric, metadata, self.task.network, self.optimizer, progress)
