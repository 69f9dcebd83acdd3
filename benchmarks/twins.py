"""Do retrievers tell apart twins, videos that differ only in their timing? Writes docs/twins.md.

    python -m benchmarks.twins --seeds 0 1 2
    python -m benchmarks.twins --table                # writes the document from the stored results, trains nothing

Retrievers of the study's budget `cpu` (no pre-training, CCA-initialized heads) are trained in two ways: with towers on the whole
strip and the loss on clips, as in the study; and with frame-level towers and the loss on frames. Each is tested on three galleries of
twins per kind of difference, and on the study's gallery. Finished trainings are stored in `benchmarks/results/twins.json`.
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
from benchmarks.study.training import GALLERY_SEED, TRAIN_SEED, StudyData, embed_frames, train_cell
from benchmarks.study.videos import Inputs, Videos, load_videos
from cmmixer.evaluation.metrics import rank_metrics, ranks, ranks_of
from cmmixer.models.rerank import TIE, TIMING_WEIGHT, SequenceRerank
from cmmixer.retrieval.hits import best_moments
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.query import QueryMoment
from cmmixer.runtime import describe_machine
from cmmixer.types import Span

ROOT = Path(__file__).resolve().parents[1]
SEARCH = ROOT / "benchmarks" / "results" / "rerank.json"
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "twins.json", ROOT / "docs" / "twins.md"
# Galleries of 250 pairs of twins each.
TWIN_SEEDS, TWIN_VIDEOS = (1_001, 1_002, 1_003), 500
TOP = 100
DIRECTIONS = {"video_to_audio": "video → audio", "audio_to_video": "audio → video"}
BASELINE = CELLS["baseline-cca"]
MODELS: dict[str, tuple[Cell, str]] = {
    "strip": (BASELINE, "whole strip, loss on clips"),
    "frame-level": (replace(BASELINE, frame_level=True, frame_weight=1.0), "frame-level, loss on frames"),
}
# Seconds by which a twin is ahead; None: its timing is drawn independently.
DIFFERENCES: dict[str, tuple[float | None, str]] = {
    "redrawn": (None, "independent timing"),
    "0.1": (0.1, "0.1 s ahead"),
    "0.25": (0.25, "0.25 s ahead"),
    "0.5": (0.5, "0.5 s ahead"),
    "1": (1.0, "1 s ahead (same wheel angles)"),
}
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
# Training seed and gallery on which the weight of the timing was chosen.
TUNED_ON = (0, TWIN_SEEDS[0])


class Scores(NamedTuple):
    """Scores of all videos (rows) with all sounds (columns), [N, N] each."""

    clip: NDArray[np.float64]
    aligned: NDArray[np.float64]
    timing: NDArray[np.float64]

    def weighted(self, weight: float) -> NDArray[np.float64]:
        """Adds the timing to the clip score; with `TIMING_WEIGHT`, this is the score of `--rerank sequence`."""
        return np.asarray(self.clip + weight * self.timing)


SCORES: dict[str, tuple[Callable[[Scores], NDArray[np.float64]], str]] = {
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
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "study", help="folder of the rendered videos")
    parser.add_argument("--index", help="an index on which to measure the cost of `search --rerank sequence`")
    parser.add_argument(
        "--table", action="store_true", help="write the document from the stored results, train nothing"
    )
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
    """Measures the search for one moment of a query, from its vectors to the hits, without and with re-ranking.

    Queries are random directions. Both ways take turns; the results are medians.
    """
    index, generator = MomentIndex.open(folder), np.random.default_rng(0)
    frames, length = index.metadata.frames, index.metadata.embed_dim
    milliseconds_by_top: dict[int, list[float]] = {0: [], TOP: []}
    for _ in range(queries):
        vectors = generator.normal(size=(frames + 1, length)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        moments = [QueryMoment(Span(0.0, index.metadata.clip.clip_seconds), vectors[0], vectors[1:])]
        for top, times in milliseconds_by_top.items():
            started = time.perf_counter()
            best_moments(index, moments, "audio", 5, top)
            times.append(1000 * (time.perf_counter() - started))
    return {
        "moments": index.count(),
        "frames": frames,
        "length": length,
        "top": TOP,
        "without_milliseconds": float(np.median(milliseconds_by_top[0])),
        "with_milliseconds": float(np.median(milliseconds_by_top[TOP])),
        "load": os.getloadavg()[0],
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def run(seed: int, model: str, cache: Path) -> dict[str, Any]:
    """Trains one retriever and evaluates it on all galleries."""
    budget = BUDGETS["cpu"]

    def rendered(count: int, number: int, **twins: Any) -> Videos:
        return load_videos(
            count, budget.clip, seed=number, difficulty=budget.difficulty, cache=cache, workers=1, report=_say, **twins
        )  # fmt: skip

    train, gallery = rendered(budget.videos, TRAIN_SEED), rendered(budget.gallery, GALLERY_SEED)
    data = StudyData(train, train, gallery, train.statistics())
    _say(f"{model}, seed {seed}")
    retriever, _, finetuning = train_cell(MODELS[model][0], data, budget, seed, _say)

    def ranked(of: Videos) -> tuple[Scores, list[NDArray[Any]]]:
        video, audio = embed_frames(retriever, Inputs(of, budget.clip, data.statistics))
        vectors = [part.numpy() for part in (video.clip_BE, audio.clip_BE, video.frames_BTE, audio.frames_BTE)]
        return scores(*vectors), vectors

    twins = []
    for name, (ahead, _) in DIFFERENCES.items():
        for number in TWIN_SEEDS:
            twin_scores, _ = ranked(rendered(TWIN_VIDEOS, number, twins=True, twin_ahead_seconds=ahead))
            choices = {score: twin_choice(of(twin_scores)) for score, (of, _) in SCORES.items()}
            weights = {f"{weight:g}": twin_choice(twin_scores.weighted(weight)) for weight in WEIGHTS}
            twins.append({"difference": name, "gallery": number, "choice": choices, "weights": weights})
    gallery_scores, vectors = ranked(gallery)
    rerank = SequenceRerank(vectors[2], vectors[3], TOP), SequenceRerank(vectors[3], vectors[2], TOP)
    return {
        "seed": seed,
        "model": model,
        "teraflop": finetuning.teraflop,
        "twins": twins,
        "candidates": len(gallery),
        "all": {score: r1_both_directions(of(gallery_scores)) for score, (of, _) in SCORES.items()},
        "weights": {f"{weight:g}": r1_both_directions(gallery_scores.weighted(weight)) for weight in WEIGHTS},
        "reranked": {
            "video_to_audio": rank_metrics(ranks_of(vectors[0], vectors[1], rerank=rerank[0])),
            "audio_to_video": rank_metrics(ranks_of(vectors[1], vectors[0], rerank=rerank[1])),
        },
        "milliseconds": milliseconds(rerank[0], vectors[0], vectors[1]),
        "top": TOP,
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def scores(video_NE: NDArray[Any], audio_NE: NDArray[Any], video_NTE: NDArray[Any], audio_NTE: NDArray[Any]) -> Scores:
    """Computes the scores from the unit vectors of clips and frames."""
    video, audio = (frames.astype(np.float64) for frames in (video_NTE, audio_NTE))
    aligned = np.einsum("nte,mte->nm", video, audio, optimize=True) / video.shape[1]
    return Scores(
        video_NE.astype(np.float64) @ audio_NE.T.astype(np.float64), aligned, aligned - video.mean(1) @ audio.mean(1).T
    )


def twin_choice(scores_NN: NDArray[np.float64]) -> dict[str, float]:
    """Returns how often the true counterpart scores above that of the twin; chance is 0.5, a tie counts as an error.

    Videos 2k and 2k + 1 are twins.
    """
    own, each = np.diag(scores_NN), np.arange(len(scores_NN))
    twin = each ^ 1
    return {
        "video_to_audio": float((own > scores_NN[each, twin] + TIE).mean()),
        "audio_to_video": float((own > scores_NN[twin, each] + TIE).mean()),
    }


def r1_both_directions(scores_NN: NDArray[np.float64]) -> dict[str, float]:
    """Returns R@1 among all videos, in both directions."""
    return {
        "video_to_audio": rank_metrics(ranks(scores_NN, tie=TIE))["R@1"],
        "audio_to_video": rank_metrics(ranks(scores_NN.T, tie=TIE))["R@1"],
    }


def milliseconds(rerank: SequenceRerank, queries_QE: NDArray[Any], candidates_NE: NDArray[Any]) -> float:
    """Measures re-ranking for one query after its candidates are found: the median over the queries of the gallery."""
    scores_QN = queries_QE.astype(np.float64) @ candidates_NE.T.astype(np.float64)
    seconds = []
    for query in range(len(scores_QN)):
        started = time.perf_counter()
        rerank(query, scores_QN[query : query + 1], np.array([query]))
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


def document(rows: Sequence[dict[str, Any]], search: dict[str, Any] | None) -> str:
    """Returns the document, from the stored rows and the cost of a search."""
    first, kinds = rows[0], [model for model in MODELS if any(row["model"] == model for row in rows)]
    lines = [
        "# Matching in time",
        "",
        "Written by `python -m benchmarks.twins`; do not edit. Twins are videos with the same bodies, background and room in which things happen at different times. Retrievers of the",
        "study's budget `cpu` (nano, 1,200 easy videos, 9,600 clips of fine-tuning, no pre-training, CCA-initialized heads) are trained in two ways:",
        "",
        *(
            f"- *{MODELS[model][1]}*{DESCRIPTIONS[model]}: {np.mean([row['teraflop'] for row in _of(rows, model)]):.1f} TFLOP;"
            f" {_count(_of(rows, model), 'training')}."
            for model in kinds
        ),
        "",
        f"Each is tested on {len(TWIN_SEEDS)} galleries of {TWIN_VIDEOS // 2} pairs of twins per kind of difference, and on the study's gallery of {first['candidates']:,} videos. *Clip* is the cosine",
        "of the clip vectors, *aligned frames* the mean cosine of frame and audio window at the same instant, *timing* the same after the mean over the frames is subtracted from each clip, and the",
        f"*sequence score*, used by `--rerank sequence`, is clip + {TIMING_WEIGHT:g} × timing (formulas: `cmmixer.models.rerank`). Means over trainings and galleries, with the lowest and the highest in brackets.",
        "",
        f"{first['machine']['cores']} cores, GPU: {first['machine']['cuda']}, torch {first['machine']['torch']}; {', '.join(sorted({row['date'] for row in rows}))}. Re-ranking the "
        f"best {first['top']} of a query takes {np.median([row['milliseconds'] for row in rows]):.2f} ms after its candidates are found.",
        *_search_cost_lines(search),
        "",
        "## True counterpart or twin?",
        "",
        "How often the true counterpart scores higher than that of the twin. Chance is 0.5; a tie counts as an error.",
        "",
        f"| towers | twins differ by | direction | {' | '.join(title for _, title in SCORES.values())} |",
        f"|---|---|---|{'---|' * len(SCORES)}",
    ]
    for model in kinds:
        for name, (_, difference) in DIFFERENCES.items():
            for way, direction in DIRECTIONS.items():
                found = [each for row in _of(rows, model) for each in row["twins"] if each["difference"] == name]
                cells = [_mean_and_range([each["choice"][score][way] for each in found]) for score in SCORES]
                lines.append(f"| {MODELS[model][1]} | {difference} | {direction} | {' | '.join(cells)} |")
    lines += [
        "",
        "The wheel in these videos turns once a second, and the frames of a clip are a second apart, so every frame of a video shows the wheel at the same angle. If a twin differs in that",
        "angle, all of its frames differ, and their mean shows it: the order of the frames is not needed. Twins that are whole seconds apart have the same wheel angles, and only the order of events",
        "differs. There, a clip vector is near chance, whatever the towers.",
        "",
        f"## All {first['candidates']:,} videos",
        "",
        f"| R@1 | direction | {' | '.join(title for _, title in SCORES.values())} | clip, best {first['top']} re-ranked by the sequence score |",
        f"|---|---|{'---|' * len(SCORES)}---|",
    ]
    for model in kinds:
        for way, direction in DIRECTIONS.items():
            same = _of(rows, model)
            cells = [_mean_and_range([row["all"][score][way] for row in same]) for score in SCORES]
            cells.append(_mean_and_range([row["reranked"][way]["R@1"] for row in same]))
            lines.append(f"| {MODELS[model][1]} | {direction} | {' | '.join(cells)} |")
    chance = 1 / first["candidates"]
    lines += [
        f"| chance | | {' | '.join([f'{chance:.3f}'] * (len(SCORES) + 1))} |",
        "",
        "## Weight of the timing",
        "",
        f"Clip + weight × timing, mean of both directions. {TIMING_WEIGHT:g} was chosen on the gallery of seed {TUNED_ON[1]} with the training of seed {TUNED_ON[0]}, which is excluded from the rows on twins.",
        "",
        f"| towers | data | {' | '.join(f'{weight:g}' for weight in WEIGHTS)} |",
        f"|---|---|{'---|' * len(WEIGHTS)}",
    ]
    for model in kinds:
        same = _of(rows, model)
        unseen = [
            each
            for row in same
            for each in row["twins"]
            if each["difference"] == "1" and (row["seed"], each["gallery"]) != TUNED_ON
        ]
        for gallery, measured in (("twins 1 s apart", unseen), (f"R@1 of {first['candidates']:,}", same)):
            cells = [
                _mean_and_range([_mean(each["weights"][f"{weight:g}"]) for each in measured]) for weight in WEIGHTS
            ]
            lines.append(f"| {MODELS[model][1]} | {gallery} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


DESCRIPTIONS = {
    "strip": ", as in the study: the towers see all frames of a clip in order, and the loss compares whole clips",
    "frame-level": " (`cmmixer finetune --frame_level --frame_weight 1`): the towers see one frame at a time, a clip vector does not depend on the order of its frames, and the loss compares every frame with all "
    "audio windows of the batch, including those of its own clip",
}


def _search_cost_lines(search: dict[str, Any] | None) -> list[str]:
    if search is None:
        return []
    return [
        f"In an index of {search['moments']:,} moments ({search['frames']} frames of {search['length']} values each) a search for one moment takes {search['without_milliseconds']:.1f} ms, with "
        f"`--rerank sequence` {search['with_milliseconds']:.1f} ms, with the frames read from disk (medians, taken in turns, load average {search['load']:.0f})."
    ]


def _of(rows: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["model"] == model]


def _count(rows: Sequence[Any], word: str) -> str:
    return f"{len(rows)} {word}" + ("s" if len(rows) != 1 else "")


def _mean(by_direction: dict[str, float]) -> float:
    return float(np.mean([by_direction[way] for way in DIRECTIONS]))


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
