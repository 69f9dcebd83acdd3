"""The machine's own best matrix product: what no network, made of products, can be faster than."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cmmixer.models.linear import HAS_ONEDNN, multiply

# A side at which the machine's matrix products are at their best and still take well under a second.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}


class Peak(NamedTuple):
    """Floating-point operations a second of the machine's best matrix product: by the clock, and of a processor's core."""

    flops: float
    core_flops: float | None


class BestProduct:
    """A large square product, timed as often as is asked, by each of torch's libraries that has it.

    Args:
        device: where it is multiplied.
        kind: of the numbers.
    """

    def __init__(self, device: torch.device, kind: torch.dtype) -> None:
        self._device = device
        self._side = PEAK_SIDE[device.type]
        self._left, self._right = (torch.randn(self._side, self._side, device=device).to(kind) for _ in range(2))
        self._ways: list[Callable[[Tensor, Tensor], Tensor]] = [torch.matmul]
        if device.type == "cpu" and kind == torch.float32 and HAS_ONEDNN:
            self._ways.append(multiply)
        self._seconds: list[float] = []
        self._processor_seconds: list[float] = []

    @torch.no_grad()
    def time(self) -> None:
        """Once more."""
        for way in self._ways:
            begun, used = time.perf_counter(), time.process_time()
            way(self._left, self._right)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._seconds.append(time.perf_counter() - begun)
            self._processor_seconds.append(time.process_time() - used)

    def peak(self) -> Peak:
        """Of the fastest."""
        flop = 2 * self._side**3
        core = flop / min(self._processor_seconds) if self._device.type == "cpu" else None
        return Peak(flop / min(self._seconds), core)
