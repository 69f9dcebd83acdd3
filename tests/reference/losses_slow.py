"""Contrastive losses by the algorithms of their papers, in loops."""

from __future__ import annotations

import math

Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def info_nce(video: Rows, audio: Rows, scale: float) -> float:
    """CLIP, figure 3."""
    pairs, total = len(video), 0.0
    for queries, candidates in ((video, audio), (audio, video)):
        for i in range(pairs):
            denominator = 0.0
            for j in range(pairs):
                denominator += math.exp(scale * dot(queries[i], candidates[j]))
            total += -math.log(math.exp(scale * dot(queries[i], candidates[i])) / denominator)
    return total / (2 * pairs)


def nt_xent(video: Rows, audio: Rows, temperature: float) -> float:
    """SimCLR, algorithm 1: samples 2k - 1 and 2k are a pair."""
    samples = [row for pair in zip(video, audio, strict=True) for row in pair]
    total = 0.0
    for i in range(len(samples)):
        partner = i + 1 if i % 2 == 0 else i - 1
        denominator = 0.0
        for k in range(len(samples)):
            if k != i:
                denominator += math.exp(dot(samples[i], samples[k]) / temperature)
        total += -math.log(math.exp(dot(samples[i], samples[partner]) / temperature) / denominator)
    return total / len(samples)
