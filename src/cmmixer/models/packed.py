"""Matrix products of a network that only answers, by oneDNN instead of the BLAS that torch was built with.

torch multiplies float32 matrices with MKL, which on processors of other makers than its own leaves half of the rate lying (AMD
EPYC with AVX-512: 100 against 220 GFLOP/s a core, docs/embedding.md). oneDNN stands in the same torch; its weights are laid out
once, and it computes the GELU behind a layer while the layer's output is still in the caches. Values differ by rounding only.

Letters: D values in, K values out.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """An `nn.Linear`, [..., D] -> [..., K], or it and the GELU that follows; float32, on a processor, without gradients."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.gelu = linear.in_features, linear.out_features, gelu
        self._weight = _operators()._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        name = "gelu" if self.gelu else "none"
        out: Tensor = _operators()._linear_pointwise(values, self._weight, self._bias, name, [], "none")
        return out


def can_pack() -> bool:
    """Whether this torch has those operators, on a processor where they were measured."""
    there = bool(torch.backends.mkldnn.is_available()) and hasattr(_operators(), "_linear_pointwise")  # type: ignore[no-untyped-call]
    return there and platform.machine().lower() in ("x86_64", "amd64")


def pack_linears(network: nn.Module) -> None:
    """Puts `PackedLinear` in the place of every linear layer; the network cannot be trained or saved afterwards.

    Args:
        network: float32, on the processor, in evaluation mode.
    """
    for name, part in list(network.named_children()):
        if isinstance(part, nn.Linear):
            setattr(network, name, PackedLinear(part))
        elif isinstance(part, nn.Sequential):
            setattr(network, name, _packed_sequence(part))
        else:
            pack_linears(part)


def _packed_sequence(parts: nn.Sequential) -> nn.Sequential:
    """A GELU right behind a linear layer goes into it."""
    packed: list[nn.Module] = []
    for part in parts:
        before = packed[-1] if packed else None
        if isinstance(part, nn.Linear):
            packed.append(PackedLinear(part))
        elif (
            isinstance(part, nn.GELU)
            and part.approximate == "none"
            and isinstance(before, PackedLinear)
            and not before.gelu
        ):
            before.gelu = True
        else:
            pack_linears(part)
            packed.append(part)
    return nn.Sequential(*packed).train(parts.training)


def _operators() -> Any:
    return torch.ops.mkldnn
