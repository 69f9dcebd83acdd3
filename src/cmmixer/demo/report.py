"""The report of a quickstart: collects the outputs of its steps and writes them to one HTML page.

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
from cmmixer.analysis.plots import Curves, StripRow, loss_curves, mel_spectrogram, strip_image
from cmmixer.analysis.report import (
    Estimate,
    Example,
    ExampleHit,
    Media,
    Plot,
    ReportData,
    RunMetrics,
    SkippedFile,
    wav,
    write_report,
)
from cmmixer.data.loader import collate
from cmmixer.data.manifest import Entry, read_manifest
from cmmixer.data.skips import SkipReport
from cmmixer.data.store import ClipStore
from cmmixer.demo.stopwatch import describe_minutes
from cmmixer.evaluation.evaluate import DIRECTIONS, Evaluation
from cmmixer.evaluation.metrics import rankings
from cmmixer.evaluation.reconstruct import Separation, Separator
from cmmixer.media.decode import MediaFile
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.rerank import reported_score
from cmmixer.types import Clip

# Searches shown per direction, and hits of each.
EXAMPLES, HITS = 3, 3


def write_quickstart_report(
    out: Path,
    metrics: dict[str, Any],
    pretrained: Evaluation,
    baseline: Evaluation,
    gallery_videos: str,
    commands: Sequence[str],
) -> Path:
    """Writes `report.html` into the folder of the quickstart.

    Args:
        out: folder of the quickstart.
        metrics: content of metrics.json.
        pretrained, baseline: evaluations with and without pre-training.
        gallery_videos: the videos of the gallery.
        commands: the same steps as commands.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    user_data = metrics["data"] if not str(metrics["data"]).startswith("synthetic") else None
    library = _Library(out, gallery_videos)
    data = ReportData(
        title="CMMixer: which sound belongs to which picture",
        summary=_summary(metrics, user_data),
        runs=[
            _run("with pre-training", pretrained, "masked autoencoder on the mix first, then contrastive training"),
            _run("no pre-training (baseline)", baseline, "the same contrastive training, on as many clips"),
        ],
        chance=metrics["chance"],
        candidates=metrics["candidates"],
        gallery=metrics["gallery"],
        facts={
            "trained on": f"{metrics['train_clips']} clips",
            "tested on": f"{metrics['candidates']} unseen clips",
            "took": describe_minutes(metrics),
            "machine": f"{metrics['machine']['cores']} cores, GPU: {metrics['machine']['cuda']}",
        },
        curves=[_curves(out)],
        mixer=_mixer_plot(out, library),
        examples=_examples(pretrained, library),
        skipped=[SkippedFile(skip.path, skip.reason, skip.message) for skip in _skips(out)],
        settings={name: checkpoint.load_metadata(out / name).settings for name in ("pretrain", "finetune")},
        commands=commands,
        notes=_notes(metrics, user_data),
        written=metrics["date"],
    )
    return write_report(out / "report.html", data)


def _summary(metrics: dict[str, Any], user_data: str | None) -> str:
    videos = (
        f"the videos of {user_data}" if user_data else "small synthetic videos in which the picture causes the sound"
    )
    return (
        f"CMMixer learned from {metrics['train_clips']} clips of {videos}, without any labels, which sound belongs to which picture. "
        f"Then it was tested on {metrics['candidates']} unseen clips: their sounds were removed and shuffled, and it had to find the right one for each."
    )


def _notes(metrics: dict[str, Any], user_data: str | None) -> list[str]:
    gain = metrics["pretraining_gain"]
    notes = [
        "Pre-training changed R@1 by "
        f"{100 * gain['video_to_audio']:+.1f} points (video to sound) and {100 * gain['audio_to_video']:+.1f} points (sound to video) compared with the "
        "baseline, the same contrastive training without pre-training, which saw fewer clips in total. This is one run with one seed: "
        "differences smaller than the confidence intervals mean nothing.",
        "Control: with randomly shuffled pairs, R@1 is "
        f"{100 * metrics['shuffled_pairs']['video_to_audio']['R@1']:.1f} % and {100 * metrics['shuffled_pairs']['audio_to_video']['R@1']:.1f} %, "
        f"and chance is {100 * metrics['chance']['R@1']:.1f} %. So only the content reveals the right one.",
    ]
    if user_data:
        notes.append(
            f"{metrics['train_clips']} clips are far too few to learn from scratch which sound belongs to which picture. The figures show that all "
            "steps work on these videos, not how good the method can be. They are no benchmark."
        )
    else:
        notes.append(
            "The videos are synthetic and easy on purpose. Real videos are harder, and far more of them are needed."
        )
    return notes


def _run(name: str, evaluation: Evaluation, note: str) -> RunMetrics:
    metrics = evaluation.metrics

    def rates(way: str) -> dict[str, Estimate]:
        return {
            measure: Estimate(value, *metrics["intervals"][way][measure]) for measure, value in metrics[way].items()
        }

    return RunMetrics(name, rates("video_to_audio"), rates("audio_to_video"), note)


def _log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _curves(out: Path) -> Plot:
    pretraining = Curves(
        "Pre-training: reconstruction error",
        _log(out / "pretrain"),
        {"loss_video": "video", "loss_audio": "audio"},
    )
    finetuning = _log(out / "finetune")
    for row, other in zip(finetuning, _log(out / "baseline"), strict=False):
        row["baseline"] = other["loss"]
    batch = checkpoint.load_metadata(out / "finetune").settings["batch_size"]
    chance = (float(np.log(batch)), "chance")
    contrastive = Curves(
        "Fine-tuning: contrastive loss",
        finetuning,
        {"loss": "with pre-training", "baseline": "no pre-training (baseline)"},
        level=chance,
    )
    panels = [pretraining, contrastive]
    return Plot(
        title="Loss",
        alt="Two panels with loss curves over the training steps.",
        caption="Lower is better. Left: error of the two reconstructions. Right: how well each clip is distinguished from the others in its batch.",
        png=loss_curves(panels),
        png_dark=loss_curves(panels, dark=True),
    )


@dataclass
class _Library:
    """Clips and videos of the gallery."""

    out: Path
    videos: str

    def __post_init__(self) -> None:
        self.store = ClipStore.open(self.out / "stores" / "gallery")
        self.place = {clip_id: row for row, clip_id in enumerate(self.store.ids)}
        self.entries: dict[str, Entry] = {entry.name: entry for entry in read_manifest(self.videos)}
        metadata = checkpoint.load_metadata(self.out / "finetune")
        self.frontend = FrontEnd(metadata.clip, metadata.statistics)

    def clip(self, clip_id: str) -> Clip:
        return self.store.read([self.place[clip_id]])[0]

    def entry(self, clip_id: str) -> Entry:
        return self.entries[clip_id.rpartition("#")[0]]

    def video(self, clip: Clip) -> Media:
        assert clip.frames is not None
        return Media.from_file(self.entry(clip.id).path, poster=_png(clip.frames.pixels_THWC[0]), label=clip.label)

    def sound(self, clip: Clip) -> Media:
        """Returns the audio of the clip as a wave file, with its mel spectrograms side by side as the poster."""
        assert clip.sound is not None
        entry, span = self.entry(clip.id), clip.span
        with MediaFile.open(entry.audio_path or entry.path) as video:
            centre = np.array([(span.start_seconds + span.end_seconds) / 2])
            whole = video.audio_windows(centre, span.duration_seconds, clip.sound.sample_rate_hz)
        decibels = self.frontend.decibels(torch.from_numpy(clip.sound.samples_TN)[None])[0, :, 0]
        poster = mel_spectrogram(np.concatenate(list(decibels.numpy()), axis=1))
        name = f"sound of {Path(entry.name).name}"
        return Media(name, wav(whole.samples_TN[0], whole.sample_rate_hz), "audio/wav", poster, clip.label)


def _examples(evaluation: Evaluation, library: _Library) -> list[Example]:
    """Shows a few searches per direction, evenly over the gallery, neither the best nor the worst."""
    count = len(evaluation.gallery)
    queries = sorted({(2 * number + 1) * count // (2 * EXAMPLES) for number in range(EXAMPLES)})
    return [
        _example(way, query, scores_QN, evaluation, library)
        for way, scores_QN in zip(DIRECTIONS, evaluation.scores(), strict=True)
        for query in queries
    ]


def _example(
    way: str, query: int, scores_QN: NDArray[np.float64], evaluation: Evaluation, library: _Library
) -> Example:
    ids = evaluation.gallery.ids
    order = rankings(scores_QN)[query]
    query_media, hit_media = library.video, library.sound
    if way == "audio_to_video":
        query_media, hit_media = hit_media, query_media
    hits = []
    for which in order[:HITS]:
        clip = library.clip(ids[which])
        score, span = reported_score(float(scores_QN[query, which])), clip.span
        hits.append(ExampleHit(hit_media(clip), score, bool(which == query), span.start_seconds, span.end_seconds))
    place = int(np.flatnonzero(order == query)[0]) + 1
    return Example(way, query_media(library.clip(ids[query])), hits, place, len(ids))


def _mixer_plot(out: Path, library: _Library) -> Plot:
    separation = _separation(out, library)
    rows = [StripRow(caption, row.numpy()) for caption, row in separation.rows().items()]
    return Plot(
        title="Pre-training: mix, mask, separate",
        alt="Six strips of four images: frames, mel spectrograms, their mix, the mix with three quarters masked, and both reconstructions.",
        caption=_mixer_caption(out),
        png=strip_image(rows),
        png_dark=strip_image(rows, dark=True),
    )


def _mixer_caption(out: Path) -> str:
    seen = checkpoint.load_metadata(out / "pretrain").clips_seen
    return (
        "Frames and the mel spectrograms of their sound are mixed, here by swapping whole frames with their sound. Three quarters of the mix "
        "are masked. From the rest, the network reconstructs both modalities, also the frames of which it sees only the sound. This network "
        f"saw {seen:,} clips in a minute or two. That is enough for rough shapes, and far too little for sharp frames."
    )


def _separation(out: Path, library: _Library) -> Separation:
    """Passes the first gallery clip through the pre-trained autoencoder, with a random mixing mask and patch mask."""
    separator = Separator(out / "pretrain")
    return separator.separation(collate([library.clip(library.store.ids[0])]), *separator.draws(1, seed=0))


def _skips(out: Path) -> SkipReport:
    return SkipReport([skip for name in ("train", "gallery") for skip in SkipReport.read(out / "stores" / name)])


def _png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).resize((192, 192), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
