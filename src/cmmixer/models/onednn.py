"""A linear layer whose float32 products go to oneDNN on a processor, forward and backward, instead of the BLAS torch was built with.

torch multiplies float32 matrices with MKL, which on processors of other makers than its own leaves half of the rate lying (AMD
EPYC with AVX-512: 100 against 230 GFLOP/s a core, docs/step.md). oneDNN stands in the same torch. Values differ by rounding only.

Letters: D values in, K values out.

Matrix products of a network that only answers: oneDNN's, with weights laid out once.

Beside what `models.linear` gains, oneDNN need not lay the weights out anew for each product, and computes the GELU behind a layer
while the layer's output is still in the caches (docs/embedding.md).

Letters: D values in, K values out.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

ONEDNN: Any = torch.ops.mkldnn

# Whether this torch has oneDNN's products, on a kind of processor where they were measured.
HAS_ONEDNN = (
    bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    and hasattr(ONEDNN, "_linear_pointwise")
    and platform.machine().lower() in ("x86_64", "amd64")
)


class Linear(nn.Linear):
    """`nn.Linear`, [..., D] -> [..., K], with the same weights under the same names.

    On other devices, in other precisions and in an export it is torch's own.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self._takes(values):
            return super().forward(values)
        out: Tensor = _linear(values, self.weight, self.bias)
        return out

    def _takes(self, values: Tensor) -> bool:
        return (
            values.device.type == "cpu"
            and values.dtype == self.weight.dtype == torch.float32
            and values.numel() > 0
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_exporting()
            and HAS_ONEDNN
        )


def multiply(values: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """The product values weight' + bias, [..., D] by [K, D] -> [..., K], and the GELU of it; without gradients.

    Args:
        weight: of any strides, or laid out by oneDNN.
    """
    out: Tensor = ONEDNN._linear_pointwise(values, weight, bias, "gelu" if gelu else "none", [], "none")
    return out


# An operator of its own, so that torch's compiler, which does not know oneDNN's, leaves it as it is. Not by `custom_op`, whose
# first call imports the compiler: a second at the start of every training.
torch.library.define("cmmixer::linear", "(Tensor values, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl("cmmixer::linear", "CPU")
def _by_onednn(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return multiply(values, weight, bias)


@torch.library.register_fake("cmmixer::linear")  # type: ignore[untyped-decorator]
def _shape(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return values.new_empty(*values.shape[:-1], weight.shape[0])


OPERATOR: Any = torch.ops.cmmixer.linear


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = OPERATOR(values, weight, bias)
    return out


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients dx = dy W, dW = dy' x, db = the sum of dy."""
    values, weight = ctx.saved_tensors
    of_values, of_weight, of_bias = ctx.needs_input_grad
    flat_NK = gradient.reshape(-1, gradient.shape[-1])
    # oneDNN reads transposed matrices where they lie; copies of them were slower (docs/lab-notebook.md).
    return (
        _linear(gradient, weight.t(), None) if of_values else None,
        _linear(flat_NK.t(), values.reshape(-1, values.shape[-1]).t(), None) if of_weight else None,
        flat_NK.sum(0) if of_bias else None,
    )


torch.library.register_autograd("cmmixer::linear", _backward, setup_context=_keep)


class PackedLinear(nn.Module):
    """An `nn.Linear`, [..., D] -> [..., K], or it and the GELU that follows; float32, on a processor, without gradients."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.gelu = linear.in_features, linear.out_features, gelu
        self._weight = ONEDNN._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        return multiply(values, self._weight, self._bias, gelu=self.gelu)


def pack_linears(network: nn.Module) -> None:
    """Puts `PackedLinear` in the place of every linear layer; the network cannot be trained or saved afterwards.

    Args:
        network: float32, on a processor with oneDNN (`models.linear.HAS_ONEDNN`), in evaluation mode.
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
