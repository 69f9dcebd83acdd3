"""Both senses at once, one missing, one spoiled: which body a film shows.

    python -m benchmarks.modalities --run runs/quickstart/finetune

Three ways of telling the class (shape of the body that sounds) learn from films with both senses, and are tested on other
films with both, with one sense missing, and with noise or another film's sound laid over theirs: logistic regression on
`embed_film`'s vectors, and classifiers fine-tuned as `cmmixer probe --mode finetune` does, without and with senses dropped
while learning. Figures go to `benchmarks/results/modalities.json`; `docs/transfer.md` shows them.
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
from cmmixer.checkpoint import Card
from cmmixer.data.manifest import Entry
from cmmixer.data.memmap import SpooledClips
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.pipeline import both_senses
from cmmixer.models.classifier import Classifier
from cmmixer.models.retriever import Retriever
from cmmixer.progress import NoProgress
from cmmixer.runtime import machine
from cmmixer.synthetic.render import SyntheticClips, synthetic_arrays
from cmmixer.types import Span

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "senses.json"
FILMS, SEED, FOLDS, BATCH = 500, 9_002, 5, 50
RATIOS_DB = (20, 10, 0)
DROPOUTS = (0.0, 0.5)
Vectors = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Embeds and classifies the films under every condition, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, help="a run of finetune")
    parser.add_argument("--epochs", type=int, default=10, help="of the fine-tuned classifiers")
    options = parser.parse_args(arguments)
    model, card = checkpoint.load_retriever(options.run), checkpoint.load_card(options.run)
    films = synthetic_arrays(FILMS, card.clip, seed=SEED, difficulty="easy")
    conditions = _conditions(films)
    embedded = {name: _vectors(model, films, condition) for name, condition in conditions.items()}
    both = embedded["both senses"]
    ways = {"embed_film": {name: told_by_vectors(both, tested, films.labels) for name, tested in embedded.items()}}
    for dropout in DROPOUTS:
        ways[f"classifier, sense_dropout {dropout:g}"] = _classified(options, model, card, films, conditions, dropout)
    result = {
        "films": FILMS,
        "epochs": options.epochs,
        "classes": sorted(set(films.labels)),
        "accuracy": {way: {name: figure(right) for name, right in found.items()} for way, found in ways.items()},
        "run": options.run,
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


@dataclass(frozen=True)
class Condition:
    """Which senses are there, and what is heard where the sound is."""

    picture: bool
    sound: bool
    audio_NTS: NDArray[np.int16]


def _conditions(films: SyntheticClips) -> dict[str, Condition]:
    own = films.audio_NTS
    conditions = {
        "both senses": Condition(True, True, own),
        "picture only": Condition(True, False, own),
        "sound only": Condition(False, True, own),
    }
    for ratio_db in RATIOS_DB:
        for words, spoiled in (
            (f"noise over the sound, {ratio_db} dB", noisy(own, ratio_db)),
            (f"another film's sound over it, {ratio_db} dB", overlaid(own, ratio_db)),
        ):
            conditions[f"both, {words}"] = Condition(True, True, spoiled)
            conditions[f"sound only, {words}"] = Condition(False, True, spoiled)
    return conditions


def _vectors(model: Retriever, films: SyntheticClips, condition: Condition) -> Vectors:
    pictures = _embedded(model, films.video_NTCHW, "video") if condition.picture else None
    sounds = _embedded(model, condition.audio_NTS, "audio") if condition.sound else None
    missing = [None] * FILMS
    pairs = zip(missing if pictures is None else pictures, missing if sounds is None else sounds, strict=True)
    return np.stack([both_senses(seen, heard) for seen, heard in pairs])


def _embedded(model: Retriever, values: NDArray[Any], sense: str) -> Vectors:
    embed = model.embed_video if sense == "video" else model.embed_audio
    return np.concatenate([embed(part).clip_BE.numpy() for part in torch.from_numpy(values).split(BATCH)])


def _classified(
    options: argparse.Namespace,
    model: Retriever,
    card: Card,
    films: SyntheticClips,
    conditions: dict[str, Condition],
    dropout: float,
) -> dict[str, NDArray[np.bool_]]:
    """Which films each condition leaves right, each tested by the classifier that learnt from the other folds."""
    classes = sorted(set(films.labels))
    truth_F = np.array([classes.index(label) for label in films.labels])
    folds_F = np.arange(FILMS) % FOLDS
    right = {name: np.zeros(FILMS, bool) for name in conditions}
    with tempfile.TemporaryDirectory() as out:
        settings = ProbeSettings(
            model=options.run, data="made-up films", mode="finetune", epochs=options.epochs, sense_dropout=dropout
        )
        entries = [Entry(path=f"{row}", name=f"{row}", source=f"{row}") for row in range(FILMS)]
        truth_FC = np.eye(len(classes), dtype=bool)[truth_F]
        labelled = Labelled(entries, classes, truth_FC, folds_F, [str(fold) for fold in range(FOLDS)], several=False)
        finetuning = Finetuning(settings, labelled, _clips(films, card), ("video", "audio"), card, NoProgress())
        for fold in range(FOLDS):
            network = finetuning.trained(model, np.flatnonzero(folds_F != fold), Path(out) / f"fold-{fold}")
            tested = folds_F == fold
            for name, condition in conditions.items():
                guessed = _named(network, films.video_NTCHW[tested], condition, tested)
                right[name][tested] = guessed == truth_F[tested]
    return right


def _clips(films: SyntheticClips, card: Card) -> SpooledClips:
    names = [str(row) for row in range(FILMS)]
    return SpooledClips(
        card.clip,
        [Span(0.0, card.clip.clip_seconds)] * FILMS,
        names,
        names,
        np.arange(FILMS),
        np.ones((FILMS, 2), bool),
        films.video_NTCHW,
        films.audio_NTS,
        SkipReport(),
    )


def _named(
    network: Classifier, video_NTCHW: NDArray[np.uint8], condition: Condition, rows: NDArray[np.bool_]
) -> NDArray[np.int64]:
    # What is missing is handed over all the same, and does not count.
    keep_S = torch.tensor([float(condition.picture), float(condition.sound)])
    parts = zip(np.array_split(video_NTCHW, 4), np.array_split(condition.audio_NTS[rows], 4), strict=True)
    found = [
        network.classify(torch.from_numpy(pixels), torch.from_numpy(windows), keep_S.expand(len(pixels), 2))
        for pixels, windows in parts
    ]
    return torch.cat(found).argmax(1).numpy()


def noisy(audio_NTS: NDArray[np.int16], ratio_db: float) -> NDArray[np.int16]:
    """White noise over every film's windows, so many decibels below the film's own power."""
    chance = np.random.default_rng(0)
    return _laid_over(audio_NTS, chance.normal(size=audio_NTS.shape), ratio_db)


def overlaid(audio_NTS: NDArray[np.int16], ratio_db: float) -> NDArray[np.int16]:
    """The next film's sound over every film's own, so many decibels below it."""
    return _laid_over(audio_NTS, np.roll(audio_NTS, 1, axis=0).astype(np.float64), ratio_db)


def _laid_over(audio_NTS: NDArray[np.int16], other_NTS: NDArray[np.float64], ratio_db: float) -> NDArray[np.int16]:
    own_NTS = audio_NTS.astype(np.float64)
    own_N11, other_N11 = (np.square(each).mean((1, 2), keepdims=True) for each in (own_NTS, other_NTS))
    factor_N11 = np.sqrt(own_N11 / np.maximum(other_N11, 1e-9) * 10 ** (-ratio_db / 10))
    return np.clip(own_NTS + factor_N11 * other_NTS, -32768, 32767).astype(np.int16)


def told_by_vectors(learnt: Vectors, tested: Vectors, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which films are named rightly by a regression on vectors, each by what was learnt from the other folds."""
    names, folds = np.asarray(labels), np.arange(len(labels)) % FOLDS
    right = np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        model = LogisticRegression(max_iter=2000, C=10.0).fit(learnt[folds != fold], names[folds != fold])
        right[folds == fold] = model.predict(tested[folds == fold]) == names[folds == fold]
    return right


def figure(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracy over all films, with a 95 % bootstrap interval over films."""
    chance = np.random.default_rng(0)
    drawn = [right[chance.integers(0, len(right), len(right))].mean() for _ in range(1000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"accuracy": float(right.mean()), "interval": [float(low), float(high)]}


def table(result: dict[str, Any]) -> list[str]:
    """The figures as lines of Markdown."""
    ways = result["accuracy"]
    lines = [
        "## Both senses, one missing, one spoiled",
        "",
        f"`python -m benchmarks.modalities`: {result['films']} made-up films that no run has seen, {len(result['classes'])} classes (shape of the body that sounds), five folds. Everything learns from "
        f"films with both senses, and is tested on other films under each condition. `embed_film`: logistic regression on its vectors. Classifiers: fine-tuned as `cmmixer probe --mode finetune` does, "
        f"{result['epochs']} epochs from the retriever's towers; with `sense_dropout`, a clip is learnt from one of its senses alone with that probability. {result['date']}, {result['machine']['cores']} cores.",
        "",
        f"| condition | {' | '.join(ways)} |",
        f"|---|{'---|' * len(ways)}",
    ]
    for name in next(iter(ways.values())):
        cells = []
        for found in ways.values():
            low, high = found[name]["interval"]
            cells.append(f"{found[name]['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
