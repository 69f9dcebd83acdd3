"""Settings of the one training loop, shared by pretrain and finetune."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of, within
from cmmixer.errors import SettingsError

PRECISIONS = ("32-true", "bf16-mixed")
DEVICES = ("auto", "cpu", "cuda")
STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The loop, the optimiser and its schedule.

    Attributes:
        out: folder of the run
        epochs: how many times every clip is seen
        batch_size: clips per process and step; a run that goes on with another number of processes keeps the clips of a step
        lr: step size, used as it is
        blr: step size for a batch of 256 clips over all processes; lr = blr x clips / 256; give lr or blr, not both
        min_lr: where the cosine ends
        warmup_epochs: epochs of linear warm-up from 0; fractions are fine
        weight_decay: AdamW's, on matrices only
        beta1: AdamW's first moment
        beta2: AdamW's second moment
        clip_grad: longest gradient, by its 2-norm; 0 does not clip
        accum_iter: batches per optimiser step
        seed: of everything drawn at random
        num_workers: decoder processes per training process
        keep_gb: gigabytes of decoded clips that each of them keeps instead of decoding them again; 0 keeps none
        precision: 32-true or bf16-mixed
        device: auto, cpu or cuda
        strategy: of several processes under torchrun: ddp (each holds everything) or fsdp (each holds a slice of weights and optimiser)
        compile: the transformer blocks are compiled by torch (needs a C++ compiler; the first step takes longer)
        grad_checkpointing: compute activations again in the backward pass instead of keeping them: less memory, a third more arithmetic
        save_minutes: minutes between checkpoints; the end of the run is always saved
        save_steps: steps between checkpoints, beside save_minutes; 0 counts minutes only
        keep: how many checkpoints stay
        log_steps: steps between lines of the log
        picture_epochs: epochs between pictures in TensorBoard; 0 draws none but the last
        overwrite: start anew in a folder that holds a run; without it the run there is continued
    """

    out: str = "runs/training"
    epochs: int = 400
    batch_size: int = 8
    lr: float | None = None
    blr: float | None = None
    min_lr: float = 0.0
    warmup_epochs: float = 40.0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    clip_grad: float = 1.0
    accum_iter: int = 1
    seed: int = 0
    num_workers: int = 1
    keep_gb: float = 0.0
    precision: str = "32-true"
    device: str = "auto"
    strategy: str = "ddp"
    compile: bool = False
    grad_checkpointing: bool = False
    save_minutes: float = 10.0
    save_steps: int = 0
    keep: int = 2
    log_steps: int = 10
    picture_epochs: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accum_iter", "keep", "log_steps"):
            at_least(name, getattr(self, name), 1)
        for name in (
            "min_lr",
            "warmup_epochs",
            "weight_decay",
            "clip_grad",
            "seed",
            "num_workers",
            "keep_gb",
            "save_steps",
            "picture_epochs",
        ):
            at_least(name, getattr(self, name), 0)
        within("save_minutes", self.save_minutes, 0.0, float("inf"), open_low=True)
        within("beta1", self.beta1, 0.0, 1.0, open_high=True)
        within("beta2", self.beta2, 0.0, 1.0, open_high=True)
        one_of("precision", self.precision, PRECISIONS)
        one_of("device", self.device, DEVICES)
        one_of("strategy", self.strategy, STRATEGIES)
        if self.lr is not None and self.blr is not None:
            raise SettingsError(f"--lr {self.lr} and --blr {self.blr}: give one of the two")
        for name in ("lr", "blr"):
            value = getattr(self, name)
            if value is not None:
                within(name, value, 0.0, float("inf"), open_low=True, open_high=True)

    def step_size(self, clips_per_step: int, default_blr: float) -> float:
        """Lr as given, or by the linear rule lr = blr x clips / 256 (arXiv 1706.02677) from `blr` or the default."""
        if self.lr is not None:
            return self.lr
        return (default_blr if self.blr is None else self.blr) * clips_per_step / 256
