"""The retriever: two towers that lay a clip's picture and its sound next to each other on the unit sphere.

    tokens = encoder(strip);  feature = mean of tokens;  embedding = unit(project(standardise(feature)))

The standardisation of each feature over the batch, before the projection, is decisive at small scale: without it all
features share one large component that the contrast cannot see past.

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones, D width, E = embed_dim.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from cmmixer.config.clip import ClipSettings, ModelSettings
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.heads import BatchStandardize, canonical_maps, tower_features
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import strip_grid
from cmmixer.models.vit import StripEncoder, initialise
from cmmixer.types import Statistics

# The contrast is scaled by at most 100 (CLIP, arXiv 2103.00020, 2.5).
MAX_LOGIT_SCALE = math.log(100.0)


class Embedding(NamedTuple):
    """One sense of B clips.

    Attributes:
        clip_BE: float32, unit length; what is ranked.
        frames_BTE: float32, unit length, of each frame; says where in the clip.
    """

    clip_BE: Tensor
    frames_BTE: Tensor


class Pairs(NamedTuple):
    """Both senses of B clips, and what their cosines are multiplied with (1 / temperature), a scalar."""

    video: Embedding
    audio: Embedding
    logit_scale: Tensor


class Head(nn.Module):
    """Standardise over the batch, project, unit length; frames pass with the clips' statistics."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.standardize = BatchStandardize(dim)
        self.project = Linear(dim, embed_dim, bias=False)
        self.apply(initialise)

    def forward(self, clip_BD: Tensor, frames_BTD: Tensor) -> Embedding:
        """Pooled features -> unit vectors."""
        statistics = self.standardize.statistics(clip_BD.float())
        clip_BE = self.project(self.standardize.apply_to(clip_BD.float(), statistics))
        frames_BTE = self.project(self.standardize.apply_to(frames_BTD.float(), statistics))
        return Embedding(
            functional.normalize(clip_BE.float(), dim=-1), functional.normalize(frames_BTE.float(), dim=-1)
        )


class Retriever(nn.Module):
    """Embeds the picture and the sound of clips. In evaluation mode a clip's vector does not depend on its batch."""

    def __init__(
        self,
        model: ModelSettings,
        clip: ClipSettings,
        statistics: Statistics,
        *,
        embed_dim: int = 256,
        shared_tower: bool = False,
        temperature: float = 0.07,
        interleave: bool = False,
        frames_apart: bool = False,
    ) -> None:
        super().__init__()
        strip_grid(clip.height, clip.width, clip.frames, model.patch)  # refuses pictures that do not fit the patches
        self.patch, self.interleave, self.shared_tower = model.patch, interleave, shared_tower
        self.frames_apart = frames_apart
        self.frontend = FrontEnd(clip, statistics)
        names = ("shared",) if shared_tower else ("video", "audio")
        self.encoders = nn.ModuleDict({name: StripEncoder(model) for name in names})
        self.heads = nn.ModuleDict({sense: Head(model.dim, embed_dim) for sense in ("video", "audio")})
        # Its logarithm is learnt, so that steps are relative.
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self,
        video_BTCHW: Tensor,
        audio_BTCHW: Tensor,
        *,
        mask_ratio: float = 0.0,
        noise: tuple[Tensor, Tensor] | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Embeds pairs for training.

        Args:
            video_BTCHW, audio_BTCHW: standardised frames and mel pictures.
            mask_ratio: part of the tokens dropped; 0 in evaluation.
            noise: for `mask_ratio` above 0, of video and of audio, each [B, L]; the tokens of least noise stay.
            generator: draws the noise where it is not given.

        Raises:
            ValueError: pictures that are no whole number of patches, or `mask_ratio` without noise and generator.
        """
        if self.training and self.logit_scale.requires_grad:
            # Not a clamp in the graph: beyond the limit its gradient is 0, and there would be no way back.
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if mask_ratio > 0.0 and noise is None:
            noise = self._draw_noise(video_BTCHW, generator), self._draw_noise(audio_BTCHW, generator)
        video_noise, audio_noise = (None, None) if noise is None else noise
        video = self._embed("video", video_BTCHW, mask_ratio, video_noise)
        audio = self._embed("audio", audio_BTCHW, mask_ratio, audio_noise)
        excess = (self.logit_scale.detach() - MAX_LOGIT_SCALE).clamp(min=0.0)
        return Pairs(video, audio, (self.logit_scale - excess).exp())

    @torch.no_grad()
    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """uint8 frames [B, T, 3, H, W] -> unit vectors; in evaluation mode."""
        return self._embed("video", self.frontend.video(pixels_BTCHW))

    @torch.no_grad()
    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """int16 sound windows [B, T, N] -> unit vectors; in evaluation mode."""
        return self._embed("audio", self.frontend.audio(windows_BTN))

    def tower(self, sense: str) -> StripEncoder:
        """The encoder of "video" or "audio"; one and the same where the tower is shared."""
        encoder = self.encoders["shared" if self.shared_tower else sense]
        assert isinstance(encoder, StripEncoder)
        return encoder

    def features(self, sense: str, pictures_BTCHW: Tensor) -> Tensor:
        """Standardised pictures of "video" or "audio" -> [B, D], what the tower gives for a clip before its head."""
        clip_BD, _ = self._pooled(sense, pictures_BTCHW)
        return clip_BD

    def start_heads(self, video_ND: Tensor, audio_ND: Tensor) -> None:
        """Both heads start at the canonical correlations of these pairs' features; see `models.canonical`.

        Directions beyond the width of a tower keep their random start, made as weak as the weakest of the others.
        """
        maps = canonical_maps(video_ND, audio_ND)
        for sense, rows_KD, features_ND in (("video", maps.video_KD, video_ND), ("audio", maps.audio_KD, audio_ND)):
            head = self.heads[sense]
            assert isinstance(head, Head)
            weight_ED = head.project.weight
            kept = min(len(rows_KD), len(weight_ED))
            with torch.no_grad():
                weight_ED[kept:] *= float(maps.correlations_K[kept - 1])
                weight_ED[:kept] = rows_KD[:kept].to(weight_ED)
            head.standardize.start_at(features_ND)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """All towers take the encoder of a pre-trained autoencoder.

        Args:
            weights: the autoencoder's state, or its encoder's alone.

        Raises:
            RuntimeError: a tensor is missing or of another shape.
        """
        prefix = "encoder."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        for encoder in self.encoders.values():
            encoder.load_state_dict(own or weights, strict=True)

    def _draw_noise(self, pictures_BTCHW: Tensor, generator: Generator | None) -> Tensor:
        if generator is None:
            raise ValueError("mask_ratio above 0 needs noise or a generator: chance is an argument")
        batch, frames, _, height, width = pictures_BTCHW.shape
        tokens = strip_grid(height, width, frames, self.patch).tokens
        return torch.rand(batch, tokens, generator=generator, device=generator.device).to(pictures_BTCHW.device)

    def _embed(
        self, sense: str, pictures_BTCHW: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> Embedding:
        embedding: Embedding = self.heads[sense](*self._pooled(sense, pictures_BTCHW, mask_ratio, noise))
        return embedding

    def _pooled(
        self, sense: str, pictures_BTCHW: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return tower_features(
            self.tower(sense),
            pictures_BTCHW,
            self.patch,
            self.interleave,
            apart=self.frames_apart,
            mask_ratio=mask_ratio,
            noise=noise,
        )
