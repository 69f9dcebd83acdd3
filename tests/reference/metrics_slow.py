"""Retrieval metrics by counting, one query and one candidate after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank(scores: Sequence[float], true: int) -> int:
    """Counts the other candidates whose score is at least the true one's."""
    if math.isnan(scores[true]):
        return len(scores)
    others_at_least = 0
    for candidate, score in enumerate(scores):
        if candidate != true and score >= scores[true]:
            others_at_least += 1
    return 1 + others_at_least


def metrics(ranks: Sequence[int]) -> dict[str, float]:
    """Computes R@K, MedR and MRR from their definitions."""
    found: dict[str, float] = {}
    for k in (1, 5, 10):
        hits = 0
        for each in ranks:
            if each <= k:
                hits += 1
        found[f"R@{k}"] = hits / len(ranks)
    ordered = sorted(ranks)
    middle = len(ordered) // 2
    found["MedR"] = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    total = 0.0
    for each in ranks:
        total += 1 / each
    found["MRR"] = total / len(ranks)
    return found


def gallery_metrics(video: Sequence[Sequence[float]], audio: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """Ranks a gallery in both directions by dot products."""

    def dot(one: Sequence[float], other: Sequence[float]) -> float:
        return math.fsum(a * b for a, b in zip(one, other, strict=True))

    forward = [rank([dot(query, candidate) for candidate in audio], true) for true, query in enumerate(video)]
    backward = [rank([dot(query, candidate) for candidate in video], true) for true, query in enumerate(audio)]
    return {"video_to_audio": metrics(forward), "audio_to_video": metrics(backward)}
