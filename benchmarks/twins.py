"""Twins: films that differ in their timing only. What a clip's own vector makes of them, and what its frames do.

    python -m benchmarks.twins --seeds 0 1 2

Retrievers of the study's budget `cpu` (from scratch, canonical heads) are trained without and with the loss on frames in
order, and rank a gallery of 500 pairs of twins. A finished seed is kept in `benchmarks/results/twins.json` and not run
again; `docs/twins.md` is written from that file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.study.budgets import BUDGETS
from benchmarks.study.cells import CELLS
from benchmarks.study.films import Inputs, films
from benchmarks.study.training import TRAIN_SEED, Material, embed_frames, trained
from cmmixer.evaluation.machine import machine
from cmmixer.evaluation.metrics import Reranks, retrieval_metrics
from cmmixer.evaluation.sequence import SequenceRerank

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "twins.json", ROOT / "docs" / "twins.md"
GALLERY_SEED = 1001
TOP = 100
WAYS = {"video_to_audio": "picture → sound", "audio_to_video": "sound → picture"}
WEIGHTS = (0.0, 0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the seeds that are missing, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "study", help="keeps the rendered films")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for seed in [] if options.table else options.seeds:
        for weight in WEIGHTS:
            if not any((row["seed"], row["sequence_weight"]) == (seed, weight) for row in rows):
                rows.append(run(seed, weight, options.cache))
                RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    DOCUMENT.write_text(document(rows))


def run(seed: int, weight: float, cache: Path) -> dict[str, Any]:
    """Trains one retriever and ranks the twins with it."""
    budget = BUDGETS["cpu"]

    def rendered(count: int, number: int, twins: bool = False) -> Any:
        return films(
            count, budget.clip, seed=number, difficulty=budget.difficulty, cache=cache, workers=1, told=_say, twins=twins
        )  # fmt: skip

    train, gallery = rendered(budget.films, TRAIN_SEED), rendered(budget.gallery, GALLERY_SEED, twins=True)
    material = Material(train, train, gallery, train.statistics())
    _say(f"seed {seed}, sequence weight {weight}")
    retriever, _, _ = trained(replace(CELLS["scratch-canonical"], sequence=weight), material, budget, seed, _say)
    video, audio = embed_frames(retriever, Inputs(gallery, budget.clip, material.statistics))
    clips = video.clip_BE.numpy(), audio.clip_BE.numpy()
    frames = video.frames_BTE.numpy(), audio.frames_BTE.numpy()
    rerank = Reranks.of(*frames, TOP)
    return {
        "seed": seed,
        "sequence_weight": weight,
        "twins": {
            "clip": twin_choice(*clips),
            "sequence": twin_choice(*(sense.reshape(len(sense), -1) for sense in frames)),
        },
        "clip": retrieval_metrics(*clips, gallery=gallery.sha256),
        "reranked": retrieval_metrics(*clips, gallery=gallery.sha256, rerank=rerank),
        "milliseconds": milliseconds(rerank.video_to_audio, clips),
        "top": TOP,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def twin_choice(video_NE: NDArray[Any], audio_NE: NDArray[Any]) -> dict[str, float]:
    """How often a film's own other sense scores above its twin's; guessing 0.5, a tie is lost. Films 2k and 2k + 1 are twins."""
    scores = video_NE.astype(np.float64) @ audio_NE.T.astype(np.float64)
    own, each = np.diag(scores), np.arange(len(scores))
    twin = each ^ 1
    return {
        "video_to_audio": float((own > scores[each, twin]).mean()),
        "audio_to_video": float((own > scores[twin, each]).mean()),
    }


def milliseconds(rerank: SequenceRerank, clips: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """What the second stage takes for one query, its candidates being found: the median over the gallery's queries."""
    scores = clips[0].astype(np.float64) @ clips[1].T.astype(np.float64)
    taken = []
    for query in range(len(scores)):
        begun = time.perf_counter()
        rerank(query, scores[query : query + 1], np.array([query]))
        taken.append(time.perf_counter() - begun)
    return 1000 * float(np.median(taken))


def document(rows: Sequence[dict[str, Any]]) -> str:
    """The document, made from the stored rows."""
    first = rows[0]
    lines = [
        "# Matching in time",
        "",
        "Written by `python -m benchmarks.twins`; do not edit. Twins are films with the same bodies, background and room that move, strike and click at",
        "the same rates at other times. A retriever of the study's budget `cpu` (nano, 1,200 easy films, 9,600 clips of fine-tuning, from scratch with canonical",
        f"heads) meets {first['clip']['candidates'] // 2} pairs of twins. *clip* compares the clips' own vectors; *sequence* is the mean cosine of aligned frames,",
        f"and re-ranking orders each query's best {first['top']} candidates by it (`--rerank sequence`). Means over seeds, lowest and highest in brackets.",
        "",
        f"{first['machine']['cores']} cores, GPU: {first['machine']['cuda']}, torch {first['machine']['torch']}; {', '.join(sorted({row['date'] for row in rows}))}. Re-ranking the "
        f"best {first['top']} of a query takes {np.median([row['milliseconds'] for row in rows]):.2f} ms, its candidates being found.",
        "",
        "| `--sequence_weight` | seeds | way | own sense above the twin's: clip | sequence | R@1 of all: clip | re-ranked |",
        "|---|---|---|---|---|---|---|",
    ]
    for weight in WEIGHTS:
        same = [row for row in rows if row["sequence_weight"] == weight]
        for way, words in WAYS.items() if same else ():
            figures = [
                [row["twins"]["clip"][way] for row in same],
                [row["twins"]["sequence"][way] for row in same],
                [row["clip"][way]["R@1"] for row in same],
                [row["reranked"][way]["R@1"] for row in same],
            ]
            told = [f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]" for values in figures]
            lines.append(f"| {weight:g} | {len(same)} | {words} | {' | '.join(told)} |")
    chance = first["clip"]["chance"]["R@1"]
    return "\n".join([*lines, f"| guessing | | | 0.500 | 0.500 | {chance:.3f} | {chance:.3f} |", ""])


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
