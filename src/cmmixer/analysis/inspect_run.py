"""`cmmixer inspect`: a page that shows what a run does.

For an autoencoder: its inputs and reconstructions, with sounds to play and distances in decibels.
For a retriever: nearest neighbours across the modalities, and a map of the embedding space.

Letters: N clips, E length of an embedding, B clips of a batch, T frames, H x W pixels, N samples of a window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import librosa  # noqa: F401  # `invert_mel` needs it; imported here, its absence is reported before any work
import numpy as np
import torch
from numpy.typing import NDArray
from rich.text import Text
from sklearn.decomposition import PCA
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.analysis.plots import Neighbours, StripRow, map_plot, neighbours_plot, strip_image
from cmmixer.analysis.report import Sheet, Sound, wav, write_sheets
from cmmixer.config import ClipSettings, InspectSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.loader import collate
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError
from cmmixer.evaluation.reconstruct import Separator, reconstruct
from cmmixer.media.mel import invert_mel
from cmmixer.models.mixer import blend
from cmmixer.progress import NoProgress, Progress
from cmmixer.runtime import select_device
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.types import Batch, Clip

BATCH = 32
HITS = 5
# Characters of a caption that fit over an image.
_CAPTION_LENGTH = 16


@dataclass(frozen=True)
class InspectReport:
    """Where the page is, and its figures.

    Attributes:
        page: HTML file to open in a browser.
        figures: JSON values: number of clips, and for an autoencoder the distances in decibels, mixed and separated.
        skips: files that could not be used.
    """

    page: Path
    figures: dict[str, Any]
    skips: SkipReport

    def as_json(self) -> dict[str, Any]:
        return {"page": str(self.page), **self.figures, "skipped": self.skips.counts}

    def render(self) -> Text:
        """Returns the page's path and the distances in one line."""
        lines = [f"open {self.page} in a browser ({self.figures['clips']} clips)"]
        if "mixed_db" in self.figures:
            lines.append(
                f"audio, mean absolute difference to the clean mel spectrogram: mix {self.figures['mixed_db']:.1f} dB, reconstruction "
                f"{self.figures['separated_db']:.1f} dB; where the mix shows the video instead: "
                f"{self.figures['mixed_covered_db']:.1f} and {self.figures['separated_covered_db']:.1f} dB"
            )
        if self.skips.total:
            lines.append(self.skips.summary)
        return Text("\n".join(lines))


@accepts_settings(InspectSettings)
def inspect(
    settings: InspectSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> InspectReport:
    """Writes `inspect.html`, its images and sounds as files, and `inspect.json` into a folder.

    Args:
        settings: of the command.
        progress: receives the progress.
        dataset: clips to use instead of those in `settings.data`.

    Raises:
        InputError: the run or the data cannot be used.
    """
    progress = progress or NoProgress()
    metadata = checkpoint.load_metadata(settings.model, "retriever", "mae")
    device = select_device(settings.device)
    if dataset is None:
        dataset = open_clips(settings, metadata.clip, workers=settings.num_workers, progress=progress)
    clips = _some_clips(dataset, settings.clips)
    shown = [(2 * number + 1) * len(clips) // (2 * settings.sheets) for number in range(settings.sheets)]
    shown = sorted({min(place, len(clips) - 1) for place in shown})
    figures: dict[str, Any] = {
        "model": settings.model,
        "model_id": metadata.model_id,
        "kind": metadata.kind,
        "clips": len(clips),
    }
    if metadata.kind == "mae":
        sheets, distances = _separation_sheets(settings, device, clips, shown, progress)
        lead = (
            "Frames and the mel spectrograms of their sound are mixed and mostly masked. From the rest, the network reconstructs both. "
            "A mel spectrogram has no phase, so every sound made from one is a little rough (Griffin-Lim)."
        )
        figures |= distances
    else:
        sheets = _retrieval_sheets(settings, device, clips, shown, progress)
        lead = "Nearest neighbours across the modalities, and a map of the embedding space."
    out = Path(settings.out)
    with explain_full_disk(out, DataError):
        out.mkdir(parents=True, exist_ok=True)
        for number, sheet in enumerate(sheets):
            write_atomically(out / f"sheet-{number}.png", sheet.png)
            for place, sound in enumerate(sheet.sounds):
                write_atomically(out / f"sheet-{number}-sound-{place}.wav", sound.wav)
        write_atomically(out / "inspect.json", json.dumps(figures, indent=1) + "\n")
        page = write_sheets(out / "inspect.html", f"Inspection of {Path(settings.model).name}", lead, sheets)
    return InspectReport(page, figures, dataset.skips)


def _some_clips(dataset: ClipDataset, most: int) -> list[Clip]:
    """Takes clips evenly from the whole data set and drops those that cannot be decoded."""
    count = min(most, len(dataset))
    places = sorted({(2 * number + 1) * len(dataset) // (2 * count) for number in range(count)})
    clips = [clip for clip in dataset.read(places) if isinstance(clip, Clip)]
    if not clips:
        raise DataError(f"none of {len(places)} clips can be decoded")
    return clips


@dataclass(frozen=True)
class Distances:
    """Mean absolute differences to the clean mel spectrogram, in decibels.

    Attributes:
        mixed: of the mix, read as a mel spectrogram.
        separated: of the reconstruction.
        mixed_covered, separated_covered: the same where the mix holds more video than audio, so that the audio has to be
            inferred; NaN for a clip without such places.
    """

    mixed: float
    separated: float
    mixed_covered: float
    separated_covered: float

    @classmethod
    def of(cls, mels: Sequence[Tensor], mixing_mask_THW: Tensor) -> Self:
        """Compares the mel spectrograms [T, H, W] of one clip: clean, mixed, separated."""
        clean_THW, mixed_THW, separated_THW = mels
        covered = mixing_mask_THW < 0.5
        errors = (mixed_THW - clean_THW).abs(), (separated_THW - clean_THW).abs()
        return cls(*(float(error.mean()) for error in errors), *(float(error[covered].mean()) for error in errors))


def mel_decibels(
    separator: Separator, batch: Batch, mixing_mask_BT1HW: Tensor, noise_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mel spectrograms of the clean audio, of the mix read as one, and of the reconstruction, [B, T, H, W] each."""
    video, audio = separator.frontend.video(batch.video_BTCHW), separator.frontend.audio(batch.audio_BTN)
    back = reconstruct(
        separator.network, video, audio, mixing_mask_BT1HW, mask_ratio=separator.mask_ratio, noise_BL=noise_BL
    )
    statistics = separator.metadata.statistics
    clean, mixed, separated = (
        each.mean(2) * statistics.mel_std + statistics.mel_mean
        for each in (audio, blend(video, audio, mixing_mask_BT1HW), back.audio)
    )
    return clean, mixed, separated


def distances_of(separator: Separator, clip: Clip, mixing_mask_BT1HW: Tensor, noise_BL: Tensor) -> Distances:
    """Measures the distances of one clip under one random draw (B = 1)."""
    mels = mel_decibels(separator, collate([clip]).to(separator.device), mixing_mask_BT1HW, noise_BL)
    return Distances.of([mel[0] for mel in mels], mixing_mask_BT1HW[0, :, 0])


def separation_sheet(separator: Separator, clip: Clip, mixing_mask_BT1HW: Tensor, noise_BL: Tensor) -> Sheet:
    """Draws six strips of a clip, with four sounds: original, inverted mel spectrogram, mix and reconstruction."""
    batch = collate([clip]).to(separator.device)
    strips = separator.separation(batch, mixing_mask_BT1HW, noise_BL)
    mels = [each[0] for each in mel_decibels(separator, batch, mixing_mask_BT1HW, noise_BL)]
    distance = Distances.of(mels, mixing_mask_BT1HW[0, :, 0])
    text = (
        f"Distance to the clean mel spectrogram: mix {distance.mixed:.1f} dB, reconstruction {distance.separated:.1f} dB. Where the mix "
        f"shows the video instead of the audio: {distance.mixed_covered:.1f} and {distance.separated_covered:.1f} dB."
    )
    geometry = separator.metadata.clip
    rate = geometry.sample_rate_hz
    assert clip.sound is not None
    sounds = [Sound("original, the windows around the frames", wav(clip.sound.samples_TN.reshape(-1), rate))]
    captions = ("inverted from its mel spectrogram", "the mix, read as a mel spectrogram", "reconstructed")
    sounds += [
        Sound(caption, wav(_windows_in_a_row(decibels.cpu().numpy(), geometry), rate))
        for caption, decibels in zip(captions, mels, strict=True)
    ]
    rows = [StripRow(caption, images.numpy()) for caption, images in strips.rows().items()]
    alt = "Strips: frames, mel spectrograms, mix, masked mix, and both reconstructions."
    return Sheet(clip.id, text, strip_image(rows), alt, sounds)


def _windows_in_a_row(decibels_THW: NDArray[np.floating], clip: ClipSettings) -> NDArray[np.float32]:
    return invert_mel(decibels_THW, clip).reshape(-1)


def _separation_sheets(
    settings: InspectSettings, device: torch.device, clips: Sequence[Clip], shown: Sequence[int], progress: Progress
) -> tuple[list[Sheet], dict[str, Any]]:
    separator = Separator(settings.model, device)
    masks, noises = separator.draws(len(clips), settings.seed)
    draws = [(masks[row : row + 1], noises[row : row + 1]) for row in range(len(clips))]
    progress.start(len(clips), "separating")
    distances = []
    for clip, draw in zip(clips, draws, strict=True):
        distances.append(distances_of(separator, clip, *draw))
        progress.advance()
    sheets = []
    progress.start(len(shown), "drawing sheets and inverting mel spectrograms")
    for row in shown:
        sheets.append(separation_sheet(separator, clips[row], *draws[row]))
        progress.advance()
    means = {
        f"{name}_db": float(np.nanmean([getattr(each, name) for each in distances]))
        for name in ("mixed", "separated", "mixed_covered", "separated_covered")
    }
    return sheets, {
        **means,
        "distances_db": {clip.id: _without_nan(asdict(each)) for clip, each in zip(clips, distances, strict=True)},
    }


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _retrieval_sheets(
    settings: InspectSettings, device: torch.device, clips: Sequence[Clip], shown: Sequence[int], progress: Progress
) -> list[Sheet]:
    if len(clips) < 2:
        raise DataError(f"{settings.data}: got one clip, expected two or more to compare")
    model = checkpoint.load_retriever(settings.model, device)
    videos, audios, mels = [], [], []
    progress.start(len(clips), "embedding clips")
    for first in range(0, len(clips), BATCH):
        part = clips[first : first + BATCH]
        batch = collate(part).to(device)
        videos.append(model.embed_video(batch.video_BTCHW).clip_BE.cpu().numpy())
        audios.append(model.embed_audio(batch.audio_BTN).clip_BE.cpu().numpy())
        mels += [
            np.concatenate(list(each[:, 0]), axis=1) for each in model.frontend.decibels(batch.audio_BTN).cpu().numpy()
        ]
        progress.advance(len(part))
    return neighbour_sheets(clips, mels, np.concatenate(videos), np.concatenate(audios), shown)


def neighbour_sheets(
    clips: Sequence[Clip],
    mels: Sequence[NDArray[np.floating]],
    video_NE: NDArray[np.float32],
    audio_NE: NDArray[np.float32],
    queries: Sequence[int],
) -> list[Sheet]:
    """Draws nearest neighbours in both directions, one sheet each, and the map.

    Args:
        clips: N clips with frames.
        mels: mel spectrograms of each clip, side by side, [H, T*W].
        video_NE, audio_NE: their unit vectors.
        queries: which clips are queries.
    """
    scores_NN = video_NE.astype(np.float64) @ audio_NE.T.astype(np.float64)
    frames = [_middle_frame(clip) for clip in clips]
    return [
        _direction_sheet("Videos and their nearest sounds", clips, frames, mels, scores_NN, queries),
        _direction_sheet("Sounds and their nearest videos", clips, mels, frames, scores_NN.T, queries),
        _map_sheet(clips, np.concatenate([video_NE, audio_NE]).astype(np.float64)),
    ]


def _direction_sheet(
    title: str,
    clips: Sequence[Clip],
    query_images: Sequence[NDArray[np.generic]],
    hit_images: Sequence[NDArray[np.generic]],
    scores_NN: NDArray[np.float64],
    queries: Sequence[int],
) -> Sheet:
    rows = []
    for query in queries:
        best = np.argsort(-scores_NN[query], kind="stable")[:HITS].tolist()
        captions = [
            _short_name(clips[query]),
            *(f"{scores_NN[query, hit]:.2f} {_short_name(clips[hit])}" for hit in best),
        ]
        partner = best.index(query) if query in best else None
        rows.append(Neighbours(query_images[query], [hit_images[hit] for hit in best], captions, partner))
    found = sum(row.partner is not None for row in rows)
    text = (
        f"Each row: a query and its {HITS} nearest of {len(clips)}, best first. Green frame: the query's own counterpart "
        f"({found} of {len(rows)} found)."
    )
    return Sheet(title, text, neighbours_plot(rows), text)


def _map_sheet(clips: Sequence[Clip], vectors_2NE: NDArray[np.float64]) -> Sheet:
    pca = PCA(n_components=2).fit(vectors_2NE)
    labels = [clip.label or "no label" for clip in clips]
    explained = 100 * float(pca.explained_variance_ratio_.sum())
    text = (
        f"The vectors of {len(clips)} clips on their first two principal components, which explain {explained:.0f} % of the variance. "
        "Circles: videos, triangles: sounds; color: label."
    )
    modalities = ["video"] * len(clips) + ["audio"] * len(clips)
    return Sheet("A map of both modalities", text, map_plot(pca.transform(vectors_2NE), labels * 2, modalities), text)


def _middle_frame(clip: Clip) -> NDArray[np.uint8]:
    assert clip.frames is not None
    middle: NDArray[np.uint8] = clip.frames.pixels_THWC[len(clip.frames.pixels_THWC) // 2]
    return middle


def _short_name(clip: Clip) -> str:
    """Returns the file's name without its extension, shortened to fit over an image."""
    stem = clip.id.rpartition("#")[0].rpartition("/")[2].rpartition(".")[0]
    if len(stem) <= _CAPTION_LENGTH:
        return stem
    return f"{stem[: _CAPTION_LENGTH // 2]}…{stem[-_CAPTION_LENGTH // 2 + 1 :]}"
