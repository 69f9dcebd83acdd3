"""Ranks by counting, one candidate after the other."""

from __future__ import annotations

import math


def rank(scores: list[float], true: int) -> int:
    if math.isnan(scores[true]):
        return len(scores)
    others_at_least = 0
    for candidate, score in enumerate(scores):
        if candidate != true and score >= scores[true]:
            others_at_least += 1
    return 1 + others_at_least
