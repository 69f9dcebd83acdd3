"""Pre-training: the masked autoencoder reconstructs frames and mel spectrograms from their masked mix (fuse, then separate)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import AugmentSettings, ClipSettings, MixerSettings, PretrainSettings, preset
from cmmixer.config.base import pick
from cmmixer.config.fields import accepts_settings
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.statistics import measure_statistics
from cmmixer.evaluation.reconstruct import separate
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.mixer import draw_mixing_mask
from cmmixer.models.patches import strip_grid
from cmmixer.progress import NoProgress, Progress
from cmmixer.train.distributed import make_fabric
from cmmixer.train.inputs import StepRNG, TrainingInputs
from cmmixer.train.log import TrainingResult, describe_data, summarize
from cmmixer.train.loop import fit
from cmmixer.train.resume import Run
from cmmixer.types import Batch
from cmmixer.version import __version__


class PretrainTask:
    """Masked autoencoding of mixed clips: reconstructs both unmixed strips from the visible patches of the mix."""

    title = "pre-training"
    default_blr = 1.5e-4  # MAE, arXiv 2111.06377, table 8

    def __init__(self, metadata: Metadata, settings: PretrainSettings) -> None:
        network = checkpoint.build(metadata, settings.seed)
        assert isinstance(network, MaskedAutoencoder)
        self.network: nn.Module = network
        self.metadata = metadata
        self.clip = metadata.clip
        self.patch = metadata.model.patch
        self.mixer = pick(MixerSettings, settings)
        self.mask_ratio = settings.mask_ratio
        self.inputs = TrainingInputs(metadata.clip, metadata.statistics, pick(AugmentSettings, settings))

    def losses(self, network: nn.Module, batch: Batch, rng: StepRNG) -> dict[str, Tensor]:
        """Returns the mean squared errors on the masked patches: the weighted sum, and each modality alone."""
        video_BTCHW, audio_BTCHW = self.inputs(batch, rng)
        mixing_mask_BT1HW, noise_BL = self.draw_mixing_mask(rng), self.draw_noise(rng)
        output = network(video_BTCHW, audio_BTCHW, mixing_mask_BT1HW, mask_ratio=self.mask_ratio, noise_BL=noise_BL)
        return {"loss": output.loss, "loss_video": output.loss_video, "loss_audio": output.loss_audio}

    def reconstruction_image(self, batch: Batch, rng: StepRNG) -> Tensor | None:
        """Returns an image of the first clip, uint8 [H, W, 3]: frames, mel spectrograms, mix, mask and both reconstructions."""
        assert isinstance(self.network, MaskedAutoencoder)
        first = Batch(batch.ids[:1], batch.labels[:1], batch.video_BTCHW[:1], batch.audio_BTN[:1])
        mixing_mask_BT1HW, noise_BL = self.draw_mixing_mask(rng)[:1], self.draw_noise(rng)[:1]
        frontend = self.inputs.frontend
        return separate(self.network, frontend, first, mixing_mask_BT1HW, self.mask_ratio, noise_BL).sheet()

    def draw_mixing_mask(self, rng: StepRNG) -> Tensor:
        """Draws the audio's share of every pixel for the clips of this process, [B, T, 1, H, W]."""
        clip = self.clip
        return draw_mixing_mask(
            self.mixer,
            batch=rng.global_batch,
            frames=clip.frames,
            height=clip.height,
            width=clip.width,
            patch=self.patch,
            generator=rng.device_generator,
        )[rng.rows]

    def draw_noise(self, rng: StepRNG) -> Tensor:
        """Draws the noise of the mask for the clips of this process, [B, L]; the tokens with the least noise stay visible."""
        tokens = strip_grid(self.clip.height, self.clip.width, self.clip.frames, self.patch).tokens
        generator = rng.device_generator
        return torch.rand(rng.global_batch, tokens, generator=generator, device=generator.device)[rng.rows]


@accepts_settings(PretrainSettings)
def pretrain(
    settings: PretrainSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> TrainingResult:
    """Pre-trains the masked autoencoder; the same call resumes a run that was interrupted.

    Args:
        settings: settings of the command.
        progress: receives the progress.
        dataset: the training clips, instead of those in `settings.data`.

    Raises:
        InputError: the data, the settings or the run's folder cannot be used.
        NonFiniteError: a step was not finite.
    """
    progress = progress or NoProgress()
    fabric = make_fabric(settings)
    clip = settings.clip_settings(settings.preset)
    if dataset is None:
        dataset = open_clips(settings, clip, workers=settings.num_workers, progress=progress)
    with Run.open(settings, fabric, clips=len(dataset), kind="mae") as run:
        # A resumed run keeps its statistics, even if the data has changed since.
        metadata = run.metadata or _new_metadata(settings, clip, dataset)
        fit(PretrainTask(metadata, settings), dataset, run, fabric, progress)
        return summarize(run, dataset, fabric)


def _new_metadata(settings: PretrainSettings, clip: ClipSettings, dataset: ClipDataset) -> Metadata:
    return Metadata(
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
