"""Pre-training: frames and mel pictures are mixed, masked, and given back apart (fuse, then separate)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import AugmentSettings, ClipSettings, MixerSettings, PretrainSettings, preset
from cmmixer.config.base import pick
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.statistics import measure_statistics
from cmmixer.evaluation.reconstruct import separate
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.mixer import draw_share
from cmmixer.models.patches import strip_grid
from cmmixer.progress import NoProgress, Progress
from cmmixer.train.distributed import make_fabric
from cmmixer.train.inputs import Chance, TrainingInputs
from cmmixer.train.log import TrainingResult, describe_data, finish
from cmmixer.train.loop import fit
from cmmixer.train.resume import clips_per_process, goes_on
from cmmixer.types import Batch
from cmmixer.version import __version__


class PretrainTask:
    """Reconstruct both clean strips from the masked mix."""

    title = "pre-training"
    default_blr = 1.5e-4  # MAE, arXiv 2111.06377, table 8

    def __init__(self, card: Card, settings: PretrainSettings) -> None:
        network = checkpoint.build(card, settings.seed)
        assert isinstance(network, MaskedAutoencoder)
        self.network: nn.Module = network
        self.card = card
        self.clip = card.clip
        self.patch = card.model.patch
        self.mixer = pick(MixerSettings, settings)
        self.mask_ratio = settings.mask_ratio
        self.inputs = TrainingInputs(card.clip, card.statistics, pick(AugmentSettings, settings))

    def losses(self, network: nn.Module, batch: Batch, chance: Chance) -> dict[str, Tensor]:
        """Mean squared error on the masked patches: together, and each modality alone."""
        video, audio = self.inputs(batch, chance)
        output = network(video, audio, self.share(chance), mask_ratio=self.mask_ratio, noise_BL=self.noise(chance))
        return {"loss": output.loss, "loss_video": output.loss_video, "loss_audio": output.loss_audio}

    def picture(self, batch: Batch, chance: Chance) -> Tensor | None:
        """Frames, mel, mixed, masked and both reconstructions of the first clip, uint8 [H, W, 3]."""
        assert isinstance(self.network, MaskedAutoencoder)
        first = Batch(batch.ids[:1], batch.labels[:1], batch.video_BTCHW[:1], batch.audio_BTN[:1])
        share, noise = self.share(chance)[:1], self.noise(chance)[:1]
        return separate(self.network, self.inputs.frontend, first, share, self.mask_ratio, noise).sheet()

    def share(self, chance: Chance) -> Tensor:
        """[B, T, 1, H, W]: how much of every pixel comes from the sound, under this step's draws."""
        clip = self.clip
        return draw_share(
            self.mixer,
            batch=chance.batch,
            frames=clip.frames,
            height=clip.height,
            width=clip.width,
            patch=self.patch,
            generator=chance.device,
        )[chance.rows]

    def noise(self, chance: Chance) -> Tensor:
        """[B, L]: the tokens of least noise stay visible."""
        tokens = strip_grid(self.clip.height, self.clip.width, self.clip.frames, self.patch).tokens
        return torch.rand(chance.batch, tokens, generator=chance.device, device=chance.device.device)[chance.rows]


def pretrain(
    settings: PretrainSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> TrainingResult:
    """Pre-trains the masked autoencoder; a run that was killed is continued by the same call.

    Args:
        settings: of the command.
        progress: told how it goes on.
        dataset: clips, if they are not to be read from `settings.data`.

    Raises:
        InputError: the data, the settings or the run's folder cannot be used.
        NonFiniteError: a step was not finite.
    """
    progress = progress or NoProgress()
    fabric = make_fabric(settings)
    clip = settings.clip_settings(settings.preset)
    if dataset is None:
        dataset = open_clips(settings, clip, workers=settings.num_workers, progress=progress)
    clips_per_process(settings, fabric.world_size, len(dataset))  # too few are refused before anything is measured
    card = _continued_card(settings) or _new_card(settings, clip, dataset)
    folder = fit(PretrainTask(card, settings), dataset, settings, fabric, progress)
    return finish(folder, dataset, fabric)


def _continued_card(settings: PretrainSettings) -> Card | None:
    """The card of the run that is there already: its statistics hold to the end."""
    return checkpoint.load_card(settings.out) if goes_on(settings) else None


def _new_card(settings: PretrainSettings, clip: ClipSettings, dataset: ClipDataset) -> Card:
    return Card(
        kind="mae",
        model=preset(settings.preset).model,
        clip=clip,
        statistics=measure_statistics(dataset, clip, seed=settings.seed),
        options={
            "norm_pix": settings.norm_pix,
            "video_weight": settings.video_weight,
            "audio_weight": settings.audio_weight,
            "interleave": settings.interleave,
        },
        settings=dataclasses.asdict(settings),
        data=describe_data(settings.data, dataset),
        version=__version__,
    )
