"""`cmmixer inspect`: a page of what a run sees and gives back (pretrain), or of who it puts next to whom (finetune).

Who lies next to whom: the nearest sounds of pictures and pictures of sounds, and a map of both.

Letters: N clips, E length of an embedding, H x W pixels.

What an autoencoder sees of a film and gives back, as a sheet, as sounds, and in decibels.

Letters: B clips, T frames, C channels, H x W pixels, N samples of a window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.text import Text
from sklearn.decomposition import PCA
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.analysis.plots import Neighbours, StripRow, map_picture, neighbours_picture, strip_picture
from cmmixer.analysis.report import Listen, Sheet, wav, write_sheets
from cmmixer.config import ClipSettings, InspectSettings
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.loader import collate
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError
from cmmixer.evaluation.reconstruct import Separator, give_back
from cmmixer.media.mel import sound_of_mel
from cmmixer.progress import NoProgress, Progress
from cmmixer.runtime import device_named
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.types import Batch, Clip

HITS = 5

_CAPTION = 16


def neighbour_sheets(
    clips: Sequence[Clip],
    mels: Sequence[NDArray[np.floating]],
    video_NE: NDArray[np.float32],
    audio_NE: NDArray[np.float32],
    queries: Sequence[int],
) -> list[Sheet]:
    """One sheet each way, and the map.

    Args:
        clips: N, with pictures.
        mels: mel pictures of each clip's sound, side by side, [H, T*W].
        video_NE, audio_NE: their unit vectors.
        queries: which clips ask.
    """
    scores = video_NE.astype(np.float64) @ audio_NE.T.astype(np.float64)
    pictures = [_middle_frame(clip) for clip in clips]
    sheets = []
    for words, asked, found, scores_NN in (
        ("Pictures and their nearest sounds", pictures, mels, scores),
        ("Sounds and their nearest pictures", mels, pictures, scores.T),
    ):
        rows = []
        for query in queries:
            best = np.argsort(-scores_NN[query], kind="stable")[:HITS].tolist()
            captions = [_short(clips[query]), *(f"{scores_NN[query, one]:.2f} {_short(clips[one])}" for one in best)]
            partner = best.index(query) if query in best else None
            rows.append(Neighbours(asked[query], [found[one] for one in best], captions, partner))
        own = sum(row.partner is not None for row in rows)
        told = f"Each row: a query and its {HITS} nearest of {len(clips)}, best first. Framed in green: its own ({own} of {len(rows)} found)."
        sheets.append(Sheet(words, told, neighbours_picture(rows), told))
    both = np.concatenate([video_NE, audio_NE]).astype(np.float64)
    pca = PCA(n_components=2).fit(both)
    labels = [clip.label or "no label" for clip in clips]
    share = 100 * float(pca.explained_variance_ratio_.sum())
    told = f"The vectors of {len(clips)} clips in their two directions of largest spread, which hold {share:.0f} % of it. Round: pictures, pointed: sounds; colour: label."
    marks = ["video"] * len(clips) + ["audio"] * len(clips)
    return [*sheets, Sheet("A map of both senses", told, map_picture(pca.transform(both), labels * 2, marks), told)]


def _middle_frame(clip: Clip) -> NDArray[np.uint8]:
    assert clip.frames is not None
    middle: NDArray[np.uint8] = clip.frames.pixels_THWC[len(clip.frames.pixels_THWC) // 2]
    return middle


def _short(clip: Clip) -> str:
    """The file's name without its ending, cut to what fits over a picture."""
    stem = clip.id.rpartition("#")[0].rpartition("/")[2].rpartition(".")[0]
    return stem if len(stem) <= _CAPTION else f"{stem[: _CAPTION // 2]}…{stem[-_CAPTION // 2 + 1 :]}"


@dataclass(frozen=True)
class Distances:
    """Mean absolute difference to the clean mel picture, in decibels.

    Attributes:
        mixed: of the mix, taken for a mel picture.
        separated: of what comes back.
        mixed_covered, separated_covered: the same where the mix holds more of the picture than of the sound, where alone the
            sound has to be inferred; not a number where a clip has no such place.
    """

    mixed: float
    separated: float
    mixed_covered: float
    separated_covered: float

    @classmethod
    def of(cls, mels: Sequence[Tensor], share_THW: Tensor) -> Self:
        """Of one clip's mel pictures [T, H, W]: clean, mixed, separated."""
        clean_THW, mixed_THW, separated_THW = mels
        covered = share_THW < 0.5
        errors = (mixed_THW - clean_THW).abs(), (separated_THW - clean_THW).abs()
        return cls(*(float(error.mean()) for error in errors), *(float(error[covered].mean()) for error in errors))


def mel_decibels(separator: Separator, batch: Batch, share: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mel pictures of the clean sound, of the mix taken as one, and of what comes back, [B, T, H, W] each."""
    video, audio = separator.frontend.video(batch.video_BTCHW), separator.frontend.audio(batch.audio_BTN)
    back = give_back(separator.network, video, audio, share, mask_ratio=separator.mask_ratio, noise_BL=noise)
    statistics = separator.card.statistics
    clean, mixed, separated = (
        each.mean(2) * statistics.mel_std + statistics.mel_mean
        for each in (audio, torch.lerp(video, audio, share), back.audio)
    )
    return clean, mixed, separated


def distances_of(separator: Separator, clip: Clip, share: Tensor, noise: Tensor) -> Distances:
    """Of one clip under one draw."""
    mels = mel_decibels(separator, collate([clip]).to(separator.device), share, noise)
    return Distances.of([mel[0] for mel in mels], share[0, :, 0])


def separation_sheet(separator: Separator, clip: Clip, share: Tensor, noise: Tensor) -> Sheet:
    """Six strips, and the sound as it is, as its mel picture keeps it, mixed, and given back."""
    batch = collate([clip]).to(separator.device)
    strips = separator.separation(batch, share, noise)
    mels = [each[0] for each in mel_decibels(separator, batch, share, noise)]
    distance = Distances.of(mels, share[0, :, 0])
    words = (
        f"The mix is {distance.mixed:.1f} dB from the clean mel picture on average, what comes back {distance.separated:.1f} dB; where the mix shows the "
        f"picture instead of the sound, {distance.mixed_covered:.1f} and {distance.separated_covered:.1f} dB."
    )
    geometry = separator.card.clip
    rate = geometry.sample_rate_hz
    names = ("as its mel picture keeps it", "the mix, taken for a mel picture", "given back")
    sounds = [Listen("the sound itself, at the frames' instants", wav(_as_windows(clip), rate))]
    sounds += [
        Listen(name, wav(_played(decibels.cpu().numpy(), geometry), rate))
        for name, decibels in zip(names, mels, strict=True)
    ]
    rows = [StripRow(caption, pictures.numpy()) for caption, pictures in strips.rows().items()]
    return Sheet(
        clip.id, words, strip_picture(rows), "Frames, mel pictures, mix, masked mix, and both given back.", sounds
    )


def _as_windows(clip: Clip) -> NDArray[np.int16]:
    assert clip.sound is not None
    return clip.sound.samples_TN.reshape(-1)


def _played(decibels_THW: NDArray[np.floating], clip: ClipSettings) -> NDArray[np.float32]:
    """The windows' sounds one after the other."""
    return sound_of_mel(decibels_THW, clip).reshape(-1)


BATCH = 32


@dataclass(frozen=True)
class InspectReport:
    """What was written.

    Attributes:
        page: to open in a browser.
        figures: JSON values: clips, and for an autoencoder the distances in decibels, mixed and separated.
        skips: files that could not be used.
    """

    page: Path
    figures: dict[str, Any]
    skips: SkipReport

    def as_json(self) -> dict[str, Any]:
        return {"page": str(self.page), **self.figures, "skipped": self.skips.counts}

    def render(self) -> Text:
        """Where it is, and the distances in one line."""
        lines = [f"open {self.page} in a browser ({self.figures['clips']} clips)"]
        if "mixed_db" in self.figures:
            lines.append(
                f"sound: the mix is {self.figures['mixed_db']:.1f} dB from the clean mel picture, what comes back "
                f"{self.figures['separated_db']:.1f} dB (mean absolute difference); where the mix shows the picture instead, "
                f"{self.figures['mixed_covered_db']:.1f} and {self.figures['separated_covered_db']:.1f} dB"
            )
        if self.skips.total:
            lines.append(self.skips.summary)
        return Text("\n".join(lines))


def inspect(
    settings: InspectSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> InspectReport:
    """Writes `inspect.html`, its pictures and sounds as files, and `inspect.json` into a folder.

    Args:
        settings: of the command.
        progress: told how it goes on.
        dataset: clips, if they are not to be read from `settings.data`.

    Raises:
        InputError: the run or the data cannot be used.
    """
    progress = progress or NoProgress()
    card = checkpoint.load_card(settings.model, "retriever", "mae")
    device = device_named(settings.device)
    if dataset is None:
        dataset = open_clips(settings, card.clip, workers=settings.num_workers, progress=progress)
    clips = _some_clips(dataset, settings.clips)
    shown = [(2 * number + 1) * len(clips) // (2 * settings.sheets) for number in range(settings.sheets)]
    shown = sorted({min(place, len(clips) - 1) for place in shown})
    figures: dict[str, Any] = {
        "model": settings.model,
        "model_id": card.model_id,
        "kind": card.kind,
        "clips": len(clips),
    }
    if card.kind == "mae":
        sheets, found = _separated(settings, device, clips, shown, progress)
        lead = (
            "Frames and the mel pictures of their sound are mixed and mostly hidden; from the rest both are given back. A mel "
            "picture keeps no phase, so every sound made from one is a little rough (Griffin-Lim)."
        )
        figures |= found
    else:
        sheets, lead = _neighbours(settings, device, clips, shown, progress), "What the towers put next to one another."
    out = Path(settings.out)
    with explain_full_disk(out, DataError):
        out.mkdir(parents=True, exist_ok=True)
        for number, sheet in enumerate(sheets):
            write_atomically(out / f"sheet-{number}.png", sheet.png)
            for place, sound in enumerate(sheet.sounds):
                write_atomically(out / f"sheet-{number}-sound-{place}.wav", sound.wav)
        write_atomically(out / "inspect.json", json.dumps(figures, indent=1) + "\n")
        page = write_sheets(out / "inspect.html", f"What {Path(settings.model).name} does", lead, sheets)
    return InspectReport(page, figures, dataset.skips)


def _some_clips(dataset: ClipDataset, most: int) -> list[Clip]:
    """Clips evenly from the whole of the data; those that cannot be decoded are left out."""
    count = min(most, len(dataset))
    places = sorted({(2 * number + 1) * len(dataset) // (2 * count) for number in range(count)})
    clips = [clip for clip in dataset.read(places) if isinstance(clip, Clip)]
    if not clips:
        raise DataError(f"none of {len(places)} clips can be decoded")
    return clips


def _separated(
    settings: InspectSettings, device: torch.device, clips: Sequence[Clip], shown: Sequence[int], progress: Progress
) -> tuple[list[Sheet], dict[str, Any]]:
    separator = Separator(settings.model, device)
    shares, noises = separator.draws(len(clips), settings.seed)
    draws = [(shares[row : row + 1], noises[row : row + 1]) for row in range(len(clips))]
    progress.start(len(clips), "separating")
    distances = []
    for clip, draw in zip(clips, draws, strict=True):
        distances.append(distances_of(separator, clip, *draw))
        progress.advance()
    sheets = []
    progress.start(len(shown), "drawing sheets and making sounds")
    for row in shown:
        sheets.append(separation_sheet(separator, clips[row], *draws[row]))
        progress.advance()
    means = {
        f"{name}_db": float(np.nanmean([getattr(each, name) for each in distances]))
        for name in ("mixed", "separated", "mixed_covered", "separated_covered")
    }
    return sheets, {
        **means,
        "distances_db": {clip.id: _json(asdict(each)) for clip, each in zip(clips, distances, strict=True)},
    }


def _neighbours(
    settings: InspectSettings, device: torch.device, clips: Sequence[Clip], shown: Sequence[int], progress: Progress
) -> list[Sheet]:
    if len(clips) < 2:
        raise DataError(f"{settings.data}: only one clip; neighbours need two")
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


def _json(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in values.items()}
