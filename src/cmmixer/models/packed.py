"""Matrix products of a network that only answers: oneDNN's, with weights laid out once.

Beside what `models.linear` gains, oneDNN need not lay the weights out anew for each product, and computes the GELU behind a layer
while the layer's output is still in the caches (docs/embedding.md).

Letters: D values in, K values out.
"""

from __future__ import annotations

from torch import Tensor, nn

from cmmixer.models.linear import ONEDNN, multiply


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
