"""`cmmixer inspect`: a page of what a run sees and gives back (pretrain), or of who it puts next to whom (finetune)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.text import Text

from cmmixer import checkpoint
from cmmixer.atomic import explain_full_disk, write_atomically
from cmmixer.config import InspectSettings
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.loading import collate
from cmmixer.data.skips import SkipReport
from cmmixer.embedding import device_named
from cmmixer.errors import DataError
from cmmixer.evaluation.reconstruct import Separator
from cmmixer.inspecting.neighbours import neighbour_sheets
from cmmixer.inspecting.separation import distances_of, separation_sheet
from cmmixer.progress import NoProgress, Progress
from cmmixer.report.sheets import Sheet, write_sheets
from cmmixer.types import Clip

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
