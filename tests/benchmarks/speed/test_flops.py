"""The FLOP counter knows the matrix products, attention and linear kernels that run on CPUs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.speed.flops import count_flops, count_training_flops
from cmmixer.models.onednn import Linear


def test_matrix_product_counts_two_operations_per_multiplication() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7


def test_linear_layers_count_the_same_in_torch_and_onednn() -> None:
    rows = torch.ones(4, 6, 16)
    for layer in (nn.Linear(16, 8), Linear(16, 8)):
        with torch.no_grad():
            assert count_flops(lambda layer=layer: layer(rows)) == 2 * 4 * 6 * 16 * 8  # type: ignore[misc]


def test_backward_pass_counts_weights_and_inputs() -> None:
    layer, rows = Linear(16, 8), torch.ones(4, 16)
    loss, flops = count_training_flops(lambda: layer(rows).sum())
    assert flops == 2 * (2 * 4 * 16 * 8)  # the input needs no gradient
    assert layer.weight.grad is not None
    assert loss.item() == layer(rows).sum().item()
    _, with_input = count_training_flops(lambda: layer(rows.clone().requires_grad_()).sum())
    assert with_input == 3 * (2 * 4 * 16 * 8)


def test_attention_counts_both_products() -> None:
    query = torch.ones(2, 3, 10, 8)
    with torch.no_grad():
        flops = count_flops(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert flops == 2 * (2 * 2 * 3 * 10 * 10 * 8)
