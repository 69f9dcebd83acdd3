"""Settings of the one training loop, shared by pretrain and finetune.

Augmentations: pictures and sounds each have their own; none of the picture's touches a mel picture.

Settings of the two stages of training: pretrain and finetune.

How frames and mel pictures are mixed before any network (DESIGN of the method: arXiv 2308.13820, section "mixer").
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import RUN_ELSEWHERE, at_least, one_of, refuse_remote, within
from cmmixer.config.clip import PRESETS, ClipOptions
from cmmixer.config.data import DataSettings
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


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strengths of the augmentations; 0 switches one off. All frames of a clip get the same picture draw.

    Attributes:
        crop_scale_min: smallest area of the random resized crop, as a part of the frame; 1 switches it off
        flip_prob: probability of a left-right flip
        randaugment_ops: how many RandAugment operations each clip gets
        randaugment_magnitude: strength of these operations, 0 to 10
        erase_prob: probability that a random rectangle of the picture is erased
        shift_seconds: the sound is shifted by up to this much, either way
        gain_db: the sound gets louder or softer by up to this much
        freq_mask: widest band of mel rows that is masked, as a part of the height
        time_mask: widest stretch of mel columns that is masked, as a part of the width
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


MIX_MODES = ("pixel", "patch", "image", "video")


@dataclass(frozen=True, kw_only=True)
class MixerSettings:
    """Settings of the cross-modal mixer.

    Attributes:
        mixup_mode: what one draw covers: pixel, patch, image (one draw per frame) or video (one draw per clip)
        mixup_alpha: Beta(alpha, alpha) of mixup, a constant share of a frame; at 0.001 whole frames are swapped; 0 switches it off
        cutmix_alpha: Beta(alpha, alpha) of cutmix, a rectangle of the other modality; 0 switches cutmix off
        cutmix_minmax: [low, high] of the rectangle's sides as a part of the frame's, instead of a Beta draw
        mixup_prob: probability that a clip is mixed at all
        mixup_switch_prob: with both on, probability of cutmix instead of mixup
        mix_rate: modes pixel and patch: probability that a pixel or patch is taken from the sound
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
        return self.mixup_alpha > 0.0

    @property
    def uses_cutmix(self) -> bool:
        return self.cutmix_alpha > 0.0 or self.cutmix_minmax is not None


LOSSES = ("infonce", "nt_xent")

HEAD_STARTS = ("canonical", "random")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(DataSettings, ClipOptions, MixerSettings, AugmentSettings, TrainingSettings):
    """Pre-train the masked autoencoder on mixed clips: fuse, then separate.

    Attributes:
        out: folder of the run
        preset: size of the encoder
        mask_ratio: part of the tokens the encoder does not see
        norm_pix: the targets are standardised per patch
        video_weight: weight of the picture's reconstruction loss
        audio_weight: weight of the sound's reconstruction loss
        interleave: frames interleaved column by column in the strip, as in the published code, instead of side by side
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
        init: run or checkpoint of pretrain, or of finetune, which is then trained on with its own sizes; left out, from scratch
        preset: size of the encoder; default: init's, or base from scratch
        shared_tower: one encoder for both senses instead of two
        embed_dim: length of an embedding
        head_start: canonical (heads begin at the canonical correlations of some training pairs) or random
        loss: infonce (symmetric, learnable temperature) or nt_xent (over 2N samples, the published variant)
        temperature: where the temperature starts; nt_xent keeps it
        mask_ratio: part of the tokens dropped while fine-tuning; a strong mask is known to ruin retrieval
        frames_apart: each frame and each sound window goes through the towers by itself, instead of all of them as one strip; a
            clip's vector is then blind to their order, which `--rerank sequence` looks at; default: as in an init of finetune,
            else yes
        frame_weight: part of the loss that contrasts each frame with all sound windows of the batch, those of its own clip's
            other instants included, instead of whole clips; default: all of it with frames apart and 500 clips or more, else 0
        sequence_weight: part of the loss that contrasts frames in their order instead of whole clips
        pair_mix_prob: probability that a clip's frames, picture and sound alike, come from several clips of the batch; default:
            1 with fewer than 500 clips, unless the loss is on frames, else 0
        epochs: how many times every clip is seen
        batch_size: clips per process and step
        warmup_epochs: epochs of linear warm-up from 0; fractions are fine
    """

    out: str = "runs/finetune"
    init: str | None = None
    preset: str | None = None
    shared_tower: bool = False
    embed_dim: int = 256
    head_start: str = "canonical"
    loss: str = "infonce"
    temperature: float = 0.07
    mask_ratio: float = 0.0
    frames_apart: bool | None = None
    frame_weight: float | None = None
    sequence_weight: float = 0.0
    pair_mix_prob: float | None = None
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
        one_of("head_start", self.head_start, HEAD_STARTS)
        one_of("loss", self.loss, LOSSES)
        at_least("embed_dim", self.embed_dim, 2)
        at_least("batch_size", self.batch_size, 2)
        within("temperature", self.temperature, 0.0, float("inf"), open_low=True)
        within("mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        within("sequence_weight", self.sequence_weight, 0.0, 1.0)
        if self.frame_weight is not None:
            within("frame_weight", self.frame_weight, 0.0, 1.0 - self.sequence_weight)
        if self.pair_mix_prob is not None:
            within("pair_mix_prob", self.pair_mix_prob, 0.0, 1.0)
