"""Settings of `cmmixer probe`."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.augment import AugmentSettings
from cmmixer.config.check import at_least, one_of, within
from cmmixer.config.training import DEVICES

TASKS = ("audio", "video", "audiovisual")
MODES = ("linear", "finetune")
SHORT_FILES = ("refuse", "use", "skip")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(AugmentSettings):
    """What a run's encoder tells about labels: a classifier on it, against untrained towers and plain statistics.

    Attributes:
        model: run or checkpoint of pretrain or finetune
        data: labelled films or sounds, in any layout that names labels
        task: audio, video, or audiovisual (both)
        mode: linear (the towers stay as they are) or finetune (they are trained on, which takes longer)
        label: column of the class; several classes of a file are separated by `;`
        fold: column of the fold; where the data has none, folds are made
        folds: how many are made
        source: column of the source film; no source may be in two folds
        clips: clips of each file, evenly from its start to its end, that are averaged
        short: files shorter than a clip: refuse (an error before anything is learnt), use (each as one clip of its own length, its
            frames closer together and silence around its sound) or skip (they are listed)
        out: folder for the figures, the confusion picture, and the classifiers of finetune
        epochs: of finetune; how many times every clip of the training files is seen
        batch_size: of finetune
        lr: of finetune, its largest step size
        warmup_epochs: of finetune
        weight_decay: of finetune
        sense_dropout: of finetune on both senses; probability that a clip is learnt from one of them alone
        workers: decoder processes; 0 takes every core
        file_seconds: longest time spent on one file; then it is skipped and listed
        bootstrap: resamplings of the 95 % intervals
        seed: of the folds, the untrained towers, the training and the bootstrap
        device: auto, cpu or cuda
        overwrite: train anew in a folder that holds classifiers; without it they are kept, or finished
    """

    model: str
    data: str
    task: str = "audiovisual"
    mode: str = "linear"
    label: str = "label"
    fold: str = "fold"
    folds: int = 5
    source: str = "source"
    clips: int = 10
    short: str = "refuse"
    out: str = "runs/probe"
    epochs: int = 5
    batch_size: int = 32
    lr: float = 3e-4
    warmup_epochs: float = 0.5
    weight_decay: float = 0.05
    sense_dropout: float = 0.0
    workers: int = 0
    file_seconds: float = 60.0
    bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        AugmentSettings.__post_init__(self)
        one_of("task", self.task, TASKS)
        one_of("mode", self.mode, MODES)
        one_of("short", self.short, SHORT_FILES)
        at_least("folds", self.folds, 2)
        for name in ("clips", "epochs", "batch_size", "bootstrap"):
            at_least(name, getattr(self, name), 1)
        for name in ("warmup_epochs", "weight_decay", "workers", "seed"):
            at_least(name, getattr(self, name), 0)
        within("sense_dropout", self.sense_dropout, 0.0, 1.0)
        for name in ("lr", "file_seconds"):
            within(name, getattr(self, name), 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
