"""Step size over the run: linear warm-up from 0, then half a cosine (arXiv 1608.03983) down to the floor."""

from __future__ import annotations

import math


def step_size(step: float, *, total_steps: float, warmup_steps: float, peak: float, floor: float) -> float:
    """The step size of step `step`, counted from 0.

    Warm-up: peak * (step + 1) / warmup. Then floor + (peak - floor) * (1 + cos(pi * part)) / 2, where `part` runs from 0
    to 1 over the steps after the warm-up.
    """
    if step < warmup_steps:
        return peak * min(1.0, (step + 1) / warmup_steps)
    part = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))
