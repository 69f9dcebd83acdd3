"""Trains and evaluates one cell: pre-training as the cell says, then fine-tuning, then ranking the gallery.

All random numbers come from the seed. The videos stay on the device.

Letters: B clips of a batch, N videos, T frames, E length of an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from benchmarks.speed.flops import count_training_flops
from benchmarks.study.budgets import Budget
from benchmarks.study.cavmae import ContrastiveAutoencoder
from benchmarks.study.cells import Cell
from benchmarks.study.videos import Inputs, Videos, combine_unpaired
from cmmixer.config import preset
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import NonFiniteError, SettingsError
from cmmixer.evaluation.metrics import retrieval_metrics
from cmmixer.models.frame_mixup import draw_frame_rows, take_frames
from cmmixer.models.heads import tower_features
from cmmixer.models.losses import frame_vectors, info_nce, sequence_vectors
from cmmixer.models.mae import MaskedAutoencoder, masked_mse
from cmmixer.models.mixer import draw_mixing_mask
from cmmixer.models.patches import strip_grid
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.train.optim import adamw, learning_rate
from cmmixer.types import Statistics

EMBED_DIM = 128
WARMUP = 0.1
EVALUATION_BATCH = 100
# Videos of different seeds have nothing in common.
TRAIN_SEED, AUDIO_SEED, PAIRS_SEED, GALLERY_SEED = 1, 2, 3, 1000
# Pairs for the CCA that initializes heads; more pairs change the correlations little.
CCA_PAIRS = 2000

Loss = Callable[[nn.Module, Tensor, Generator], Tensor]


@dataclass(frozen=True)
class StudyData:
    """The videos that all cells of a regime mixing_mask.

    Attributes:
        pool: videos to pre-train on; in the regime `pools`, silent videos and unrelated sounds.
        pairs: videos to fine-tune on.
        gallery: videos to rank.
        statistics: measured on `pool`.

    Raises:
        SettingsError: a training video is in the gallery too.
    """

    pool: Videos
    pairs: Videos
    gallery: Videos
    statistics: Statistics

    def __post_init__(self) -> None:
        both = set(self.gallery.sources) & {*self.pool.sources, *self.pool.audio_sources, *self.pairs.sources}
        if both:
            raise SettingsError(f"{len(both)} videos are both in the training set and in the gallery")

    @classmethod
    def of(cls, regime: str, budget: Budget, rendered: Callable[[int, int], Videos]) -> StudyData:
        """Builds the data of a regime; `rendered(count, seed)` returns videos."""
        gallery = rendered(budget.gallery, GALLERY_SEED)
        if regime == "pairs":
            videos = rendered(budget.videos, TRAIN_SEED)
            return cls(videos, videos, gallery, videos.statistics())
        pool = combine_unpaired(rendered(budget.pool, TRAIN_SEED), rendered(budget.pool, AUDIO_SEED))
        return cls(pool, rendered(budget.pairs, PAIRS_SEED), gallery, pool.statistics())


class StageResult(NamedTuple):
    """Loss and cost of a training stage.

    Attributes:
        loss: mean of the last tenth of the steps; None without steps.
        teraflop: floating-point operations of its matrix products, counted in the first step.
    """

    loss: float | None
    teraflop: float


def run_cell(cell: Cell, data: StudyData, budget: Budget, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Trains and evaluates a cell with one seed. Returns `retrieval_metrics`, the final pre-training loss and the cost.

    Raises:
        NonFiniteError: a loss was not finite.
    """
    retriever, pretraining, finetuning = train_cell(cell, data, budget, seed, report)
    video_NE, audio_NE = embed(retriever, Inputs(data.gallery, budget.clip, data.statistics))
    metrics = retrieval_metrics(video_NE.numpy(), audio_NE.numpy(), gallery=data.gallery.sha256)
    return {**metrics, "pretrain_loss": pretraining.loss, "teraflop": pretraining.teraflop + finetuning.teraflop}


def train_cell(
    cell: Cell, data: StudyData, budget: Budget, seed: int, report: Callable[[str], None]
) -> tuple[Retriever, StageResult, StageResult]:
    """Trains the retriever of a cell. Returns it with the results of pre-training and fine-tuning.

    Raises:
        NonFiniteError: a loss was not finite.
    """
    device = data.pool.video_NTCHW.device
    inputs = {name: Inputs(getattr(data, name), budget.clip, data.statistics) for name in ("pool", "pairs")}
    torch.manual_seed(seed)
    network, pretraining = _pretrain(cell, inputs["pool"], budget, seed, report)
    torch.manual_seed(seed)
    retriever = Retriever(
        preset(budget.preset).model,
        budget.clip,
        data.statistics,
        embed_dim=EMBED_DIM,
        shared_tower=cell.shared_tower,
        frame_level=cell.frame_level,
    ).to(device)
    _initialize_towers(retriever, network)
    if cell.cca_init:
        _initialize_heads(retriever, inputs["pairs"])
    views = budget.finetune_views + round(cell.contrastive_share * budget.pretrain_views)
    if cell.match_flops:
        cost_ratio = _flops_of_mixed(inputs["pool"], budget) / _flops_of_contrastive(retriever, inputs["pool"])
        views += int(budget.pretrain_views * cost_ratio)
    report(f"fine-tuning, {views} clips")
    finetuning = optimize(
        retriever, _contrastive(inputs["pairs"], cell), len(data.pairs), views=views,
        batch=budget.finetune_batch, peak=budget.finetune_lr, seed=seed,
    )  # fmt: skip
    return retriever, pretraining, finetuning


def optimize(
    network: nn.Module, loss_of: Loss, videos: int, *, views: int, batch: int, peak: float, seed: int
) -> StageResult:
    """Trains with AdamW until `views` clips are seen, all videos equally often.

    Raises:
        NonFiniteError: a loss was not finite; the step is not applied.
    """
    optimizer = adamw(network, TrainingSettings())
    batch = min(batch, videos)
    steps = views // batch
    device = next(network.parameters()).device
    order = Generator().manual_seed(seed)
    generator = Generator(device=device).manual_seed(seed)
    rows = torch.cat([torch.randperm(videos, generator=order) for _ in range(-(-views // videos))])
    final_losses: list[Tensor] = []
    operations = 0
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total_steps=steps, warmup_steps=WARMUP * steps, peak_lr=peak, min_lr=0.0)
        step_loss = partial(loss_of, network, rows[step * batch : (step + 1) * batch].to(device), generator)
        if step == 0:
            loss, operations = count_training_flops(step_loss)
        else:
            loss = step_loss()
            loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=False)
        if not torch.isfinite(loss.detach()):
            raise NonFiniteError(f"step {step} of {steps}: the loss is {loss.item()}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= min(0.9 * steps, steps - 1):
            final_losses.append(loss.detach())
    return StageResult(float(torch.stack(final_losses).mean()) if final_losses else None, steps * operations / 1e12)


def embed(retriever: Retriever, inputs: Inputs, batch: int = EVALUATION_BATCH) -> tuple[Tensor, Tensor]:
    """Embeds all videos in evaluation mode: unit vectors [N, E] of each modality, on the CPU."""
    video, audio = embed_frames(retriever, inputs, batch)
    return video.clip_BE, audio.clip_BE


@torch.no_grad()
def embed_frames(retriever: Retriever, inputs: Inputs, batch: int = EVALUATION_BATCH) -> tuple[Embedding, Embedding]:
    """Embeds all videos as `embed` does, and also their frames, [N, T, E]."""
    retriever.eval()
    parts = [retriever(*inputs(rows)) for rows in _sequential_batches(inputs, batch)]
    video, audio = (
        Embedding(
            *(torch.cat(chunks).cpu() for chunks in zip(*(getattr(pairs, modality) for pairs in parts), strict=True))
        )
        for modality in ("video", "audio")
    )
    return video, audio


def _sequential_batches(inputs: Inputs, batch: int) -> tuple[Tensor, ...]:
    videos = inputs.videos
    return torch.arange(len(videos), device=videos.video_NTCHW.device).split(batch)


def _pretrain(
    cell: Cell, inputs: Inputs, budget: Budget, seed: int, report: Callable[[str], None]
) -> tuple[nn.Module | None, StageResult]:
    if cell.pretrain == "none":
        return None, StageResult(None, 0.0)
    model = preset(budget.preset).model
    network: nn.Module
    if cell.pretrain == "cavmae":
        network, loss_of = ContrastiveAutoencoder(model, norm_pix=cell.norm_pix), _joint(inputs, cell)
    else:
        network = MaskedAutoencoder(model, budget.clip, norm_pix=cell.norm_pix)
        loss_of = _plain(inputs, cell) if cell.pretrain == "plain" else _mixed(inputs, cell)
    views = round((1.0 - cell.contrastive_share) * budget.pretrain_views)
    report(f"pre-training, {views} clips")
    network.to(inputs.videos.video_NTCHW.device)
    spent = optimize(
        network, loss_of, len(inputs.videos), views=views, batch=budget.pretrain_batch,
        peak=budget.pretrain_lr, seed=seed,
    )  # fmt: skip
    return network, spent


def _initialize_towers(retriever: Retriever, network: nn.Module | None) -> None:
    if isinstance(network, ContrastiveAutoencoder):
        for modality, state in network.towers().items():
            retriever.encoders[modality].load_state_dict(state)
    elif network is not None:
        retriever.load_pretrained_encoder(network.state_dict())


def _flops_of_mixed(inputs: Inputs, budget: Budget) -> int:
    """Counts the FLOP of a clip in mixed pre-training."""
    network = MaskedAutoencoder(preset(budget.preset).model, budget.clip).to(inputs.videos.video_NTCHW.device)
    return _flops(network, _mixed(inputs, Cell("")))


def _flops_of_contrastive(retriever: Retriever, inputs: Inputs) -> int:
    """Counts the FLOP of a clip in contrastive training; leaves the retriever unchanged."""
    return _flops(copy.deepcopy(retriever), _contrastive(inputs, Cell("")))


def _flops(network: nn.Module, loss_of: Loss) -> int:
    rows = torch.arange(2, device=next(network.parameters()).device)
    return count_training_flops(lambda: loss_of(network, rows, Generator(device=rows.device).manual_seed(0)))[1]


@torch.no_grad()
def _initialize_heads(retriever: Retriever, inputs: Inputs) -> None:
    features: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for rows in _sequential_batches(inputs, EVALUATION_BATCH)[: CCA_PAIRS // EVALUATION_BATCH]:
        for modality, images in zip(features, inputs(rows), strict=True):
            features[modality].append(retriever.features(modality, images))
    retriever.initialize_heads(torch.cat(features["video"]), torch.cat(features["audio"]))


def _mixed(inputs: Inputs, cell: Cell) -> Loss:
    """Mixed pre-training (fuse, then separate), plus a contrastive term of the unmixed modalities if the cell has a weight for it."""

    def loss(network: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        assert isinstance(network, MaskedAutoencoder)
        video, audio = inputs(rows)
        mixing_mask = draw_mixing_mask(
            cell.mixer, batch=len(rows), generator=generator, patch=network.patch, **_size(video)
        )
        output = network(
            video, audio, mixing_mask, mask_ratio=cell.mask_ratio, noise_BL=_noise(network, video, generator)
        )
        if not cell.contrastive_weight:
            return output.loss
        return output.loss + cell.contrastive_weight * _contrastive_of_encoder(network, video, audio, cell, generator)

    return loss


def _plain(inputs: Inputs, cell: Cell) -> Loss:
    """Plain MAE with one encoder for both modalities: the first half of a batch is video, the second half audio."""

    def loss(network: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        assert isinstance(network, MaskedAutoencoder)
        video, audio = inputs(rows)
        half = len(rows) // 2
        mixing_mask = torch.zeros_like(video[:, :, :1])
        mixing_mask[half:] = 1.0
        output = network(
            video, audio, mixing_mask, mask_ratio=cell.mask_ratio, noise_BL=_noise(network, video, generator)
        )
        video_target, audio_target = network.target(network.patchify(video)), network.target(network.patchify(audio))
        video_rows, audio_rows = slice(0, half), slice(half, None)
        return masked_mse(
            output.prediction_video[video_rows], video_target[video_rows], output.mask[video_rows]
        ) + masked_mse(output.prediction_audio[audio_rows], audio_target[audio_rows], output.mask[audio_rows])

    return loss


def _joint(inputs: Inputs, cell: Cell) -> Loss:
    def loss(network: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        value: Tensor = network(*inputs(rows), cell.mask_ratio, generator)
        return value

    return loss


def _contrastive(inputs: Inputs, cell: Cell) -> Loss:
    def loss(network: nn.Module, rows: Tensor, generator: Generator) -> Tensor:
        video, audio = inputs(rows)
        if cell.frame_mixup:
            frame_rows = draw_frame_rows(cell.frame_mixup, batch=len(rows), frames=video.shape[1], generator=generator)
            video, audio = take_frames(video, frame_rows), take_frames(audio, frame_rows)
        pairs = network(video, audio, mask_ratio=cell.finetune_mask, generator=generator)
        modalities = pairs.video, pairs.audio
        losses = (
            (1.0 - cell.sequence - cell.frame_weight, [modality.clip_BE for modality in modalities]),
            (cell.sequence, [sequence_vectors(modality.frames_BTE) for modality in modalities]),
            (cell.frame_weight, [frame_vectors(modality.frames_BTE) for modality in modalities]),
        )
        return torch.stack(
            [weight * info_nce(*vectors, pairs.logit_scale) for weight, vectors in losses if weight > 0]
        ).sum()

    return loss


def _contrastive_of_encoder(
    network: MaskedAutoencoder, video: Tensor, audio: Tensor, cell: Cell, generator: Generator, temperature: float = 0.1
) -> Tensor:
    unit = []
    for images in (video, audio):
        noise = _noise(network, images, generator)
        features, _ = tower_features(network.encoder, images, network.patch, mask_ratio=cell.mask_ratio, noise=noise)
        # Normalized with the statistics of the batch, as in the heads of the retriever.
        features = (features - features.mean(0)) * torch.rsqrt(features.var(0, correction=0) + 1e-5)
        unit.append(nn.functional.normalize(features, dim=-1))
    return info_nce(unit[0], unit[1], 1.0 / temperature)


def _noise(network: MaskedAutoencoder, video: Tensor, generator: Generator) -> Tensor:
    batch, frames, _, height, width = video.shape
    tokens = strip_grid(height, width, frames, network.patch).tokens
    return torch.rand(batch, tokens, generator=generator, device=video.device)


def _size(video: Tensor) -> dict[str, int]:
    return {"frames": video.shape[1], "height": video.shape[3], "width": video.shape[4]}
