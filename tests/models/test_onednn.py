"""The linear layer whose products oneDNN computes: torch's own values and gradients, wherever it is used.

Matrix products by oneDNN: the network's own values, whatever the batch, and nothing left that was not packed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.speed.flops import counted
from cmmixer.encoders.base import MixedEncoder
from cmmixer.encoders.loading import ModelEncoder, load_encoder
from cmmixer.models import onednn
from cmmixer.models.onednn import HAS_ONEDNN, Linear, PackedLinear, pack_linears
from cmmixer.models.vit import Block
from tests.support.small_runs import NANO, untrained_run

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="this processor or this torch has no such products")

SHAPES: dict[str, Callable[[], Tensor]] = {
    "one row": lambda: torch.randn(1, 48),
    "rows": lambda: torch.randn(37, 48),
    "tokens": lambda: torch.randn(3, 5, 48),
    "four axes": lambda: torch.randn(2, 3, 5, 48),
    "strided": lambda: torch.randn(5, 3, 96).transpose(0, 1)[..., ::2],
    "across": lambda: torch.randn(48, 37).t(),
    "no rows": lambda: torch.randn(0, 48),
}


def _both(bias: bool = True) -> tuple[Linear, nn.Linear]:
    ours = Linear(48, 20, bias=bias)
    theirs = nn.Linear(48, 20, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that oneDNN was given."""
    given: list[tuple[int, ...]] = []
    multiply = onednn.multiply

    def watched(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        given.append(tuple(weight.shape))
        return multiply(values, weight, bias)

    monkeypatch.setattr(onednn, "multiply", watched)
    return given


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_torchs(shape: str, bias: bool) -> None:
    torch.manual_seed(0)
    values = SHAPES[shape]()
    gradients = []
    for layer in _both(bias):
        given = values.detach().requires_grad_()
        out = layer(given)
        # Columns of a wider matrix, as the chunks of q, k and v give them back.
        out.backward(torch.linspace(-1, 1, 2 * out.numel()).view(*out.shape[:-1], 40)[..., 7:27])
        gradients.append((out.detach(), given.grad, layer.weight.grad, layer.bias.grad if bias else None))
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=1e-5)


def test_each_of_the_three_products_is_onednns(products: list[tuple[int, ...]]) -> None:
    ours, _ = _both()
    ours(torch.randn(6, 48, requires_grad=True)).sum().backward()
    assert products == [(20, 48), (48, 20), (48, 6)]


def test_what_needs_no_gradient_is_not_multiplied_for(products: list[tuple[int, ...]]) -> None:
    ours, _ = _both()
    ours.weight.requires_grad_(False)
    values = torch.randn(6, 48, requires_grad=True)
    ours(values).sum().backward()
    assert products == [(20, 48), (48, 20)]
    assert ours.weight.grad is None
    assert ours.bias.grad is not None
    with torch.inference_mode():
        ours(values)
    assert len(products) == 3


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_to_torch(kind: torch.dtype, products: list[tuple[int, ...]]) -> None:
    ours, theirs = (layer.to(kind) for layer in _both())
    values = torch.randn(6, 48, dtype=kind)
    assert torch.equal(ours(values), theirs(values))
    assert products == []


def test_under_autocast_it_is_torchs_bfloat16(products: list[tuple[int, ...]]) -> None:
    ours, theirs = _both()
    values = torch.randn(6, 48)
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(values)
        assert torch.equal(out, theirs(values))
    assert out.dtype == torch.bfloat16
    assert products == []


def test_its_arithmetic_is_counted_as_torchs() -> None:
    values = torch.randn(3, 5, 48, requires_grad=True)
    counts = [counted(lambda layer=layer: layer(values).sum())[1] for layer in _both()]  # type: ignore[misc]
    assert counts == [3 * 2 * 15 * 48 * 20] * 2


def test_an_exported_network_holds_torchs_own_operators() -> None:
    ours, _ = _both()
    program = torch.export.export(ours.eval(), (torch.randn(3, 48),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.linear.default"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_and_computed_twice_a_block_learns_the_same() -> None:
    torch.manual_seed(0)
    block = Block(48, 3)
    tokens = torch.randn(2, 9, 48)
    gradients = []
    for way in (
        lambda copied: copied(tokens),
        lambda copied: torch.compile(copied, dynamic=False)(tokens),
        lambda copied: checkpoint(copied, tokens, use_reentrant=False),
    ):
        copied = copy.deepcopy(block)
        way(copied).square().sum().backward()
        gradients.append([parameter.grad for parameter in copied.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, atol=1e-4, rtol=1e-4)


def _media(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    shape = (batch, NANO.frames, 3, NANO.height, NANO.width)
    samples = torch.randint(-9000, 9000, (batch, NANO.frames, NANO.window_samples), generator=chance)
    return {
        "embed_video": torch.randint(0, 256, shape, generator=chance).to(torch.uint8),
        "embed_audio": samples.to(torch.int16),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return untrained_run(tmp_path_factory.mktemp("run"), NANO, embed_dim=32)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_the_vectors_are_those_of_the_plain_network(run: Path, batch: int) -> None:
    plain, packed = ModelEncoder.load(run, torch.device("cpu")), load_encoder(run, "cpu")
    assert isinstance(packed, ModelEncoder)
    kinds = {type(part) for part in packed.model.modules()}
    assert PackedLinear in kinds
    assert not {Linear, nn.Linear, nn.GELU} & kinds
    assert (packed.dim, packed.id) == (plain.dim, plain.id) == (32, plain.id)
    for name, media in _media(batch).items():
        wanted, got = getattr(plain, name)(media), getattr(packed, name)(media)
        for one, other in zip(wanted, got, strict=True):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=0.0)
            assert float(one.std()) > 0.01
        alone = getattr(packed, name)(media[-1:])
        torch.testing.assert_close(alone.clip_BE[0], got.clip_BE[-1], atol=2e-6, rtol=0.0)


def test_another_thread_gives_the_same_bits(run: Path) -> None:
    encoder = load_encoder(run, "cpu")
    media = _media(4)["embed_video"]
    with ThreadPoolExecutor(1) as other:
        assert torch.equal(
            other.submit(encoder.embed_video, media).result().clip_BE, encoder.embed_video(media).clip_BE
        )


def test_a_gelu_goes_into_the_layer_before_it_and_no_other_does() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.GELU(), Linear(6, 8), nn.GELU(), nn.GELU(), nn.Linear(8, 8, bias=False), nn.GELU(approximate="tanh"),
        nn.LayerNorm(8), nn.GELU(), nn.Sequential(nn.Linear(8, 3), nn.ReLU()),
    ).eval()  # fmt: skip
    values = torch.randn(5, 4, 6)
    holder = nn.ModuleDict({"inside": copy.deepcopy(network)})
    pack_linears(holder)
    packed = holder["inside"]
    assert [type(part).__name__ for part in packed] == [  # type: ignore[union-attr]
        "GELU", "PackedLinear", "GELU", "PackedLinear", "GELU", "LayerNorm", "GELU", "Sequential",
    ]  # fmt: skip
    assert not packed.training
    with torch.inference_mode():
        torch.testing.assert_close(packed(values), network(values), atol=1e-6, rtol=0.0)


def test_bfloat16_is_near_and_of_unit_length(run: Path) -> None:
    plain, mixed = ModelEncoder.load(run, torch.device("cpu")), load_encoder(run, "cpu", "bf16-mixed")
    assert isinstance(mixed, MixedEncoder)
    assert (mixed.id, mixed.path, mixed.dim, mixed.clip) == (plain.id, plain.path, plain.dim, plain.clip)
    for name, media in _media(6).items():
        for one, other in zip(getattr(plain, name)(media), getattr(mixed, name)(media), strict=True):
            assert other.dtype == torch.float32
            torch.testing.assert_close(other.norm(dim=-1), torch.ones(other.shape[:-1]), atol=1e-6, rtol=0.0)
            cosines = (one * other).sum(-1)
            assert 0.999 < float(cosines.min()) < 1.0 - 1e-7
