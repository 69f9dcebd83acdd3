"""Linear layers whose float32 matrix products run in oneDNN on CPU, for training and for inference.

torch multiplies float32 matrices with the BLAS it was built with, usually MKL. On CPUs of other makers than Intel, MKL reaches
less than half of the possible rate (AMD EPYC with AVX-512: 100 against 230 GFLOP/s per core, docs/step.md). oneDNN is part of
the same torch. Values differ by rounding only.

`Linear` replaces `nn.Linear`, forward and backward. `PackedLinear` is for inference only: the weights are reordered once
instead of for each product, and a GELU behind the layer is computed while the output is still in the caches
(docs/embedding.md).

Letters: D values in, K values out, N rows.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

ONEDNN: Any = torch.ops.mkldnn

# Whether this torch has oneDNN's products, and the CPU is of a kind on which they were measured.
HAS_ONEDNN = (
    bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    and hasattr(ONEDNN, "_linear_pointwise")
    and platform.machine().lower() in ("x86_64", "amd64")
)


class Linear(nn.Linear):
    """An `nn.Linear`, [..., D] -> [..., K], with the same weights under the same names.

    On other devices, in other precisions and in an export it falls back to torch's own product.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self._supports(values):
            return super().forward(values)
        out: Tensor = _linear(values, self.weight, self.bias)
        return out

    def _supports(self, values: Tensor) -> bool:
        return (
            values.device.type == "cpu"
            and values.dtype == self.weight.dtype == torch.float32
            and values.numel() > 0
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_exporting()
            and HAS_ONEDNN
        )


class PackedLinear(nn.Module):
    """An `nn.Linear`, [..., D] -> [..., K], optionally with the GELU behind it; float32 on CPU, without gradients."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.gelu = linear.in_features, linear.out_features, gelu
        self._weight = ONEDNN._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        return multiply(values, self._weight, self._bias, gelu=self.gelu)


def pack_linears(network: nn.Module) -> None:
    """Replaces every linear layer by a `PackedLinear`, in place. The network can no longer be trained or saved.

    Args:
        network: float32, in evaluation mode, on a CPU with oneDNN (`HAS_ONEDNN`).
    """
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Linear):
            setattr(network, name, PackedLinear(child))
        elif isinstance(child, nn.Sequential):
            setattr(network, name, _pack_sequential(child))
        else:
            pack_linears(child)


def _pack_sequential(children: nn.Sequential) -> nn.Sequential:
    """Packs the linear layers; a GELU directly behind one is merged into it."""
    packed: list[nn.Module] = []
    for child in children:
        previous = packed[-1] if packed else None
        if isinstance(child, nn.Linear):
            packed.append(PackedLinear(child))
        elif (
            isinstance(child, nn.GELU)
            and child.approximate == "none"
            and isinstance(previous, PackedLinear)
            and not previous.gelu
        ):
            previous.gelu = True
        else:
            pack_linears(child)
            packed.append(child)
    return nn.Sequential(*packed).train(children.training)


def multiply(values: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Computes values weight' + bias, [..., D] by [K, D] -> [..., K], or the GELU of it; without gradients.

    Args:
        values: float32 on CPU.
        weight: with any strides, or reordered by oneDNN.
        bias: [K].
        gelu: apply the exact GELU to the result.
    """
    out: Tensor = ONEDNN._linear_pointwise(values, weight, bias, "gelu" if gelu else "none", [], "none")
    return out


# An operator of its own, because torch's compiler does not know oneDNN's and must leave it as it is. Not by `custom_op`,
# whose first call imports the compiler: that would cost a second at the start of every training.
torch.library.define("cmmixer::linear", "(Tensor values, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl("cmmixer::linear", "CPU")
def _linear_cpu(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return multiply(values, weight, bias)


@torch.library.register_fake("cmmixer::linear")  # type: ignore[untyped-decorator]
def _linear_fake(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return values.new_empty(*values.shape[:-1], weight.shape[0])


OPERATOR: Any = torch.ops.cmmixer.linear


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = OPERATOR(values, weight, bias)
    return out


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients dx = dy W, dW = dy' x, db = sum of dy."""
    values, weight = ctx.saved_tensors
    needs_values, needs_weight, needs_bias = ctx.needs_input_grad
    flat_NK = gradient.reshape(-1, gradient.shape[-1])
    # oneDNN reads transposed matrices in place; copying them first was slower (docs/lab-notebook.md).
    return (
        _linear(gradient, weight.t(), None) if needs_values else None,
        _linear(flat_NK.t(), values.reshape(-1, values.shape[-1]).t(), None) if needs_weight else None,
        flat_NK.sum(0) if needs_bias else None,
    )


torch.library.register_autograd("cmmixer::linear", _backward, setup_context=_save_for_backward)
