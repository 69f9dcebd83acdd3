"""Both stages under one strategy after another, in each process of a job that torchrun started (or in one alone)."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from cmmixer.config import FinetuneSettings, PretrainSettings
from cmmixer.train.finetune import finetune
from cmmixer.train.pretrain import pretrain
from tests.support.small_runs import PICO, random_clips

BATCH, ACCUMULATED = 16, 2


def train(folder: Path, strategy: str, processes: int) -> None:
    """Three steps each of pre-training and of fine-tuning from it, of two batches of 16 clips over all processes."""
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
        # Changes no bit, and must fit in with slices.
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
        # Where it starts at its limit of 100 it is clamped, in every process alike.
        temperature=0.01,
        pair_mix_prob=0.5,
    )
    finetune(fine, dataset=clips)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("ddp", "fsdp"):
        train(Path(sys.argv[1]), name, int(sys.argv[2]))
