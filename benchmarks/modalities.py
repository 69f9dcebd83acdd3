"""How much does classification lose when one modality is missing or noisy?

    python -m benchmarks.modalities --run runs/quickstart/finetune

Three classifiers (class: shape of the sounding body) are trained on videos with both modalities, and tested on other videos with
both, with one modality missing, and with noise or the sound of another video mixed in: logistic regression on the vectors of
`encode`, and classifiers fine-tuned as in `cmmixer probe --mode finetune`, without and with modality dropout. Results go to
`benchmarks/results/modalities.json` and are shown in docs/transfer.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cmmixer import ProbeSettings, checkpoint
from cmmixer.analysis.labels import Labelled
from cmmixer.analysis.probe_finetune import Finetuning
from cmmixer.checkpoint import Metadata
from cmmixer.data.manifest import Entry
from cmmixer.data.memmap import MemmapClips
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.pipeline import both_modalities
from cmmixer.models.classifier import Classifier
from cmmixer.models.retriever import Retriever
from cmmixer.progress import NoProgress
from cmmixer.runtime import describe_machine
from cmmixer.synthetic.render import SyntheticClips, synthetic_arrays
from cmmixer.types import Span

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "modalities.json"
VIDEOS, SEED, FOLDS, BATCH = 500, 9_002, 5, 50
RATIOS_DB = (20, 10, 0)
DROPOUTS = (0.0, 0.5)
Vectors = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Embeds and classifies the videos under all conditions and stores the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, help="a run of finetune")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the fine-tuned classifiers")
    options = parser.parse_args(arguments)
    model, metadata = checkpoint.load_retriever(options.run), checkpoint.load_metadata(options.run)
    videos = synthetic_arrays(VIDEOS, metadata.clip, seed=SEED, difficulty="easy")
    conditions = _conditions(videos)
    embedded = {name: _vectors(model, videos, condition) for name, condition in conditions.items()}
    both = embedded["both modalities"]
    classifiers = {"encode": {name: classify_vectors(both, tested, videos.labels) for name, tested in embedded.items()}}
    for dropout in DROPOUTS:
        classifiers[f"classifier, modality_dropout {dropout:g}"] = _finetuned_classifiers(
            options, model, metadata, videos, conditions, dropout
        )
    result = {
        "videos": VIDEOS,
        "epochs": options.epochs,
        "classes": sorted(set(videos.labels)),
        "accuracy": {
            classifier: {name: accuracy(correct) for name, correct in by_condition.items()}
            for classifier, by_condition in classifiers.items()
        },
        "run": options.run,
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


@dataclass(frozen=True)
class Condition:
    """Which modalities a video has, and its audio."""

    video: bool
    audio: bool
    audio_NTS: NDArray[np.int16]


def _conditions(videos: SyntheticClips) -> dict[str, Condition]:
    own = videos.audio_NTS
    conditions = {
        "both modalities": Condition(True, True, own),
        "video only": Condition(True, False, own),
        "audio only": Condition(False, True, own),
    }
    for ratio_db in RATIOS_DB:
        for words, audio_NTS in (
            (f"noise over the audio, {ratio_db} dB", noisy(own, ratio_db)),
            (f"another video's audio over it, {ratio_db} dB", overlaid(own, ratio_db)),
        ):
            conditions[f"both, {words}"] = Condition(True, True, audio_NTS)
            conditions[f"audio only, {words}"] = Condition(False, True, audio_NTS)
    return conditions


def _vectors(model: Retriever, videos: SyntheticClips, condition: Condition) -> Vectors:
    video = _embed(model, videos.video_NTCHW, "video") if condition.video else None
    audio = _embed(model, condition.audio_NTS, "audio") if condition.audio else None
    missing = [None] * VIDEOS
    pairs = zip(missing if video is None else video, missing if audio is None else audio, strict=True)
    return np.stack([both_modalities(*pair) for pair in pairs])


def _embed(model: Retriever, values: NDArray[Any], modality: str) -> Vectors:
    embed = model.embed_video if modality == "video" else model.embed_audio
    return np.concatenate([embed(part).clip_BE.numpy() for part in torch.from_numpy(values).split(BATCH)])


def _finetuned_classifiers(
    options: argparse.Namespace,
    model: Retriever,
    metadata: Metadata,
    videos: SyntheticClips,
    conditions: dict[str, Condition],
    dropout: float,
) -> dict[str, NDArray[np.bool_]]:
    """Returns which videos are classified correctly under each condition, each with a classifier trained on the other folds."""
    classes = sorted(set(videos.labels))
    truth_F = np.array([classes.index(label) for label in videos.labels])
    folds_F = np.arange(VIDEOS) % FOLDS
    correct = {name: np.zeros(VIDEOS, bool) for name in conditions}
    with tempfile.TemporaryDirectory() as out:
        settings = ProbeSettings(
            model=options.run, data="synthetic videos", mode="finetune", epochs=options.epochs, modality_dropout=dropout
        )
        entries = [Entry(path=f"{row}", name=f"{row}", source=f"{row}") for row in range(VIDEOS)]
        truth_FC = np.eye(len(classes), dtype=bool)[truth_F]
        labelled = Labelled(entries, classes, truth_FC, folds_F, [str(fold) for fold in range(FOLDS)], several=False)
        finetuning = Finetuning(
            settings, labelled, _clips(videos, metadata), ("video", "audio"), metadata, NoProgress()
        )
        for fold in range(FOLDS):
            network = finetuning.train(model, np.flatnonzero(folds_F != fold), Path(out) / f"fold-{fold}")
            tested = folds_F == fold
            for name, condition in conditions.items():
                predicted = _predict(network, videos.video_NTCHW[tested], condition, tested)
                correct[name][tested] = predicted == truth_F[tested]
    return correct


def _clips(videos: SyntheticClips, metadata: Metadata) -> MemmapClips:
    names = [str(row) for row in range(VIDEOS)]
    return MemmapClips(
        metadata.clip,
        [Span(0.0, metadata.clip.clip_seconds)] * VIDEOS,
        names,
        names,
        np.arange(VIDEOS),
        np.ones((VIDEOS, 2), bool),
        videos.video_NTCHW,
        videos.audio_NTS,
        SkipReport(),
    )


def _predict(
    network: Classifier, video_NTCHW: NDArray[np.uint8], condition: Condition, rows: NDArray[np.bool_]
) -> NDArray[np.int64]:
    # A missing modality is passed as well, with weight 0.
    keep_S = torch.tensor([float(condition.video), float(condition.audio)])
    parts = zip(np.array_split(video_NTCHW, 4), np.array_split(condition.audio_NTS[rows], 4), strict=True)
    logits = [
        network.classify(torch.from_numpy(pixels), torch.from_numpy(windows), keep_S.expand(len(pixels), 2))
        for pixels, windows in parts
    ]
    return torch.cat(logits).argmax(1).numpy()


def noisy(audio_NTS: NDArray[np.int16], ratio_db: float) -> NDArray[np.int16]:
    """Adds white noise to the windows of every video, `ratio_db` below the power of its audio."""
    generator = np.random.default_rng(0)
    return _add(audio_NTS, generator.normal(size=audio_NTS.shape), ratio_db)


def overlaid(audio_NTS: NDArray[np.int16], ratio_db: float) -> NDArray[np.int16]:
    """Adds the audio of the next video to that of every video, `ratio_db` below it."""
    return _add(audio_NTS, np.roll(audio_NTS, 1, axis=0).astype(np.float64), ratio_db)


def _add(audio_NTS: NDArray[np.int16], other_NTS: NDArray[np.float64], ratio_db: float) -> NDArray[np.int16]:
    own_NTS = audio_NTS.astype(np.float64)
    own_N11, other_N11 = (np.square(each).mean((1, 2), keepdims=True) for each in (own_NTS, other_NTS))
    factor_N11 = np.sqrt(own_N11 / np.maximum(other_N11, 1e-9) * 10 ** (-ratio_db / 10))
    return np.clip(own_NTS + factor_N11 * other_NTS, -32768, 32767).astype(np.int16)


def classify_vectors(trained: Vectors, tested: Vectors, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Returns which videos a logistic regression on vectors classifies correctly, each trained on the other folds."""
    names, folds = np.asarray(labels), np.arange(len(labels)) % FOLDS
    correct = np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        model = LogisticRegression(max_iter=2000, C=10.0).fit(trained[folds != fold], names[folds != fold])
        correct[folds == fold] = model.predict(tested[folds == fold]) == names[folds == fold]
    return correct


def accuracy(correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Computes the accuracy with a 95 % bootstrap interval over videos."""
    generator = np.random.default_rng(0)
    drawn = [correct[generator.integers(0, len(correct), len(correct))].mean() for _ in range(1000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"accuracy": float(correct.mean()), "interval": [float(low), float(high)]}


def table_lines(result: dict[str, Any]) -> list[str]:
    """Returns the results as lines of Markdown."""
    classifiers = result["accuracy"]
    lines = [
        "## A missing or a noisy modality",
        "",
        f"`python -m benchmarks.modalities`: {result['videos']} synthetic videos unseen by any run, {len(result['classes'])} classes (shape of the sounding body), five folds. All classifiers are trained on "
        f"videos with both modalities, and tested on other videos under each condition. `encode`: logistic regression on its vectors. Classifiers: fine-tuned as in `cmmixer probe --mode finetune`, "
        f"{result['epochs']} epochs from the retriever's towers; `modality_dropout`: the probability that a clip is trained on with only one of its modalities. {result['date']}, {result['machine']['cores']} cores.",
        "",
        f"| condition | {' | '.join(classifiers)} |",
        f"|---|{'---|' * len(classifiers)}",
    ]
    for name in next(iter(classifiers.values())):
        cells = []
        for by_condition in classifiers.values():
            low, high = by_condition[name]["interval"]
            cells.append(f"{by_condition[name]['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
