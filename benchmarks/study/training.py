"""What a cell does: pre-train as its row says, fine-tune and rank as all rows do.

Everything is drawn from the cell's seed. Films lie on the device, so no file and no codec is met on the way.

Letters: B clips of a batch, N films, E length of an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from benchmarks.speed.flops import counted
from benchmarks.study.budgets import Budget
from benchmarks.study.cavmae import ContrastiveAutoencoder
from benchmarks.study.cells import Cell
from benchmarks.study.videos import Films, Inputs, unpaired
from cmmixer.config import preset
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import NonFiniteError, SettingsError
from cmmixer.evaluation.metrics import retrieval_metrics
from cmmixer.models.heads import tower_features
from cmmixer.models.losses import frame_vectors, info_nce, sequence_vectors
from cmmixer.models.mae import MaskedAutoencoder, masked_mse
from cmmixer.models.mixer import draw_share
from cmmixer.models.pair_mixup import draw_frame_rows, take_frames
from cmmixer.models.patches import strip_grid
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.train.optim import adamw, step_size
from cmmixer.types import Statistics

EMBED_DIM = 128
WARMUP = 0.1
EVALUATION_BATCH = 100
# Films of different seeds share nothing.
TRAIN_SEED, SOUND_SEED, PAIRS_SEED, GALLERY_SEED = 1, 2, 3, 1000
# Pairs from whose features heads start; more change the correlations little.
CANONICAL_PAIRS = 2000

Loss = Callable[[nn.Module, Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Material:
    """What every cell of a regime is given.

    Attributes:
        pool: films to pre-train on; regime `pools`: pictures and sounds that do not belong together.
        pairs: films to fine-tune on.
        gallery: films to rank.
        statistics: measured on `pool`.

    Raises:
        SettingsError: a film to learn from is in the gallery too.
    """

    pool: Films
    pairs: Films
    gallery: Films
    statistics: Statistics

    def __post_init__(self) -> None:
        both = set(self.gallery.sources) & {*self.pool.sources, *self.pool.sound_sources, *self.pairs.sources}
        if both:
            raise SettingsError(f"{len(both)} films are both learnt from and in the gallery")

    @classmethod
    def of(cls, regime: str, budget: Budget, rendered: Callable[[int, int], Films]) -> Material:
        """What a regime is given; `rendered(count, seed)` makes the films."""
        gallery = rendered(budget.gallery, GALLERY_SEED)
        if regime == "pairs":
            films = rendered(budget.films, TRAIN_SEED)
            return cls(films, films, gallery, films.statistics())
        pool = unpaired(rendered(budget.pool, TRAIN_SEED), rendered(budget.pool, SOUND_SEED))
        return cls(pool, rendered(budget.pairs, PAIRS_SEED), gallery, pool.statistics())


class Spent(NamedTuple):
    """What a stage came to.

    Attributes:
        loss: mean of the last tenth of the steps; None without steps.
        teraflop: floating-point operations of its matrix products, counted in the first step.
    """

    loss: float | None
    teraflop: float


def run_cell(cell: Cell, material: Material, budget: Budget, seed: int, told: Callable[[str], None]) -> dict[str, Any]:
    """Metrics of one cell under one seed, as `retrieval_metrics` gives them, with the last pre-training loss and the cost.

    Raises:
        NonFiniteError: a step was not finite.
    """
    retriever, before, after = trained(cell, material, budget, seed, told)
    video_NE, audio_NE = embed(retriever, Inputs(material.gallery, budget.clip, material.statistics))
    metrics = retrieval_metrics(video_NE.numpy(), audio_NE.numpy(), gallery=material.gallery.sha256)
    return {**metrics, "pretrain_loss": before.loss, "teraflop": before.teraflop + after.teraflop}


def trained(
    cell: Cell, material: Material, budget: Budget, seed: int, told: Callable[[str], None]
) -> tuple[Retriever, Spent, Spent]:
    """The retriever of a cell, and what pre-training and fine-tuning came to.

    Raises:
        NonFiniteError: a step was not finite.
    """
    device = material.pool.video_NTCHW.device
    inputs = {name: Inputs(getattr(material, name), budget.clip, material.statistics) for name in ("pool", "pairs")}
    torch.manual_seed(seed)
    network, before = _pretrained(cell, inputs["pool"], budget, seed, told)
    torch.manual_seed(seed)
    retriever = Retriever(
        preset(budget.preset).model,
        budget.clip,
        material.statistics,
        embed_dim=EMBED_DIM,
        shared_tower=cell.shared_tower,
        frames_apart=cell.frames_apart,
    ).to(device)
    _start(retriever, network)
    if cell.canonical:
        _start_heads(retriever, inputs["pairs"])
    views = budget.finetune_views + round(cell.handed_on * budget.pretrain_views)
    if cell.handed_arithmetic:
        price = _cost_of_mixed(inputs["pool"], budget) / _cost_of_contrast(retriever, inputs["pool"])
        views += int(budget.pretrain_views * price)
    told(f"fine-tuning, {views} clips")
    after = optimise(
        retriever, _contrast(inputs["pairs"], cell), len(material.pairs), views=views,
        batch=budget.finetune_batch, peak=budget.finetune_lr, seed=seed,
    )  # fmt: skip
    return retriever, before, after


def optimise(network: nn.Module, loss_of: Loss, films: int, *, views: int, batch: int, peak: float, seed: int) -> Spent:
    """AdamW over `views` clips, every film as often as any other.

    Raises:
        NonFiniteError: a loss was not finite; the step was not taken.
    """
    optimizer = adamw(network, TrainingSettings())
    batch = min(batch, films)
    steps = views // batch
    device = next(network.parameters()).device
    order = Generator().manual_seed(seed)
    chance = Generator(device=device).manual_seed(seed)
    rows = torch.cat([torch.randperm(films, generator=order) for _ in range(-(-views // films))])
    last: list[Tensor] = []
    operations = 0
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = step_size(step, total_steps=steps, warmup_steps=WARMUP * steps, peak=peak, floor=0.0)
        now = partial(loss_of, network, rows[step * batch : (step + 1) * batch].to(device), chance)
        if step == 0:
            loss, operations = counted(now)
        else:
            loss = now()
            loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=False)
        if not torch.isfinite(loss.detach()):
            raise NonFiniteError(f"step {step} of {steps}: the loss is {loss.item()}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= min(0.9 * steps, steps - 1):
            last.append(loss.detach())
    return Spent(float(torch.stack(last).mean()) if last else None, steps * operations / 1e12)


def embed(retriever: Retriever, inputs: Inputs, batch: int = EVALUATION_BATCH) -> tuple[Tensor, Tensor]:
    """Unit vectors of all films, [N, E] each, on the CPU; in evaluation mode, so a batch changes nothing."""
    video, audio = embed_frames(retriever, inputs, batch)
    return video.clip_BE, audio.clip_BE


@torch.no_grad()
def embed_frames(retriever: Retriever, inputs: Inputs, batch: int = EVALUATION_BATCH) -> tuple[Embedding, Embedding]:
    """As `embed`, with the vectors of the films' frames, [N, T, E]."""
    retriever.eval()
    parts = [retriever(*inputs(rows)) for rows in _in_order(inputs, batch)]
    video, audio = (
        Embedding(
            *(torch.cat(pieces).cpu() for pieces in zip(*(getattr(pairs, sense) for pairs in parts), strict=True))
        )
        for sense in ("video", "audio")
    )
    return video, audio


def _in_order(inputs: Inputs, batch: int) -> tuple[Tensor, ...]:
    films = inputs.films
    return torch.arange(len(films), device=films.video_NTCHW.device).split(batch)


def _pretrained(
    cell: Cell, inputs: Inputs, budget: Budget, seed: int, told: Callable[[str], None]
) -> tuple[nn.Module | None, Spent]:
    if cell.pretrain == "none":
        return None, Spent(None, 0.0)
    model = preset(budget.preset).model
    network: nn.Module
    if cell.pretrain == "cavmae":
        network, loss_of = ContrastiveAutoencoder(model, norm_pix=cell.norm_pix), _joint(inputs, cell)
    else:
        network = MaskedAutoencoder(model, budget.clip, norm_pix=cell.norm_pix)
        loss_of = _plain(inputs, cell) if cell.pretrain == "plain" else _mixed(inputs, cell)
    views = round((1.0 - cell.handed_on) * budget.pretrain_views)
    told(f"pre-training, {views} clips")
    network.to(inputs.films.video_NTCHW.device)
    spent = optimise(
        network, loss_of, len(inputs.films), views=views, batch=budget.pretrain_batch,
        peak=budget.pretrain_lr, seed=seed,
    )  # fmt: skip
    return network, spent


def _start(retriever: Retriever, network: nn.Module | None) -> None:
    if isinstance(network, ContrastiveAutoencoder):
        for sense, state in network.towers().items():
            retriever.encoders[sense].load_state_dict(state)
    elif network is not None:
        retriever.start_from(network.state_dict())


def _cost_of_mixed(inputs: Inputs, budget: Budget) -> int:
    """Floating-point operations of a mixed clip."""
    network = MaskedAutoencoder(preset(budget.preset).model, budget.clip).to(inputs.films.video_NTCHW.device)
    return _cost(network, _mixed(inputs, Cell("")))


def _cost_of_contrast(retriever: Retriever, inputs: Inputs) -> int:
    """Floating-point operations of a clip in the contrast; the retriever stays as it is."""
    return _cost(copy.deepcopy(retriever), _contrast(inputs, Cell("")))


def _cost(network: nn.Module, loss_of: Loss) -> int:
    rows = torch.arange(2, device=next(network.parameters()).device)
    return counted(lambda: loss_of(network, rows, Generator(device=rows.device).manual_seed(0)))[1]


@torch.no_grad()
def _start_heads(retriever: Retriever, inputs: Inputs) -> None:
    found: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for rows in _in_order(inputs, EVALUATION_BATCH)[: CANONICAL_PAIRS // EVALUATION_BATCH]:
        for sense, pictures in zip(found, inputs(rows), strict=True):
            found[sense].append(retriever.features(sense, pictures))
    retriever.start_heads(torch.cat(found["video"]), torch.cat(found["audio"]))


def _mixed(inputs: Inputs, cell: Cell) -> Loss:
    """Fuse, then separate; with `contrast`, a contrastive term of the same encoder's view of each sense alone beside it."""

    def loss(network: nn.Module, rows: Tensor, chance: Generator) -> Tensor:
        assert isinstance(network, MaskedAutoencoder)
        video, audio = inputs(rows)
        share = draw_share(cell.mixer, batch=len(rows), generator=chance, patch=network.patch, **_size(video))
        output = network(video, audio, share, mask_ratio=cell.mask_ratio, noise_BL=_noise(network, video, chance))
        if not cell.contrast:
            return output.loss
        return output.loss + cell.contrast * _contrast_of_encoder(network, video, audio, cell, chance)

    return loss


def _plain(inputs: Inputs, cell: Cell) -> Loss:
    """Each sense alone through the same encoder: one half of a batch gives its pictures, the other its sounds."""

    def loss(network: nn.Module, rows: Tensor, chance: Generator) -> Tensor:
        assert isinstance(network, MaskedAutoencoder)
        video, audio = inputs(rows)
        half = len(rows) // 2
        share = torch.zeros_like(video[:, :, :1])
        share[half:] = 1.0
        output = network(video, audio, share, mask_ratio=cell.mask_ratio, noise_BL=_noise(network, video, chance))
        video_target, audio_target = network.target(network.patches(video)), network.target(network.patches(audio))
        seen, heard = slice(0, half), slice(half, None)
        return masked_mse(output.prediction_video[seen], video_target[seen], output.mask[seen]) + masked_mse(
            output.prediction_audio[heard], audio_target[heard], output.mask[heard]
        )

    return loss


def _joint(inputs: Inputs, cell: Cell) -> Loss:
    def loss(network: nn.Module, rows: Tensor, chance: Generator) -> Tensor:
        value: Tensor = network(*inputs(rows), cell.mask_ratio, chance)
        return value

    return loss


def _contrast(inputs: Inputs, cell: Cell) -> Loss:
    def loss(network: nn.Module, rows: Tensor, chance: Generator) -> Tensor:
        video, audio = inputs(rows)
        if cell.pair_mix:
            taken = draw_frame_rows(cell.pair_mix, batch=len(rows), frames=video.shape[1], generator=chance)
            video, audio = take_frames(video, taken), take_frames(audio, taken)
        pairs = network(video, audio, mask_ratio=cell.finetune_mask, generator=chance)
        senses = pairs.video, pairs.audio
        losses = (
            (1.0 - cell.sequence - cell.frame_weight, [sense.clip_BE for sense in senses]),
            (cell.sequence, [sequence_vectors(sense.frames_BTE) for sense in senses]),
            (cell.frame_weight, [frame_vectors(sense.frames_BTE) for sense in senses]),
        )
        return torch.stack([weight * info_nce(*both, pairs.logit_scale) for weight, both in losses if weight > 0]).sum()

    return loss


def _contrast_of_encoder(
    network: MaskedAutoencoder, video: Tensor, audio: Tensor, cell: Cell, chance: Generator, temperature: float = 0.1
) -> Tensor:
    unit = []
    for pictures in (video, audio):
        noise = _noise(network, pictures, chance)
        features, _ = tower_features(network.encoder, pictures, network.patch, mask_ratio=cell.mask_ratio, noise=noise)
        # The batch's own statistics, as the retriever's heads use them.
        features = (features - features.mean(0)) * torch.rsqrt(features.var(0, correction=0) + 1e-5)
        unit.append(nn.functional.normalize(features, dim=-1))
    return info_nce(unit[0], unit[1], 1.0 / temperature)


def _noise(network: MaskedAutoencoder, video: Tensor, chance: Generator) -> Tensor:
    batch, frames, _, height, width = video.shape
    tokens = strip_grid(height, width, frames, network.patch).tokens
    return torch.rand(batch, tokens, generator=chance, device=video.device)


def _size(video: Tensor) -> dict[str, int]:
    return {"frames": video.shape[1], "height": video.shape[3], "width": video.shape[4]}
