"""The report of a quickstart: gathers what its steps left in their folders and fills the page.

Letters: N clips of the gallery, T frames, H x W pixels.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cmmixer import checkpoint
from cmmixer.analysis.plots import Curves, StripRow, loss_curves, mel_picture, strip_picture
from cmmixer.analysis.report import (
    Example,
    Found,
    Media,
    Picture,
    Rate,
    ReportData,
    RunFigures,
    SkippedFile,
    wav,
    write_report,
)
from cmmixer.data.loader import collate
from cmmixer.data.manifest import Entry, read_manifest
from cmmixer.data.skips import SkipReport
from cmmixer.data.store import ClipStore
from cmmixer.demo.stopwatch import took
from cmmixer.evaluation.evaluate import WAYS, Evaluation
from cmmixer.evaluation.metrics import rankings
from cmmixer.evaluation.reconstruct import Separation, Separator
from cmmixer.media.decode import Film
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.rerank import told_score
from cmmixer.types import Clip

# Searches shown each way, and hits of each.
EXAMPLES, HITS = 3, 3


def report_of_quickstart(
    out: Path,
    metrics: dict[str, Any],
    figures: Evaluation,
    control: Evaluation,
    gallery_films: str,
    commands: Sequence[str],
) -> Path:
    """Writes `report.html` into the quickstart's folder.

    Args:
        out: the quickstart's folder.
        metrics: as in metrics.json.
        figures, control: the evaluations with pre-training and from scratch.
        gallery_films: data the gallery was cut from.
        commands: the commands that do the same.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    own = metrics["data"] if not str(metrics["data"]).startswith("synthetic") else None
    library = _Library(out, gallery_films)
    data = ReportData(
        title="CMMixer: which sound belongs to which picture",
        summary=_summary(metrics, own),
        runs=[
            _run("with pre-training", figures, "mixed, masked and given back apart first; then matched"),
            _run("from scratch", control, "the same matching, same number of clips, no pre-training"),
        ],
        chance=metrics["chance"],
        candidates=metrics["candidates"],
        gallery=metrics["gallery"],
        facts={
            "learnt from": f"{metrics['train_clips']} clips",
            "tested on": f"{metrics['candidates']} clips it had never met",
            "took": took(metrics),
            "machine": f"{metrics['machine']['cores']} cores, GPU: {metrics['machine']['cuda']}",
        },
        curves=[_curves(out)],
        mixer=_mixer_picture(out, library),
        examples=_examples(figures, library),
        skipped=[SkippedFile(skip.path, skip.reason, skip.message) for skip in _skips(out)],
        settings={name: checkpoint.load_card(out / name).settings for name in ("pretrain", "finetune")},
        commands=commands,
        notes=_notes(metrics, own),
        written=metrics["date"],
    )
    return write_report(out / "report.html", data)


def _summary(metrics: dict[str, Any], own: str | None) -> str:
    films = f"the films of {own}" if own else "small made-up films in which the picture causes the sound"
    return (
        f"From {metrics['train_clips']} clips of {films}, and without any labels, it learnt which sound belongs to which picture. "
        f"Then it was given {metrics['candidates']} clips it had never met, their sounds taken off and shuffled, and had to find each one's own."
    )


def _notes(metrics: dict[str, Any], own: str | None) -> list[str]:
    gain = metrics["pretraining_adds"]
    notes = [
        "Pre-training changed first-place hits by "
        f"{100 * gain['video_to_audio']:+.1f} points (film to sound) and {100 * gain['audio_to_video']:+.1f} points (sound to film) against the same "
        "matching from scratch, which saw fewer clips in all. This is one run with one seed: a difference smaller than the "
        "intervals says nothing.",
        "Control: with the pairs shuffled at random, first-place hits are "
        f"{100 * metrics['shuffled_pairs']['video_to_audio']['R@1']:.1f} % and {100 * metrics['shuffled_pairs']['audio_to_video']['R@1']:.1f} %, "
        f"and guessing gives {100 * metrics['chance']['R@1']:.1f} %: nothing but the content tells the partner.",
    ]
    if own:
        notes.append(
            f"{metrics['train_clips']} clips are far too few to learn from scratch which sound belongs to which picture. The figures show that the "
            "whole way works on these films, not how good the method can be; they are no benchmark."
        )
    else:
        notes.append("The films are made up and easy on purpose; real films are harder and need far more of them.")
    return notes


def _run(name: str, evaluation: Evaluation, note: str) -> RunFigures:
    metrics = evaluation.metrics

    def rates(way: str) -> dict[str, Rate]:
        return {measure: Rate(value, *metrics["intervals"][way][measure]) for measure, value in metrics[way].items()}

    return RunFigures(name, rates("video_to_audio"), rates("audio_to_video"), note)


def _log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _curves(out: Path) -> Picture:
    pretraining = Curves(
        "Pre-training: error of what is given back",
        _log(out / "pretrain"),
        {"loss_video": "picture", "loss_audio": "sound"},
    )
    matching = _log(out / "finetune")
    for row, other in zip(matching, _log(out / "scratch"), strict=False):
        row["scratch"] = other["loss"]
    batch = checkpoint.load_card(out / "finetune").settings["batch_size"]
    guessing = (float(np.log(batch)), "guessing")
    contrast = Curves(
        "Matching: contrastive loss", matching, {"loss": "with pre-training", "scratch": "from scratch"}, level=guessing
    )
    panels = [pretraining, contrast]
    return Picture(
        title="How it learnt",
        alt="Two panels of curves that fall with the number of training steps.",
        caption="Lower is better. Left: how far the two reconstructions are off. Right: how surprised it is by the true partner.",
        png=loss_curves(panels),
        png_dark=loss_curves(panels, dark=True),
    )


@dataclass
class _Library:
    """The gallery's clips and films."""

    out: Path
    films: str

    def __post_init__(self) -> None:
        self.store = ClipStore.open(self.out / "stores" / "gallery")
        self.place = {clip_id: row for row, clip_id in enumerate(self.store.ids)}
        self.entries: dict[str, Entry] = {entry.name: entry for entry in read_manifest(self.films)}
        card = checkpoint.load_card(self.out / "finetune")
        self.frontend = FrontEnd(card.clip, card.statistics)

    def clip(self, clip_id: str) -> Clip:
        return self.store.read([self.place[clip_id]])[0]

    def entry(self, clip_id: str) -> Entry:
        return self.entries[clip_id.rpartition("#")[0]]

    def film(self, clip: Clip) -> Media:
        assert clip.frames is not None
        return Media.from_file(self.entry(clip.id).path, picture=_png(clip.frames.pixels_THWC[0]), label=clip.label)

    def sound(self, clip: Clip) -> Media:
        """The clip's stretch of sound as a wave file, with its mel pictures side by side."""
        assert clip.sound is not None
        entry, span = self.entry(clip.id), clip.span
        with Film.open(entry.audio_path or entry.path) as film:
            centre = np.array([(span.start_seconds + span.end_seconds) / 2])
            whole = film.sound_windows(centre, span.duration_seconds, clip.sound.sample_rate_hz)
        decibels = self.frontend.decibels(torch.from_numpy(clip.sound.samples_TN)[None])[0, :, 0]
        picture = mel_picture(np.concatenate(list(decibels.numpy()), axis=1))
        name = f"sound of {Path(entry.name).name}"
        return Media(name, wav(whole.samples_TN[0], whole.sample_rate_hz), "audio/wav", picture, clip.label)


def _examples(evaluation: Evaluation, library: _Library) -> list[Example]:
    """A few searches each way: spread over the gallery, so neither the best nor the worst are picked."""
    count = len(evaluation.gallery)
    queries = sorted({(2 * number + 1) * count // (2 * EXAMPLES) for number in range(EXAMPLES)})
    return [
        _example(way, query, scores_QN, evaluation, library)
        for way, scores_QN in zip(WAYS, evaluation.scores(), strict=True)
        for query in queries
    ]


def _example(
    way: str, query: int, scores_QN: NDArray[np.float64], evaluation: Evaluation, library: _Library
) -> Example:
    ids = evaluation.gallery.ids
    order = rankings(scores_QN)[query]
    asked, found_as = (library.film, library.sound) if way == "video_to_audio" else (library.sound, library.film)
    found = []
    for which in order[:HITS]:
        clip = library.clip(ids[which])
        score, span = told_score(float(scores_QN[query, which])), clip.span
        found.append(Found(found_as(clip), score, bool(which == query), span.start_seconds, span.end_seconds))
    place = int(np.flatnonzero(order == query)[0]) + 1
    return Example(way, asked(library.clip(ids[query])), found, place, len(ids))


def _mixer_picture(out: Path, library: _Library) -> Picture:
    separation = _separation(out, library)
    rows = [StripRow(caption, row.numpy()) for caption, row in separation.rows().items()]
    return Picture(
        title="What it is trained on first: fuse, then separate",
        alt="Six strips of four pictures: frames, mel pictures, their mix, the mix with three quarters hidden, and both given back.",
        caption=_mixer_caption(out),
        png=strip_picture(rows),
        png_dark=strip_picture(rows, dark=True),
    )


def _mixer_caption(out: Path) -> str:
    seen = checkpoint.load_card(out / "pretrain").clips_seen
    return (
        "Frames and pictures of their sound are mixed, here by letting whole frames change places with their sound; three quarters of the "
        "mix are hidden, and from the rest both senses must be given back apart: where only the sound is seen, the picture too. This network "
        f"saw {seen:,} clips in a minute or two. That is enough for the rough shape of things, and far too little for a sharp picture."
    )


def _separation(out: Path, library: _Library) -> Separation:
    """A gallery clip through the pre-trained autoencoder, under draws of its own."""
    separator = Separator(out / "pretrain")
    return separator.separation(collate([library.clip(library.store.ids[0])]), *separator.draws(1, seed=0))


def _skips(out: Path) -> SkipReport:
    return SkipReport([skip for name in ("train", "gallery") for skip in SkipReport.read(out / "stores" / name)])


def _png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).resize((192, 192), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
