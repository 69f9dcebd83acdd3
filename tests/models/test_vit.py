"""The ViT encoder: blocks against their formula, positions against a slow twin, masking, sizes, and ways to compute."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmixer.config import PRESETS, ModelSettings
from cmmixer.models.patches import keep_count, patchify_strip
from cmmixer.models.vit import Attention, Block, StripEncoder, attend, sincos_positions, speed_up
from tests.reference import patches_slow

SMALL = ModelSettings(dim=16, depth=2, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2, patch=4)


def encoder(model: ModelSettings = SMALL) -> StripEncoder:
    torch.manual_seed(0)
    return StripEncoder(model)


def strips(batch: int = 2, height: int = 8, width: int = 16) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def slow_attention(attention: Attention, tokens_LD: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, head by head, query by query."""
    length, dim = tokens_LD.shape
    width = dim // attention.heads
    query, key, value = attention.qkv(tokens_LD).reshape(length, 3, attention.heads, width).unbind(1)
    out = torch.zeros(length, attention.heads, width)
    for head in range(attention.heads):
        for i in range(length):
            scores = torch.stack([query[i, head] @ key[j, head] / math.sqrt(width) for j in range(length)])
            for weight, j in zip(scores.softmax(0), range(length), strict=True):
                out[i, head] += weight * value[j, head]
    return attention.out(out.flatten(1))


@torch.no_grad()
def test_a_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block, tokens = Block(12, 3), torch.randn(2, 5, 12)
    for b in range(2):
        middle = tokens[b] + slow_attention(block.attention, block.norm_1(tokens[b]))
        hidden = block.mlp[0](block.norm_2(middle))
        gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        torch.testing.assert_close(block(tokens)[b], middle + block.mlp[2](gelu), rtol=1e-4, atol=1e-5)


def test_refuses_a_width_that_the_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"^width 10 is not divisible by 3 heads$"):
        Block(10, 3)


@torch.no_grad()
def test_tokens_are_cls_then_the_grid_in_order() -> None:
    network, strip = encoder(), strips()
    encoded = network(strip)
    assert encoded.tokens_BND.shape == (2, 1 + 8, 16)
    assert encoded.mask_BL is None
    tokens = network.embed(patchify_strip(strip, 4)) + sincos_positions(2, 4, 16)
    tokens = torch.cat([network.cls.expand(2, 1, 16), tokens], dim=1)
    for block in network.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(encoded.tokens_BND, network.norm(tokens))


@torch.no_grad()
def test_the_patch_embedding_is_a_convolution_of_stride_p() -> None:
    network, strip = encoder(), strips()
    kernel = network.embed.weight.reshape(16, 3, 4, 4)
    convolved = nn.functional.conv2d(strip, kernel, network.embed.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(network.embed(patchify_strip(strip, 4)), convolved, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_only_visible_tokens_are_encoded() -> None:
    network, strip = encoder(), strips()
    noise = torch.rand(2, 8, generator=torch.Generator().manual_seed(2))
    seen: list[int] = []
    network.blocks[0].register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    encoded = network(strip, mask_ratio=0.75, noise=noise)
    assert seen == [1 + 2]
    # Dropped patches change nothing.
    assert encoded.mask_BL is not None
    dropped = encoded.mask_BL.reshape(2, 1, 2, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = network(strip + 100 * dropped, mask_ratio=0.75, noise=noise)
    assert torch.equal(changed.tokens_BND, encoded.tokens_BND)
    # Visible patches are encoded with their own positions.
    tokens = network.embed(patchify_strip(strip, 4)) + sincos_positions(2, 4, 16)
    visible = torch.stack([tokens[b, noise[b].argsort()[:2]] for b in range(2)])
    tokens = torch.cat([network.cls.expand(2, 1, 16), visible], dim=1)
    for block in network.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(encoded.tokens_BND, network.norm(tokens))


def test_refuses_masking_without_noise() -> None:
    with pytest.raises(ValueError, match=r"^mask_ratio 0.5 needs noise \[B, L\]$"):
        encoder()(strips(), mask_ratio=0.5)


def test_encodes_strips_of_any_length() -> None:
    network = encoder()
    for width in (8, 16, 40):
        assert network(strips(width=width)).tokens_BND.shape[1] == 1 + 2 * width // 4


def test_initialization_is_that_of_mae() -> None:
    network = encoder(ModelSettings(64, 2, 4, 8, 1, 2, patch=8))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.95 * bound < module.weight.abs().max().item() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all()
    assert network.cls.std().item() == pytest.approx(0.02, rel=0.3)


def encoder_parameters(model: ModelSettings) -> int:
    d, patch = model.dim, 3 * model.patch**2
    block = (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + 4 * d
    return patch * d + d + d + model.depth * block + 2 * d


# DeiT-Ti has 5.5 M and so on, without the classifier and the learnt positions.
PUBLISHED_MILLIONS = {"tiny": 5.5, "small": 21.6, "base": 85.6, "large": 303.1, "huge": 630.4}


@pytest.mark.parametrize("name", PRESETS)
def test_published_defect_encoder_sizes(name: str) -> None:
    model = PRESETS[name].model
    with torch.device("meta"):
        network = StripEncoder(model)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == encoder_parameters(model)
    assert len(network.blocks) == model.depth
    if name in PUBLISHED_MILLIONS:
        assert count / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], rel=0.01)


def test_a_quarter_of_the_published_grid_stays_visible() -> None:
    assert keep_count(14 * 56, 0.75) == 196


def _run(block: nn.Module, tokens: Tensor) -> tuple[Tensor, list[Tensor], int]:
    """Output, gradients of all weights, and bytes saved for the backward pass."""
    saved = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(tokens)
    gradients = torch.autograd.grad(out.square().sum(), list(block.parameters()))
    return out, list(gradients), saved


def test_recomputing_is_bit_exact_and_saves_memory() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Block(32, 4), Block(32, 4))
    recomputing, tokens = copy.deepcopy(plain), torch.randn(2, 20, 32, requires_grad=True)
    speed_up(recomputing, compiled=False, recompute=True)
    out, gradients, saved = _run(plain, tokens)
    out_again, gradients_again, saved_again = _run(recomputing, tokens)
    assert torch.equal(out_again, out)
    assert all(torch.equal(x, y) for x, y in zip(gradients_again, gradients, strict=True))
    # Only the input of each block is saved.
    assert saved_again <= 2 * tokens.numel() * 4 < saved / 8


# torch's compiler uses what torch itself has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_blocks_compute_the_same() -> None:
    torch.manual_seed(0)
    plain = Block(32, 4)
    fast, tokens = copy.deepcopy(plain), torch.randn(2, 20, 32)
    speed_up(fast, compiled=True, recompute=False)
    assert list(fast.state_dict()) == list(plain.state_dict())
    (out, gradients, _), (out_fast, gradients_fast, _) = _run(plain, tokens), _run(fast, tokens)
    torch.testing.assert_close(out_fast, out)
    torch.testing.assert_close(gradients_fast, gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [50, 600, 1100])
def test_attention_in_half_precision_is_close_to_exact(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, tokens, 16, generator=generator).unbind()
    exact = functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    half = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().mean() < 0.01 * exact.abs().mean() + 0.002
    torch.testing.assert_close(attend(query, key, value).double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "cols", "dim"), [(1, 1, 4), (2, 5, 8), (14, 56, 32), (3, 200, 12)])
def test_positions_equal_the_slow_twin(rows: int, cols: int, dim: int) -> None:
    slow = torch.tensor(patches_slow.positions(rows, cols, dim))
    torch.testing.assert_close(sincos_positions(rows, cols, dim), slow, rtol=1e-6, atol=1e-6)


def test_published_defect_square_table_on_a_rectangular_grid() -> None:
    """There, a 28 x 28 table was used on a 14 x 56 grid. Here a row shares one half of its positions, a column the other."""
    table = sincos_positions(14, 56, 64).reshape(14, 56, 64)
    assert torch.equal(table[:, :, :32], table[:1, :, :32].expand(14, 56, 32))
    assert torch.equal(table[:, :, 32:], table[:, :1, 32:].expand(14, 56, 32))
    assert len(table.reshape(-1, 64).unique(dim=0)) == 14 * 56


def test_a_longer_strip_extends_the_positions() -> None:
    short, long = sincos_positions(4, 16, 32).reshape(4, 16, 32), sincos_positions(4, 64, 32).reshape(4, 64, 32)
    assert torch.equal(long[:, :16], short)


def test_refuses_positions_of_a_width_not_divisible_by_4() -> None:
    with pytest.raises(ValueError, match=r"^sine-cosine positions of two axes need a width divisible by 4; got 6$"):
        sincos_positions(2, 2, 6)
