"""Settings of the training stages, pretrain and finetune: the mixer, augmentation, the loop and optimizer, and the losses."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import RUN_ELSEWHERE, at_least, one_of, refuse_remote, within
from cmmixer.config.clip import PRESETS, ClipOptions
from cmmixer.config.data import DataSettings
from cmmixer.errors import SettingsError

MIX_MODES = ("pixel", "patch", "image", "video")
PRECISIONS = ("32-true", "bf16-mixed")
DEVICES = ("auto", "cpu", "cuda")
STRATEGIES = ("ddp", "fsdp")
LOSSES = ("infonce", "nt_xent")
HEAD_INITS = ("cca", "random")


@dataclass(frozen=True, kw_only=True)
class MixerSettings:
    """How frames and mel spectrograms are mixed in the input of pre-training (arXiv 2308.13820, section "mixer").

    Attributes:
        mixup_mode: what one draw covers: pixel, patch, image (one draw per frame) or video (one draw per clip)
        mixup_alpha: Beta(alpha, alpha) of mixup, which gives all pixels of a frame one weight; at 0.001 whole frames are swapped;
            0 disables mixup
        cutmix_alpha: Beta(alpha, alpha) of cutmix, which pastes a rectangle of the other modality; 0 disables cutmix
        cutmix_minmax: [low, high] of the rectangle's sides as a fraction of the frame's, instead of a Beta draw
        mixup_prob: probability that a clip is mixed
        mixup_switch_prob: probability of cutmix instead of mixup, when both are enabled
        mix_rate: probability that a pixel or patch is taken from the audio, in modes pixel and patch
    """

    mixup_mode: str = "image"
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    cutmix_minmax: tuple[float, float] | None = None
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mix_rate: float = 0.5

    def __post_init__(self) -> None:
        one_of("mixup_mode", self.mixup_mode, MIX_MODES)
        at_least("mixup_alpha", self.mixup_alpha, 0.0)
        at_least("cutmix_alpha", self.cutmix_alpha, 0.0)
        for name in ("mixup_prob", "mixup_switch_prob", "mix_rate"):
            within(name, getattr(self, name), 0.0, 1.0)
        if self.cutmix_minmax is not None:
            low, high = self.cutmix_minmax
            if not 0.0 <= low <= high <= 1.0:
                raise SettingsError(f"--cutmix_minmax: got {low}, {high}, expected 0 <= low <= high <= 1")
        if self.mixup_mode in ("image", "video") and not (self.uses_mixup or self.uses_cutmix):
            raise SettingsError(
                f"--mixup_alpha and --cutmix_alpha are both 0, so mode {self.mixup_mode!r} has nothing to draw; "
                "set one above 0, or --mixup_prob 0 to train without mixing"
            )

    @property
    def uses_mixup(self) -> bool:
        """Whether mixup is enabled."""
        return self.mixup_alpha > 0.0

    @property
    def uses_cutmix(self) -> bool:
        """Whether cutmix is enabled."""
        return self.cutmix_alpha > 0.0 or self.cutmix_minmax is not None


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strengths of the augmentations, separate for frames and audio; 0 disables one. All frames of a clip are augmented alike.

    Attributes:
        crop_scale_min: smallest area of the random resized crop, as a fraction of the frame; 1 disables it
        flip_prob: probability of a horizontal flip
        randaugment_ops: RandAugment operations per clip
        randaugment_magnitude: strength of the RandAugment operations, 0 to 10
        erase_prob: probability that a random rectangle of the frames is erased
        shift_seconds: largest time shift of the audio, in either direction
        gain_db: largest change of the audio's volume, in either direction
        freq_mask: widest band of mel rows that is masked, as a fraction of the height
        time_mask: widest range of mel columns that is masked, as a fraction of the width
    """

    crop_scale_min: float = 0.6
    flip_prob: float = 0.5
    randaugment_ops: int = 0
    randaugment_magnitude: float = 5.0
    erase_prob: float = 0.0
    shift_seconds: float = 0.0
    gain_db: float = 6.0
    freq_mask: float = 0.0
    time_mask: float = 0.0

    def __post_init__(self) -> None:
        within("crop_scale_min", self.crop_scale_min, 0.0, 1.0, open_low=True)
        for name in ("flip_prob", "erase_prob"):
            within(name, getattr(self, name), 0.0, 1.0)
        for name in ("freq_mask", "time_mask"):
            within(name, getattr(self, name), 0.0, 1.0, open_high=True)
        for name in ("randaugment_ops", "shift_seconds", "gain_db"):
            at_least(name, getattr(self, name), 0)
        if int(self.randaugment_ops) != self.randaugment_ops:
            raise SettingsError(f"--randaugment_ops: got {self.randaugment_ops}, expected a whole number")
        within("randaugment_magnitude", self.randaugment_magnitude, 0.0, 10.0)


NO_AUGMENTATION = AugmentSettings(crop_scale_min=1.0, flip_prob=0.0, gain_db=0.0)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The training loop, the optimizer and the learning rate schedule.

    Attributes:
        out: folder of the run
        epochs: how many times each clip is seen
        batch_size: clips per process and step; a run that resumes on another number of processes keeps the clips of a step
        lr: learning rate, used as it is
        blr: learning rate for a batch of 256 clips over all processes, lr = blr x clips / 256; give lr or blr, not both
        min_lr: learning rate at the end of the cosine schedule
        warmup_epochs: epochs of linear warm-up from 0; may be a fraction
        weight_decay: weight decay of AdamW, on matrices only
        beta1: AdamW's decay rate of the first moment
        beta2: AdamW's decay rate of the second moment
        clip_grad: max gradient norm (2-norm); 0 does not clip
        accum_iter: batches per optimizer step
        seed: seed of all random numbers
        num_workers: decoder processes per training process
        keep_gb: gigabytes of decoded clips that each training process caches; 0 caches none
        precision: 32-true or bf16-mixed
        device: auto, cpu or cuda
        strategy: ddp (each process under torchrun holds everything) or fsdp (each holds a shard of weights and optimizer state)
        compile: compile the transformer blocks with torch.compile, which needs a C++ compiler and makes the first step slow
        grad_checkpointing: recompute activations in the backward pass instead of storing them: less memory, a third more arithmetic
        save_minutes: minutes between checkpoints; the end of the run is always saved
        save_steps: steps between checkpoints, in addition to save_minutes; 0 uses the minutes only
        keep: how many checkpoints to keep
        log_steps: steps between lines of the log
        image_epochs: epochs between reconstruction images in TensorBoard; 0 adds only the last one
        overwrite: start again in a folder that holds a run, instead of resuming it
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
    image_epochs: int = 1
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
            "image_epochs",
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

    def learning_rate(self, clips_per_step: int, default_blr: float) -> float:
        """Returns `lr`, or by the linear rule lr = blr x clips / 256 (arXiv 1706.02677) from `blr` or the default.

        Args:
            clips_per_step: clips of one optimizer step, over all processes.
            default_blr: learning rate for 256 clips where neither `lr` nor `blr` is given.
        """
        if self.lr is not None:
            return self.lr
        return (default_blr if self.blr is None else self.blr) * clips_per_step / 256


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(DataSettings, ClipOptions, MixerSettings, AugmentSettings, TrainingSettings):
    """Pre-train the masked autoencoder on mixed clips: fuse, then separate.

    Attributes:
        out: folder of the run
        preset: size of the encoder
        mask_ratio: fraction of the tokens that is masked
        norm_pix: normalize the targets per patch
        video_weight: weight of the video reconstruction loss
        audio_weight: weight of the audio reconstruction loss
        interleave: interleave the frames of the strip column by column, as in the published code, instead of side by side
    """

    out: str = "runs/pretrain"
    preset: str = "base"
    mask_ratio: float = 0.75
    norm_pix: bool = False
    video_weight: float = 1.0
    audio_weight: float = 1.0
    interleave: bool = False

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        MixerSettings.__post_init__(self)
        AugmentSettings.__post_init__(self)
        TrainingSettings.__post_init__(self)
        refuse_remote("out", self.out, RUN_ELSEWHERE)
        one_of("preset", self.preset, PRESETS)
        within("mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        at_least("video_weight", self.video_weight, 0.0)
        at_least("audio_weight", self.audio_weight, 0.0)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(DataSettings, ClipOptions, AugmentSettings, TrainingSettings):
    """Train the two-tower retriever with a contrastive loss, from a pre-trained encoder or from scratch.

    Attributes:
        out: folder of the run
        init: run or checkpoint to start from, of pretrain, or of finetune, whose sizes it keeps; default: from scratch
        preset: size of the encoder; default: init's, or base from scratch
        shared_tower: use one encoder for both modalities instead of two
        embed_dim: dimension of an embedding
        head_init: cca (heads start at the canonical correlations of some training pairs) or random
        loss: infonce (symmetric, learnable temperature) or nt_xent (over 2N samples, the published variant)
        temperature: initial temperature; nt_xent keeps it
        mask_ratio: fraction of the tokens dropped during fine-tuning; a large one is known to ruin retrieval
        frame_level: encode each frame and each audio window by itself instead of all of them as one strip; the vector of a clip
            then ignores their order, which `--rerank sequence` compares; default: as in an init of finetune, else yes
        frame_weight: weight of the loss that contrasts each frame with all audio windows of the batch, those of its own clip
            included, instead of whole clips; default: 1 - sequence_weight with frame-level encoding and 500 clips or more, else 0
        sequence_weight: weight of the loss that contrasts the frames of clips in order, instead of whole clips
        frame_mixup_prob: probability that the frames of a clip, video and audio alike, come from several clips of the batch;
            default: 1 with fewer than 500 clips and no loss on frames, else 0
        epochs: how many times each clip is seen
        batch_size: clips per process and step
        warmup_epochs: epochs of linear warm-up from 0; may be a fraction
    """

    out: str = "runs/finetune"
    init: str | None = None
    preset: str | None = None
    shared_tower: bool = False
    embed_dim: int = 256
    head_init: str = "cca"
    loss: str = "infonce"
    temperature: float = 0.07
    mask_ratio: float = 0.0
    frame_level: bool | None = None
    frame_weight: float | None = None
    sequence_weight: float = 0.0
    frame_mixup_prob: float | None = None
    epochs: int = 30
    batch_size: int = 64
    warmup_epochs: float = 1.0

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        AugmentSettings.__post_init__(self)
        TrainingSettings.__post_init__(self)
        refuse_remote("out", self.out, RUN_ELSEWHERE)
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS)
        one_of("head_init", self.head_init, HEAD_INITS)
        one_of("loss", self.loss, LOSSES)
        at_least("embed_dim", self.embed_dim, 2)
        at_least("batch_size", self.batch_size, 2)
        within("temperature", self.temperature, 0.0, float("inf"), open_low=True)
        within("mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        within("sequence_weight", self.sequence_weight, 0.0, 1.0)
        if self.frame_weight is not None:
            within("frame_weight", self.frame_weight, 0.0, 1.0 - self.sequence_weight)
        if self.frame_mixup_prob is not None:
            within("frame_mixup_prob", self.frame_mixup_prob, 0.0, 1.0)
