"""Counts floating-point operations, which unlike minutes do not depend on other work on the machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cmmixer.models.onednn import OPERATOR


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    count: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return count


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
    count: int = sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
    return count


def _product(values: Any, weight: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    count: int = 2 * math.prod(values) * weight[0]
    return count


# torch's counter knows only the attention kernels of GPUs and torch's own matrix products.
_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    OPERATOR: _product,
}


def count_training_flops(loss_of: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Runs a forward and a backward pass. Returns the loss and the FLOP of the matrix products of both passes."""
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
    return loss, counter.get_total_flops()


def count_flops(work: Callable[[], object]) -> int:
    """Runs `work` and returns the FLOP of its matrix products, without a backward pass."""
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        work()
    return int(counter.get_total_flops())
