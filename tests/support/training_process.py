"""Both training stages under each strategy, in one process or in jobs of several.

python -m tests.support.training_process FOLDER WORLD [WORLD ...]
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path

from cmmixer.config import FinetuneSettings, PretrainSettings
from cmmixer.train.finetune import finetune
from cmmixer.train.pretrain import pretrain
from tests.support.gloo_processes import fork_job
from tests.support.small_runs import PICO, random_clips

BATCH, ACCUMULATED = 16, 2


def train(folder: Path, strategy: str, processes: int) -> None:
    """Trains three steps of pre-training, then of fine-tuning from it; a step is two batches of 16 clips over all processes."""
    clips = random_clips(3 * BATCH * ACCUMULATED)
    common = {
        "data": "arrays",
        "epochs": 1,
        "batch_size": BATCH // processes,
        "accum_iter": ACCUMULATED,
        "lr": 1e-3,
        "warmup_epochs": 0.0,
        "num_workers": 0,
        "log_steps": 1,
        "strategy": strategy,
        # Changes no bit, and must work with shards.
        "grad_checkpointing": strategy == "fsdp",
        "device": "cpu",
        **dataclasses.asdict(PICO),
    }
    pretrain(PretrainSettings(**common, preset="nano", out=str(folder / f"{strategy}-pretrain")), dataset=clips)
    fine = FinetuneSettings(
        **common,
        init=str(folder / f"{strategy}-pretrain"),
        out=str(folder / f"{strategy}-finetune"),
        embed_dim=16,
        mask_ratio=0.25,
        sequence_weight=0.25,
        # The logit scale starts at its limit of 100, where every process clamps it alike.
        temperature=0.01,
        frame_mixup_prob=0.5,
    )
    finetune(fine, dataset=clips)


def train_all(folder: Path, processes: int) -> None:
    """Trains under each strategy, in this process of a job."""
    for strategy in ("ddp", "fsdp"):
        train(folder / f"of-{processes}", strategy, processes)


if __name__ == "__main__":
    for world in map(int, sys.argv[2:]):
        fork_job(world, partial(train_all, Path(sys.argv[1]), world))
