"""Settings of the two stages of training: pretrain and finetune."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.augment import AugmentSettings
from cmmixer.config.check import at_least, one_of, within
from cmmixer.config.clip import ClipOptions
from cmmixer.config.data import DataSettings
from cmmixer.config.mixer import MixerSettings
from cmmixer.config.presets import PRESETS
from cmmixer.config.training import TrainingSettings
from cmmixer.storage.place import RUN_ELSEWHERE, refuse_remote

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
