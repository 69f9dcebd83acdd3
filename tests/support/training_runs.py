"""Small training runs on clips of noise: their settings, an interruption, and what they leave in their folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file

from cmmixer import checkpoint
from cmmixer.config import FinetuneSettings, PretrainSettings
from cmmixer.config.training import TrainingSettings
from cmmixer.data.loader import collate
from cmmixer.progress import NoProgress
from cmmixer.train.distributed import make_fabric
from cmmixer.train.inputs import StepRNG, rng_for_step
from cmmixer.types import Batch, Clip
from tests.support.small_runs import PICO, random_clips

_COMMON: dict[str, Any] = {
    "data": "arrays",
    "preset": "nano",
    "epochs": 2,
    "batch_size": 4,
    "lr": 1e-3,
    "num_workers": 0,
    "log_steps": 1,
    **dataclasses.asdict(PICO),
}


def pretrain_settings(out: Path, **changes: Any) -> PretrainSettings:
    return PretrainSettings(**{**_COMMON, "out": str(out), "warmup_epochs": 0.5, **changes})


def finetune_settings(out: Path, **changes: Any) -> FinetuneSettings:
    return FinetuneSettings(**{**_COMMON, "out": str(out), "embed_dim": 16, **changes})


def single_process() -> Fabric:
    """Fabric of one process on the CPU."""
    return make_fabric(TrainingSettings(device="cpu"))


def random_batch(count: int, seed: int = 0) -> Batch:
    """A batch of the first clips of `random_clips`."""
    clips = random_clips(count, seed=seed)
    return collate([clip for clip in clips.read(range(count)) if isinstance(clip, Clip)])


def step_rng(batch_size: int, *, step: int = 0, rank: int = 0, world: int = 1) -> StepRNG:
    return rng_for_step(0, step, device=torch.device("cpu"), rank=rank, world=world, batch_size=batch_size)


class InterruptAfter(NoProgress):
    """Ends a run from within after some steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left <= 0 and steps == 1:
            raise KeyboardInterrupt


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of the newest checkpoint."""
    return load_file(checkpoint.resolve(run) / "weights.safetensors")


def log_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_bits(first: Path, second: Path) -> None:
    """Asserts that two runs ended with the same weights and the same optimizer state."""
    for name in ("weights.safetensors", "training/state.safetensors"):
        one, other = (load_file(checkpoint.resolve(run) / name) for run in (first, second))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
