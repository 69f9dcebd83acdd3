"""Blocks compute the same however they are told to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmixer.models.layers import Block, attend, speed_up


def _run(block: nn.Module, tokens: Tensor) -> tuple[Tensor, list[Tensor], int]:
    """Output, gradients of all weights, and bytes kept for the backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(tokens)
    gradients = torch.autograd.grad(out.square().sum(), list(block.parameters()))
    return out, list(gradients), kept


def test_computing_again_gives_the_same_bits_and_keeps_little() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Block(32, 4), Block(32, 4))
    again, tokens = copy.deepcopy(plain), torch.randn(2, 20, 32, requires_grad=True)
    speed_up(again, compiled=False, recompute=True)
    first, second = _run(plain, tokens), _run(again, tokens)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))
    # The input of each block is all that is kept from outside.
    assert second[2] <= 2 * tokens.numel() * 4 < first[2] / 8


# torch's compiler uses what torch itself has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_blocks_give_the_same_and_keep_their_names() -> None:
    torch.manual_seed(0)
    plain = Block(32, 4)
    fast, tokens = copy.deepcopy(plain), torch.randn(2, 20, 32)
    speed_up(fast, compiled=True, recompute=False)
    assert list(fast.state_dict()) == list(plain.state_dict())
    first, second = _run(plain, tokens), _run(fast, tokens)
    torch.testing.assert_close(first[0], second[0])
    for one, other in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [50, 600, 1100])
def test_attention_in_half_precision_is_near_that_in_single(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, tokens, 16, generator=generator).unbind()
    exact = functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    half = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().mean() < 0.01 * exact.abs().mean() + 0.002
    torch.testing.assert_close(attend(query, key, value).double(), exact, rtol=1e-4, atol=1e-5)
