"""Twins: films that differ in their timing only. What a clip's own vector makes of them, and what its frames do.

    python -m benchmarks.twins --seeds 0 1 2

Retrievers of the study's budget `cpu` (from scratch, canonical heads) are trained in two ways: towers that look at the whole strip, with
the loss on clips, as in the study; and towers that look at each frame apart, with the loss on frames. Each meets three galleries of
twins for each way in which twins can differ, and the study's gallery. A finished training is kept in
`benchmarks/results/twins.json` and not run again; `docs/twins.md` is written from that file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.study.budgets import BUDGETS
from benchmarks.study.cells import CELLS, Cell
from benchmarks.study.training import GALLERY_SEED, TRAIN_SEED, Material, embed_frames, trained
from benchmarks.study.videos import Films, Inputs, films
from cmmixer.evaluation.metrics import rank_metrics, ranks, ranks_of
from cmmixer.models.rerank import TIE, TIMING_WEIGHT, SequenceRerank
from cmmixer.retrieval.hits import best_moments
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.query import Asking
from cmmixer.runtime import machine
from cmmixer.types import Span

ROOT = Path(__file__).resolve().parents[1]
SEARCH = ROOT / "benchmarks" / "results" / "rerank.json"
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "twins.json", ROOT / "docs" / "twins.md"
# Galleries of 250 pairs of twins each.
TWIN_SEEDS, TWIN_FILMS = (1_001, 1_002, 1_003), 500
TOP = 100
WAYS = {"video_to_audio": "picture → sound", "audio_to_video": "sound → picture"}
SCRATCH = CELLS["scratch-canonical"]
MODELS: dict[str, tuple[Cell, str]] = {
    "strip": (SCRATCH, "whole strip, loss on clips"),
    "apart": (replace(SCRATCH, frames_apart=True, frame_weight=1.0), "frames apart, loss on frames"),
}
# Seconds by which a twin is ahead; None: its timing is drawn anew.
DIFFERENCES: dict[str, tuple[float | None, str]] = {
    "anew": (None, "timing drawn anew"),
    "0.1": (0.1, "0.1 s ahead"),
    "0.25": (0.25, "0.25 s ahead"),
    "0.5": (0.5, "0.5 s ahead"),
    "1": (1.0, "1 s ahead: every wheel as it was"),
}
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
# The gallery on which the weight of the timing was chosen, of the first training.
CHOSEN_ON = (0, TWIN_SEEDS[0])


class Scores(NamedTuple):
    """Of all pictures, by row, with all sounds [N, N]."""

    clip: NDArray[np.float64]
    aligned: NDArray[np.float64]
    timing: NDArray[np.float64]

    def weighted(self, weight: float) -> NDArray[np.float64]:
        """Clip and timing together; `TIMING_WEIGHT` makes it what `--rerank sequence` orders by."""
        return np.asarray(self.clip + weight * self.timing)


TOLD: dict[str, tuple[Callable[[Scores], NDArray[np.float64]], str]] = {
    "clip": (lambda scores: scores.clip, "clip"),
    "aligned": (lambda scores: scores.aligned, "aligned frames"),
    "timing": (lambda scores: scores.timing, "timing alone"),
    "sequence": (lambda scores: scores.weighted(TIMING_WEIGHT), "sequence score"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the trainings that are missing, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "study", help="keeps the rendered films")
    parser.add_argument("--index", help="an index to measure on what `search --rerank sequence` takes")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for seed in [] if options.table else options.seeds:
        for model in options.models:
            if not any((row["seed"], row["model"]) == (seed, model) for row in rows):
                rows.append(run(seed, model, options.cache))
                RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    if options.index:
        SEARCH.write_text(json.dumps(search_cost(options.index), indent=1) + "\n")
    DOCUMENT.write_text(document(rows, json.loads(SEARCH.read_text()) if SEARCH.exists() else None))


def search_cost(folder: str, queries: int = 100) -> dict[str, Any]:
    """What one moment of a query takes in an index, from its vectors to its hits, without and with the second stage.

    Random directions ask; medians, taken in turn.
    """
    library, chance = MomentIndex.open(folder), np.random.default_rng(0)
    frames, length = library.card.frames, library.card.embed_dim
    taken: dict[int, list[float]] = {0: [], TOP: []}
    for _ in range(queries):
        vectors = chance.normal(size=(frames + 1, length)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        asking = [Asking(Span(0.0, library.card.clip.clip_seconds), vectors[0], vectors[1:])]
        for top, times in taken.items():
            begun = time.perf_counter()
            best_moments(library, asking, "audio", 5, top)
            times.append(1000 * (time.perf_counter() - begun))
    return {
        "moments": library.count(),
        "frames": frames,
        "length": length,
        "top": TOP,
        "without_milliseconds": float(np.median(taken[0])),
        "with_milliseconds": float(np.median(taken[TOP])),
        "load": os.getloadavg()[0],
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def run(seed: int, model: str, cache: Path) -> dict[str, Any]:
    """Trains one retriever and ranks all galleries with it."""
    budget = BUDGETS["cpu"]

    def rendered(count: int, number: int, **twins: Any) -> Films:
        return films(
            count, budget.clip, seed=number, difficulty=budget.difficulty, cache=cache, workers=1, told=_say, **twins
        )  # fmt: skip

    train, gallery = rendered(budget.films, TRAIN_SEED), rendered(budget.gallery, GALLERY_SEED)
    material = Material(train, train, gallery, train.statistics())
    _say(f"{model}, seed {seed}")
    retriever, _, spent = trained(MODELS[model][0], material, budget, seed, _say)

    def ranked(of: Films) -> tuple[Scores, list[NDArray[Any]]]:
        video, audio = embed_frames(retriever, Inputs(of, budget.clip, material.statistics))
        vectors = [part.numpy() for part in (video.clip_BE, audio.clip_BE, video.frames_BTE, audio.frames_BTE)]
        return scores(*vectors), vectors

    twins = []
    for name, (ahead, _) in DIFFERENCES.items():
        for number in TWIN_SEEDS:
            found, _ = ranked(rendered(TWIN_FILMS, number, twins=True, twin_ahead_seconds=ahead))
            choices = {told: twin_choice(of(found)) for told, (of, _) in TOLD.items()}
            weights = {f"{weight:g}": twin_choice(found.weighted(weight)) for weight in WEIGHTS}
            twins.append({"difference": name, "gallery": number, "choice": choices, "weights": weights})
    found, vectors = ranked(gallery)
    rerank = SequenceRerank(vectors[2], vectors[3], TOP), SequenceRerank(vectors[3], vectors[2], TOP)
    return {
        "seed": seed,
        "model": model,
        "teraflop": spent.teraflop,
        "twins": twins,
        "candidates": len(gallery),
        "all": {told: both_ways(of(found)) for told, (of, _) in TOLD.items()},
        "weights": {f"{weight:g}": both_ways(found.weighted(weight)) for weight in WEIGHTS},
        "reranked": {
            "video_to_audio": rank_metrics(ranks_of(vectors[0], vectors[1], rerank=rerank[0])),
            "audio_to_video": rank_metrics(ranks_of(vectors[1], vectors[0], rerank=rerank[1])),
        },
        "milliseconds": milliseconds(rerank[0], vectors[0], vectors[1]),
        "top": TOP,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def scores(video_NE: NDArray[Any], audio_NE: NDArray[Any], video_NTE: NDArray[Any], audio_NTE: NDArray[Any]) -> Scores:
    """Of clips' and frames' unit vectors."""
    video, audio = (frames.astype(np.float64) for frames in (video_NTE, audio_NTE))
    aligned = np.einsum("nte,mte->nm", video, audio, optimize=True) / video.shape[1]
    return Scores(
        video_NE.astype(np.float64) @ audio_NE.T.astype(np.float64), aligned, aligned - video.mean(1) @ audio.mean(1).T
    )


def twin_choice(scores_NN: NDArray[np.float64]) -> dict[str, float]:
    """How often a film's own other sense scores above its twin's; guessing 0.5, a tie is lost. Films 2k and 2k + 1 are twins."""
    own, each = np.diag(scores_NN), np.arange(len(scores_NN))
    twin = each ^ 1
    return {
        "video_to_audio": float((own > scores_NN[each, twin] + TIE).mean()),
        "audio_to_video": float((own > scores_NN[twin, each] + TIE).mean()),
    }


def both_ways(scores_NN: NDArray[np.float64]) -> dict[str, float]:
    """R@1 among all, nothing left out."""
    return {
        "video_to_audio": rank_metrics(ranks(scores_NN, tie=TIE))["R@1"],
        "audio_to_video": rank_metrics(ranks(scores_NN.T, tie=TIE))["R@1"],
    }


def milliseconds(rerank: SequenceRerank, queries_QE: NDArray[Any], candidates_NE: NDArray[Any]) -> float:
    """What the second stage takes for one query, its candidates being found: the median over the gallery's queries."""
    scores_QN = queries_QE.astype(np.float64) @ candidates_NE.T.astype(np.float64)
    taken = []
    for query in range(len(scores_QN)):
        begun = time.perf_counter()
        rerank(query, scores_QN[query : query + 1], np.array([query]))
        taken.append(time.perf_counter() - begun)
    return 1000 * float(np.median(taken))


def document(rows: Sequence[dict[str, Any]], search: dict[str, Any] | None) -> str:
    """The document, made from the stored rows and what a search takes."""
    first, kinds = rows[0], [model for model in MODELS if any(row["model"] == model for row in rows)]
    lines = [
        "# Matching in time",
        "",
        "Written by `python -m benchmarks.twins`; do not edit. Twins are films with the same bodies, background and room in which things happen at other times. Retrievers of the",
        "study's budget `cpu` (nano, 1,200 easy films, 9,600 clips of fine-tuning, from scratch with canonical heads) are trained in two ways:",
        "",
        *(
            f"- *{MODELS[model][1]}*{TRAINED[model]}: {np.mean([row['teraflop'] for row in _of(rows, model)]):.1f} TFLOP;"
            f" {_count(_of(rows, model), 'training')}."
            for model in kinds
        ),
        "",
        f"Each meets {len(TWIN_SEEDS)} galleries of {TWIN_FILMS // 2} pairs of twins for every way in which twins differ, and the study's gallery of {first['candidates']:,} films. *Clip* is the cosine",
        "of the clips' own vectors, *aligned frames* the mean cosine of frame and sound window of the same instant, *timing* what is left of it when each film's mean frame is taken off, and the",
        f"*sequence score*, by which `--rerank sequence` orders, clip + {TIMING_WEIGHT:g} × timing (formulas: `cmmixer.models.rerank`). Means over trainings and galleries, lowest and highest in brackets.",
        "",
        f"{first['machine']['cores']} cores, GPU: {first['machine']['cuda']}, torch {first['machine']['torch']}; {', '.join(sorted({row['date'] for row in rows}))}. Re-ranking the "
        f"best {first['top']} of a query takes {np.median([row['milliseconds'] for row in rows]):.2f} ms, its candidates being found.",
        *_search_words(search),
        "",
        "## A film's own sound, or its twin's",
        "",
        "How often the own one scores higher; guessing is 0.5, a tie is lost.",
        "",
        f"| towers | twins differ by | way | {' | '.join(words for _, words in TOLD.values())} |",
        f"|---|---|---|{'---|' * len(TOLD)}",
    ]
    for model in kinds:
        for name, (_, words) in DIFFERENCES.items():
            for way, told in WAYS.items():
                found = [each for row in _of(rows, model) for each in row["twins"] if each["difference"] == name]
                cells = [_spread([each["choice"][score][way] for each in found]) for score in TOLD]
                lines.append(f"| {MODELS[model][1]} | {words} | {told} | {' | '.join(cells)} |")
    lines += [
        "",
        "The wheel of these films turns once a second and the frames of a clip are a second apart, so every frame of a film shows the wheel at the same angle. Where a twin differs in that",
        "angle, its frames differ one by one, and a mean over them says so: the order of frames has no part in it. Twins that are whole seconds apart have the same wheel, and only the order of what the body",
        "does is left: there a clip's vector is near guessing, whatever the towers look at.",
        "",
        f"## All {first['candidates']:,} films",
        "",
        f"| R@1 | way | {' | '.join(words for _, words in TOLD.values())} | clip, its best {first['top']} by the sequence score |",
        f"|---|---|{'---|' * len(TOLD)}---|",
    ]
    for model in kinds:
        for way, told in WAYS.items():
            same = _of(rows, model)
            cells = [_spread([row["all"][score][way] for row in same]) for score in TOLD]
            cells.append(_spread([row["reranked"][way]["R@1"] for row in same]))
            lines.append(f"| {MODELS[model][1]} | {told} | {' | '.join(cells)} |")
    chance = 1 / first["candidates"]
    lines += [
        f"| guessing | | {' | '.join([f'{chance:.3f}'] * (len(TOLD) + 1))} |",
        "",
        "## How much the timing counts",
        "",
        f"Clip + weight × timing, mean of both ways. {TIMING_WEIGHT:g} was chosen on the gallery of seed {CHOSEN_ON[1]} with the training of seed {CHOSEN_ON[0]}, which is left out of the twins here.",
        "",
        f"| towers | of | {' | '.join(f'{weight:g}' for weight in WEIGHTS)} |",
        f"|---|---|{'---|' * len(WEIGHTS)}",
    ]
    for model in kinds:
        same = _of(rows, model)
        unseen = [
            each
            for row in same
            for each in row["twins"]
            if each["difference"] == "1" and (row["seed"], each["gallery"]) != CHOSEN_ON
        ]
        for what, found in (("twins 1 s apart", unseen), (f"R@1 of {first['candidates']:,}", same)):
            cells = [_spread([_mean(each["weights"][f"{weight:g}"]) for each in found]) for weight in WEIGHTS]
            lines.append(f"| {MODELS[model][1]} | {what} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


TRAINED = {
    "strip": ", as in the study: the towers see all frames of a clip at their places, and whole clips are contrasted",
    "apart": " (`cmmixer finetune --frames_apart --frame_weight 1`): the towers see one frame at a time, a clip's vector is blind to the order of its frames, and every frame is contrasted with all "
    "sound windows of the batch, those of its own clip included",
}


def _search_words(search: dict[str, Any] | None) -> list[str]:
    if search is None:
        return []
    return [
        f"In an index of {search['moments']:,} moments ({search['frames']} frames of {search['length']} values each) a search by one moment takes {search['without_milliseconds']:.1f} ms, with "
        f"`--rerank sequence` {search['with_milliseconds']:.1f} ms, the frames read from disk (medians in turn, load average {search['load']:.0f})."
    ]


def _of(rows: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["model"] == model]


def _count(rows: Sequence[Any], word: str) -> str:
    return f"{len(rows)} {word}" + ("s" if len(rows) != 1 else "")


def _mean(ways: dict[str, float]) -> float:
    return float(np.mean([ways[way] for way in WAYS]))


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
