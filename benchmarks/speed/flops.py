"""Counts the arithmetic of a step: unlike minutes it does not depend on what else a machine does."""

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


# The counter knows the attention kernels of GPUs and torch's own products only.
_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    OPERATOR: _product,
}


def counted(loss_of: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """A loss after its backward pass, and the floating-point operations of the matrix products of both passes."""
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
    return loss, counter.get_total_flops()


def multiplications(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of what it does, without a backward pass."""
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        work()
    return int(counter.get_total_flops())
