"""Both senses at once, one missing, one spoiled: which body a film shows, told from `embed_film`'s vector.

    python -m benchmarks.senses --run runs/quickstart/finetune

Logistic regression learns the class (shape of the body that sounds) from vectors of films with both senses, and is tested on
other films with both, with one sense missing (nothing is trained for that), and with noise or another film's sound laid over
theirs. Figures go to `benchmarks/results/senses.json`; `docs/transfer.md` shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cmmixer import checkpoint
from cmmixer.embedding import both_senses
from cmmixer.evaluation.machine import machine
from cmmixer.media.synthetic.arrays import synthetic_arrays
from cmmixer.models.retriever import Retriever

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "senses.json"
FILMS, SEED, FOLDS, BATCH = 500, 9_002, 5, 50
RATIOS_DB = (20, 10, 0)
Vectors = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Embeds the films under every condition, classifies, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, help="a run of finetune")
    options = parser.parse_args(arguments)
    model, card = checkpoint.load_retriever(options.run), checkpoint.load_card(options.run)
    films = synthetic_arrays(FILMS, card.clip, seed=SEED, difficulty="easy")
    pictures = _embedded(model, films.video_NTCHW, "video")
    sounds = _embedded(model, films.audio_NTS, "audio")
    both = _films(pictures, sounds)
    conditions = {
        "both senses": both,
        "picture only": _films(pictures, None),
        "sound only": _films(None, sounds),
    }
    for ratio_db in RATIOS_DB:
        for words, spoiled in (
            (f"noise over the sound, {ratio_db} dB", noisy(films.audio_NTS, ratio_db)),
            (f"another film's sound over it, {ratio_db} dB", overlaid(films.audio_NTS, ratio_db)),
        ):
            heard = _embedded(model, spoiled, "audio")
            conditions[f"both, {words}"] = _films(pictures, heard)
            conditions[f"sound only, {words}"] = _films(None, heard)
    result = {
        "films": FILMS,
        "classes": sorted(set(films.labels)),
        "accuracy": {name: accuracy(both, tested, films.labels) for name, tested in conditions.items()},
        "run": options.run,
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


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


def _embedded(model: Retriever, values: NDArray[Any], sense: str) -> Vectors:
    embed = model.embed_video if sense == "video" else model.embed_audio
    return np.concatenate([embed(part).clip_BE.numpy() for part in torch.from_numpy(values).split(BATCH)])


def _films(pictures: Vectors | None, sounds: Vectors | None) -> Vectors:
    missing = [None] * FILMS
    return np.stack(
        [
            both_senses(seen, heard)
            for seen, heard in zip(
                missing if pictures is None else pictures, missing if sounds is None else sounds, strict=True
            )
        ]
    )


def accuracy(learnt: Vectors, tested: Vectors, labels: Sequence[str]) -> dict[str, Any]:
    """Over all films, each tested by what was learnt from the other folds; with a 95 % bootstrap interval over films."""
    names, folds = np.asarray(labels), np.arange(len(labels)) % FOLDS
    right = np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        model = LogisticRegression(max_iter=2000, C=10.0).fit(learnt[folds != fold], names[folds != fold])
        right[folds == fold] = model.predict(tested[folds == fold]) == names[folds == fold]
    chance = np.random.default_rng(0)
    drawn = [right[chance.integers(0, len(right), len(right))].mean() for _ in range(1000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"accuracy": float(right.mean()), "interval": [float(low), float(high)]}


def table(result: dict[str, Any]) -> list[str]:
    """The figures as lines of Markdown."""
    lines = [
        "## Both senses, one missing, one spoiled",
        "",
        f"`python -m benchmarks.senses`: {result['films']} made-up films that no run has seen, {len(result['classes'])} classes (shape of the body that sounds). Logistic regression on "
        f"`embed_film`'s vectors of films with both senses, tested on other films under each condition. {result['date']}, {result['machine']['cores']} cores.",
        "",
        "| condition | accuracy |",
        "|---|---|",
    ]
    for name, found in result["accuracy"].items():
        low, high = found["interval"]
        lines.append(f"| {name} | {found['accuracy']:.3f} [{low:.3f}, {high:.3f}] |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
