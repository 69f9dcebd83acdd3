"""Fine-tuning: two towers learn which sound belongs to which picture, by contrast within the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import AugmentSettings, ClipSettings, FinetuneSettings, preset
from cmmixer.config.base import pick
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.loader import collate
from cmmixer.data.statistics import measure_statistics
from cmmixer.errors import CheckpointError
from cmmixer.models.losses import frame_vectors, info_nce, nt_xent, sequence_vectors
from cmmixer.models.pair_mixup import draw_frame_rows, own_rows, take_frames
from cmmixer.models.patches import strip_grid
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.progress import NoProgress, Progress
from cmmixer.train.distributed import make_fabric
from cmmixer.train.inputs import Chance, TrainingInputs
from cmmixer.train.log import TrainingResult, describe_data, finish
from cmmixer.train.loop import fit
from cmmixer.train.resume import clips_per_process, goes_on
from cmmixer.types import Batch, Clip
from cmmixer.version import __version__

# Pairs from whose features the heads start (more if towers are wide), and how many go through the towers at a time.
HEAD_CLIPS, HEAD_BATCH = 1024, 32
# With 300 pairs pair mixing lifts R@1 much, and a loss on single frames learns them by heart; with 1,200 pairs it is the other way
# round (docs/study.md, docs/lab-notebook.md).
FEW_CLIPS = 500


class FinetuneTask:
    """Pull a clip's picture and sound together, push all other pairs of the batch apart."""

    title = "fine-tuning"
    default_blr = 1e-3

    def __init__(self, card: Card, settings: FinetuneSettings, clips: int) -> None:
        network = checkpoint.build(card, settings.seed)
        assert isinstance(network, Retriever)
        self.network: nn.Module = network
        self.retriever = network
        self.card = card
        self.loss = settings.loss
        self.temperature = settings.temperature
        self.mask_ratio = settings.mask_ratio
        few = clips < FEW_CLIPS
        frame_weight = settings.frame_weight
        if frame_weight is None:
            frame_weight = 1.0 - settings.sequence_weight if network.frames_apart and not few else 0.0
        self.weights = {
            _clip_vectors: round(1.0 - settings.sequence_weight - frame_weight, 9),
            _sequence_vectors: settings.sequence_weight,
            _frame_vectors: frame_weight,
        }
        # Frames that are contrasted one by one need no dealing out, and the same frame twice would be its own wrong answer.
        mixed = 1.0 if few and frame_weight == 0.0 else 0.0
        self.pair_mix_prob = mixed if settings.pair_mix_prob is None else settings.pair_mix_prob
        self.tokens = strip_grid(card.clip.height, card.clip.width, card.clip.frames, card.model.patch).tokens
        self.inputs = TrainingInputs(card.clip, card.statistics, pick(AugmentSettings, settings))
        if self.loss == "nt_xent":  # the published variant keeps its temperature
            network.logit_scale.requires_grad_(False)

    def losses(self, network: nn.Module, batch: Batch, chance: Chance) -> dict[str, Tensor]:
        """The contrastive loss over all processes' batches."""
        video, audio = self._pair_mixed(*self.inputs(batch, chance), chance)
        pictures, sounds, scale = network(video, audio, mask_ratio=self.mask_ratio, noise=self._noise(chance))
        parts = [
            weight * self._contrast(vectors(pictures), vectors(sounds), scale)
            for vectors, weight in self.weights.items()
            if weight > 0.0
        ]
        loss = torch.stack(parts).sum()
        return {"loss": loss} if self.loss == "nt_xent" else {"loss": loss, "logit_scale": scale.detach()}

    def _contrast(self, video_BE: Tensor, audio_BE: Tensor, scale: Tensor) -> Tensor:
        if self.loss == "nt_xent":
            return nt_xent(video_BE, audio_BE, self.temperature)
        return info_nce(video_BE, audio_BE, scale)

    def _pair_mixed(self, video_BTCHW: Tensor, audio_BTCHW: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
        if self.pair_mix_prob == 0.0:
            return video_BTCHW, audio_BTCHW
        drawn = draw_frame_rows(
            self.pair_mix_prob, batch=chance.batch, frames=video_BTCHW.shape[1], generator=chance.cpu
        )
        rows_BT = own_rows(drawn, chance.rows).to(video_BTCHW.device)
        return take_frames(video_BTCHW, rows_BT), take_frames(audio_BTCHW, rows_BT)

    def _noise(self, chance: Chance) -> tuple[Tensor, Tensor] | None:
        """What decides which tokens are dropped, of each sense; None without masking."""
        if self.mask_ratio == 0.0:
            return None
        noise = torch.rand(2, chance.batch, self.tokens, generator=chance.device, device=chance.device.device)[
            :, chance.rows
        ]
        return noise[0], noise[1]

    def picture(self, batch: Batch, chance: Chance) -> Tensor | None:
        """Nothing to look at: the reconstruction belongs to pre-training."""
        return None


def _clip_vectors(sense: Embedding) -> Tensor:
    return sense.clip_BE


def _sequence_vectors(sense: Embedding) -> Tensor:
    return sequence_vectors(sense.frames_BTE)


def _frame_vectors(sense: Embedding) -> Tensor:
    return frame_vectors(sense.frames_BTE)


def finetune(
    settings: FinetuneSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> TrainingResult:
    """Trains the retriever, from `settings.init` or from scratch; a run that was killed is continued by the same call.

    Args:
        settings: of the command.
        progress: told how it goes on.
        dataset: clips, if they are not to be read from `settings.data`.

    Raises:
        InputError: the data, the settings, the init or the run's folder cannot be used.
        NonFiniteError: a step was not finite.
    """
    progress = progress or NoProgress()
    fabric = make_fabric(settings)
    init = None if settings.init is None else _init_card(settings)
    clip = _clip(settings, init)
    if dataset is None:
        dataset = open_clips(settings, clip, workers=settings.num_workers, progress=progress)
    clips_per_process(settings, fabric.world_size, len(dataset))  # too few are refused before anything is measured
    there = goes_on(settings)
    card = checkpoint.load_card(settings.out) if there else _new_card(settings, clip, init, dataset)
    task = FinetuneTask(card, settings, len(dataset))
    trained_on = init is not None and init.kind == "retriever"
    if settings.init is not None and not there:
        weights = checkpoint.load_weights(settings.init)
        if trained_on:
            task.retriever.load_state_dict(weights)
        else:
            task.retriever.start_from(weights)
    if settings.head_start == "canonical" and not (there or trained_on):
        start_heads(task, dataset, settings.seed, fabric.device, progress)
    folder = fit(task, dataset, settings, fabric, progress)
    return finish(folder, dataset, fabric)


@torch.no_grad()
def start_heads(
    task: FinetuneTask, dataset: ClipDataset, seed: int, device: torch.device, progress: Progress | None = None
) -> None:
    """Starts the retriever's heads at the canonical correlations of some training pairs, without augmentation.

    Fewer pairs than twice a tower's width tell nothing that would hold for others: the heads then stay as they are. Every
    process finds the same, from the same clips. Clips that cannot be decoded are passed over; training lists them.

    Args:
        task: its retriever is moved to the device and given the heads.
        dataset: training clips.
        seed: draws which.
        device: where the towers run.
        progress: told about every clip.
    """
    progress = progress or NoProgress()
    least = 2 * task.card.model.dim
    if len(dataset) < least:
        return
    retriever, frontend = task.retriever.to(device), task.inputs.frontend.to(device)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[: max(HEAD_CLIPS, least)].tolist()
    progress.start(len(chosen), "a first look at the pairs")
    video: list[Tensor] = []
    audio: list[Tensor] = []
    for start in range(0, len(chosen), HEAD_BATCH):
        part = chosen[start : start + HEAD_BATCH]
        clips = [clip for clip in dataset.read(part) if isinstance(clip, Clip)]
        progress.advance(len(part))
        if clips:
            batch = collate(clips).to(device)
            video.append(retriever.features("video", frontend.video(batch.video_BTCHW)).cpu())
            audio.append(retriever.features("audio", frontend.audio(batch.audio_BTN)).cpu())
    if sum(map(len, video)) >= least:
        retriever.start_heads(torch.cat(video), torch.cat(audio))


def _init_card(settings: FinetuneSettings) -> Card:
    """The card of the run to start from, if it fits."""
    assert settings.init is not None
    card = checkpoint.load_card(settings.init, "retriever", "mae")
    if settings.preset is not None and preset(settings.preset).model != card.model:
        raise CheckpointError(
            f"--init {settings.init}: a checkpoint of another shape: width {card.model.dim}, depth {card.model.depth}, patch "
            f"{card.model.patch}, which is not preset {settings.preset!r}; leave --preset out, the init's sizes are used"
        )
    if card.kind == "retriever" and settings.frames_apart and not card.options.get("frames_apart", False):
        raise CheckpointError(
            f"--init {settings.init}: a retriever whose towers look at whole strips, which --frames_apart cannot change; start from a "
            "run of pretrain"
        )
    if card.kind == "retriever" and settings.shared_tower and not card.options["shared_tower"]:
        raise CheckpointError(
            f"--init {settings.init}: a retriever of two towers, which --shared_tower cannot make one of"
        )
    return card


def _clip(settings: FinetuneSettings, init: Card | None) -> ClipSettings:
    """Geometry of a clip: what is given, else the init's, else the preset's. T may differ from pre-training."""
    if init is None:
        return settings.clip_settings(settings.preset or "base")
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ClipSettings)}
    return dataclasses.replace(init.clip, **{name: value for name, value in given.items() if value is not None})


def _new_card(settings: FinetuneSettings, clip: ClipSettings, init: Card | None, dataset: ClipDataset) -> Card:
    options = {
        "embed_dim": settings.embed_dim,
        "shared_tower": settings.shared_tower,
        "temperature": settings.temperature,
        "interleave": False if init is None else init.options["interleave"],
        "frames_apart": settings.frames_apart is not False,
    }
    return Card(
        kind="retriever",
        model=preset(settings.preset or "base").model if init is None else init.model,
        clip=clip,
        statistics=measure_statistics(dataset, clip, seed=settings.seed) if init is None else init.statistics,
        options=init.options if init is not None and init.kind == "retriever" else options,
        settings=dataclasses.asdict(settings),
        parent=None if init is None else init.model_id,
        data=describe_data(settings.data, dataset),
        version=__version__,
    )
