"""Fine-tuning: two towers learn from a contrastive loss which audio belongs to which video."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import AugmentSettings, ClipSettings, FinetuneSettings, preset
from cmmixer.config.base import pick
from cmmixer.config.fields import accepts_settings
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.loader import collate
from cmmixer.data.statistics import measure_statistics
from cmmixer.errors import CheckpointError
from cmmixer.models.frame_mixup import draw_frame_rows, local_rows, take_frames
from cmmixer.models.losses import frame_vectors, info_nce, nt_xent, sequence_vectors
from cmmixer.models.patches import strip_grid
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.progress import NoProgress, Progress
from cmmixer.train.distributed import make_fabric
from cmmixer.train.inputs import StepRNG, TrainingInputs
from cmmixer.train.log import TrainingResult, describe_data, summarize
from cmmixer.train.loop import fit
from cmmixer.train.resume import Run
from cmmixer.types import Batch, Clip
from cmmixer.version import __version__

# Pairs whose features initialize the heads (more for wide towers), and how many of them go through the towers at a time.
HEAD_CLIPS, HEAD_BATCH = 1024, 32
# With 300 pairs, cross-clip frame mixup raises R@1 a lot, and a loss on single frames overfits. With 1,200 pairs it is the
# other way round (docs/study.md, docs/lab-notebook.md).
FEW_CLIPS = 500


class FinetuneTask:
    """Contrastive training of the retriever: pulls the video and the audio of a clip together, pushes other pairs apart.

    Args:
        metadata: metadata of the retriever.
        settings: settings of the command.
        clips: number of training clips, from which defaults of the loss follow.
    """

    title = "fine-tuning"
    default_blr = 1e-3

    def __init__(self, metadata: Metadata, settings: FinetuneSettings, clips: int) -> None:
        network = checkpoint.build(metadata, settings.seed)
        assert isinstance(network, Retriever)
        self.network: nn.Module = network
        self.retriever = network
        self.metadata = metadata
        self.loss = settings.loss
        self.temperature = settings.temperature
        self.mask_ratio = settings.mask_ratio
        few = clips < FEW_CLIPS
        frame_weight = settings.frame_weight
        if frame_weight is None:
            frame_weight = 1.0 - settings.sequence_weight if network.frame_level and not few else 0.0
        self.weights = {
            _clip_vectors: round(1.0 - settings.sequence_weight - frame_weight, 9),
            _sequence_vectors: settings.sequence_weight,
            _frame_vectors: frame_weight,
        }
        # Not with a loss on single frames: it gains nothing, and a frame that occurs twice would be its own negative.
        default_prob = 1.0 if few and frame_weight == 0.0 else 0.0
        self.frame_mixup_prob = default_prob if settings.frame_mixup_prob is None else settings.frame_mixup_prob
        clip = metadata.clip
        self.tokens = strip_grid(clip.height, clip.width, clip.frames, metadata.model.patch).tokens
        self.inputs = TrainingInputs(clip, metadata.statistics, pick(AugmentSettings, settings))
        if self.loss == "nt_xent":  # the published variant has a fixed temperature
            network.logit_scale.requires_grad_(False)

    def losses(self, network: nn.Module, batch: Batch, rng: StepRNG) -> dict[str, Tensor]:
        """Returns the contrastive loss over the batches of all processes, and the temperature's inverse where it is learned."""
        video_BTCHW, audio_BTCHW = self._mix_frames(*self.inputs(batch, rng), rng)
        video, audio, scale = network(video_BTCHW, audio_BTCHW, mask_ratio=self.mask_ratio, noise=self._draw_noise(rng))
        parts = [
            weight * self._contrastive_loss(vectors(video), vectors(audio), scale)
            for vectors, weight in self.weights.items()
            if weight > 0.0
        ]
        loss = torch.stack(parts).sum()
        return {"loss": loss} if self.loss == "nt_xent" else {"loss": loss, "logit_scale": scale.detach()}

    def reconstruction_image(self, batch: Batch, rng: StepRNG) -> Tensor | None:
        """Returns None: the retriever reconstructs nothing."""
        return None

    def _contrastive_loss(self, video_BE: Tensor, audio_BE: Tensor, scale: Tensor) -> Tensor:
        if self.loss == "nt_xent":
            return nt_xent(video_BE, audio_BE, self.temperature)
        return info_nce(video_BE, audio_BE, scale)

    def _mix_frames(self, video_BTCHW: Tensor, audio_BTCHW: Tensor, rng: StepRNG) -> tuple[Tensor, Tensor]:
        """Applies cross-clip frame mixup to both modalities alike."""
        if self.frame_mixup_prob == 0.0:
            return video_BTCHW, audio_BTCHW
        global_rows_BT = draw_frame_rows(
            self.frame_mixup_prob,
            batch=rng.global_batch,
            frames=video_BTCHW.shape[1],
            generator=rng.cpu_generator,
        )
        rows_BT = local_rows(global_rows_BT, rng.rows).to(video_BTCHW.device)
        return take_frames(video_BTCHW, rows_BT), take_frames(audio_BTCHW, rows_BT)

    def _draw_noise(self, rng: StepRNG) -> tuple[Tensor, Tensor] | None:
        """Draws the noise that decides which tokens are dropped, [B, L] for each modality; None without masking."""
        if self.mask_ratio == 0.0:
            return None
        generator = rng.device_generator
        noise = torch.rand(2, rng.global_batch, self.tokens, generator=generator, device=generator.device)[:, rng.rows]
        return noise[0], noise[1]


def _clip_vectors(embedding: Embedding) -> Tensor:
    return embedding.clip_BE


def _sequence_vectors(embedding: Embedding) -> Tensor:
    return sequence_vectors(embedding.frames_BTE)


def _frame_vectors(embedding: Embedding) -> Tensor:
    return frame_vectors(embedding.frames_BTE)


@accepts_settings(FinetuneSettings)
def finetune(
    settings: FinetuneSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> TrainingResult:
    """Trains the retriever, from `settings.init` or from scratch; the same call resumes a run that was interrupted.

    Args:
        settings: settings of the command.
        progress: receives the progress.
        dataset: the training clips, instead of those in `settings.data`.

    Raises:
        InputError: the data, the settings, the init or the run's folder cannot be used.
        NonFiniteError: a step was not finite.
    """
    progress = progress or NoProgress()
    fabric = make_fabric(settings)
    init = None if settings.init is None else _init_metadata(settings)
    clip = _clip_settings(settings, init)
    if dataset is None:
        dataset = open_clips(settings, clip, workers=settings.num_workers, progress=progress)
    with Run.open(settings, fabric, clips=len(dataset), kind="retriever") as run:
        metadata = run.metadata or _new_metadata(settings, clip, init, dataset)
        task = FinetuneTask(metadata, settings, len(dataset))
        if run.is_new:
            _initialize(task, settings, init, dataset, fabric.device, progress)
        fit(task, dataset, run, fabric, progress)
        return summarize(run, dataset, fabric)


def _initialize(
    task: FinetuneTask,
    settings: FinetuneSettings,
    init: Metadata | None,
    dataset: ClipDataset,
    device: torch.device,
    progress: Progress,
) -> None:
    """Loads the weights of `settings.init` into a new retriever; initializes its heads, unless init is a retriever with heads."""
    if settings.init is not None and init is not None:
        weights = checkpoint.load_weights(settings.init, init)
        if init.kind == "retriever":
            task.retriever.load_state_dict(weights)
            return
        task.retriever.load_pretrained_encoder(weights)
    if settings.head_init == "cca":
        initialize_heads(task, dataset, settings.seed, device, progress)


@torch.no_grad()
def initialize_heads(
    task: FinetuneTask, dataset: ClipDataset, seed: int, device: torch.device, progress: Progress | None = None
) -> None:
    """Initializes the heads with the canonical correlations of some training pairs, without augmentation.

    With fewer pairs than twice the width of a tower the correlations would not generalize, and the heads stay as they are.
    Every process computes the same heads from the same clips. Clips that cannot be decoded are left out; training lists them.

    Args:
        task: the task; its retriever is moved to the device.
        dataset: the training clips.
        seed: seed of the random choice of clips.
        device: device to run the towers on.
        progress: receives the progress, in clips.
    """
    progress = progress or NoProgress()
    min_clips = 2 * task.metadata.model.dim
    if len(dataset) < min_clips:
        return
    retriever, frontend = task.retriever.to(device), task.inputs.frontend.to(device)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[: max(HEAD_CLIPS, min_clips)].tolist()
    progress.start(len(chosen), "initializing the heads")
    video: list[Tensor] = []
    audio: list[Tensor] = []
    for start in range(0, len(chosen), HEAD_BATCH):
        indices = chosen[start : start + HEAD_BATCH]
        clips = [clip for clip in dataset.read(indices) if isinstance(clip, Clip)]
        progress.advance(len(indices))
        if clips:
            batch = collate(clips).to(device)
            video.append(retriever.features("video", frontend.video(batch.video_BTCHW)).cpu())
            audio.append(retriever.features("audio", frontend.audio(batch.audio_BTN)).cpu())
    if sum(map(len, video)) >= min_clips:
        retriever.initialize_heads(torch.cat(video), torch.cat(audio))


def _init_metadata(settings: FinetuneSettings) -> Metadata:
    """Returns the metadata of the init, if its sizes and options fit the settings.

    Raises:
        CheckpointError: it does not fit.
    """
    assert settings.init is not None
    metadata = checkpoint.load_metadata(settings.init, "retriever", "mae")
    if settings.preset is not None and preset(settings.preset).model != metadata.model:
        raise CheckpointError(
            f"--init {settings.init}: a checkpoint of another shape: width {metadata.model.dim}, depth {metadata.model.depth}, patch "
            f"{metadata.model.patch}, which is not preset {settings.preset!r}; leave --preset out, the init's sizes are used"
        )
    if metadata.kind == "retriever" and settings.frame_level and not metadata.options.get("frame_level", False):
        raise CheckpointError(
            f"--init {settings.init}: a retriever whose towers encode whole strips, which --frame_level cannot change; start from a "
            "run of pretrain"
        )
    if metadata.kind == "retriever" and settings.shared_tower and not metadata.options["shared_tower"]:
        raise CheckpointError(
            f"--init {settings.init}: a retriever with two towers, which --shared_tower cannot turn into one; leave --shared_tower out"
        )
    return metadata


def _clip_settings(settings: FinetuneSettings, init: Metadata | None) -> ClipSettings:
    """Returns the geometry of a clip: the values that are given, else the init's, else the preset's. T may differ from the init's."""
    if init is None:
        return settings.clip_settings(settings.preset or "base")
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ClipSettings)}
    return dataclasses.replace(init.clip, **{name: value for name, value in given.items() if value is not None})


def _new_metadata(
    settings: FinetuneSettings, clip: ClipSettings, init: Metadata | None, dataset: ClipDataset
) -> Metadata:
    options = {
        "embed_dim": settings.embed_dim,
        "shared_tower": settings.shared_tower,
        "temperature": settings.temperature,
        "interleave": False if init is None else init.options["interleave"],
        "frame_level": settings.frame_level is not False,
    }
    return Metadata(
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
