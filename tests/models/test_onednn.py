"""Linear layers by oneDNN: values and gradients of torch's own, when it is used, and packed networks for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.speed.flops import count_training_flops
from cmmixer.encoders.base import MixedPrecisionEncoder
from cmmixer.encoders.loading import ModelEncoder, load_encoder
from cmmixer.models import onednn
from cmmixer.models.onednn import HAS_ONEDNN, Linear, PackedLinear, pack_linears
from cmmixer.models.vit import Block
from tests.support.small_runs import NANO, untrained_run

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="no oneDNN products in this torch, or not measured on this CPU")

SHAPES: dict[str, Callable[[], Tensor]] = {
    "one row": lambda: torch.randn(1, 48),
    "rows": lambda: torch.randn(37, 48),
    "tokens": lambda: torch.randn(3, 5, 48),
    "four axes": lambda: torch.randn(2, 3, 5, 48),
    "strided": lambda: torch.randn(5, 3, 96).transpose(0, 1)[..., ::2],
    "across": lambda: torch.randn(48, 37).t(),
    "no rows": lambda: torch.randn(0, 48),
}


def _layers(bias: bool = True) -> tuple[Linear, nn.Linear]:
    ours = Linear(48, 20, bias=bias)
    theirs = nn.Linear(48, 20, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that oneDNN multiplied with."""
    shapes: list[tuple[int, ...]] = []
    multiply = onednn.multiply

    def record(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append(tuple(weight.shape))
        return multiply(values, weight, bias)

    monkeypatch.setattr(onednn, "multiply", record)
    return shapes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_torchs(shape: str, bias: bool) -> None:
    torch.manual_seed(0)
    values = SHAPES[shape]()
    gradients = []
    for layer in _layers(bias):
        leaf = values.detach().requires_grad_()
        out = layer(leaf)
        # Columns of a wider matrix, like the gradients of the chunks of q, k and v.
        out.backward(torch.linspace(-1, 1, 2 * out.numel()).view(*out.shape[:-1], 40)[..., 7:27])
        gradients.append((out.detach(), leaf.grad, layer.weight.grad, layer.bias.grad if bias else None))
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=1e-5)


def test_all_three_products_run_in_onednn(products: list[tuple[int, ...]]) -> None:
    ours, _ = _layers()
    ours(torch.randn(6, 48, requires_grad=True)).sum().backward()
    assert products == [(20, 48), (48, 20), (48, 6)]


def test_gradients_that_are_not_needed_are_not_computed(products: list[tuple[int, ...]]) -> None:
    ours, _ = _layers()
    ours.weight.requires_grad_(False)
    values = torch.randn(6, 48, requires_grad=True)
    ours(values).sum().backward()
    assert products == [(20, 48), (48, 20)]
    assert ours.weight.grad is None
    assert ours.bias.grad is not None
    with torch.inference_mode():
        ours(values)
    assert len(products) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_use_torch(dtype: torch.dtype, products: list[tuple[int, ...]]) -> None:
    ours, theirs = (layer.to(dtype) for layer in _layers())
    values = torch.randn(6, 48, dtype=dtype)
    assert torch.equal(ours(values), theirs(values))
    assert products == []


def test_autocast_uses_torchs_bfloat16(products: list[tuple[int, ...]]) -> None:
    ours, theirs = _layers()
    values = torch.randn(6, 48)
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(values)
        assert torch.equal(out, theirs(values))
    assert out.dtype == torch.bfloat16
    assert products == []


def test_flops_are_counted_as_torchs() -> None:
    values = torch.randn(3, 5, 48, requires_grad=True)
    counts = [count_training_flops(lambda layer=layer: layer(values).sum())[1] for layer in _layers()]  # type: ignore[misc]
    assert counts == [3 * 2 * 15 * 48 * 20] * 2


def test_an_exported_layer_uses_torchs_own_operator() -> None:
    ours, _ = _layers()
    program = torch.export.export(ours.eval(), (torch.randn(3, 48),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.linear.default"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_and_recomputed_blocks_have_the_same_gradients() -> None:
    """Traced forward and backward; `test_vit` generates code for a block as well."""
    torch.manual_seed(0)
    block = Block(48, 3)
    tokens = torch.randn(2, 9, 48)
    gradients = []
    for forward in (
        lambda network: network(tokens),
        lambda network: torch.compile(network, dynamic=False, backend="aot_eager")(tokens),
        lambda network: checkpoint(network, tokens, use_reentrant=False),
    ):
        network = copy.deepcopy(block)
        forward(network).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, atol=1e-4, rtol=1e-4)


def _media(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, NANO.frames, 3, NANO.height, NANO.width)
    samples = torch.randint(-9000, 9000, (batch, NANO.frames, NANO.window_samples), generator=generator)
    return {
        "embed_video": torch.randint(0, 256, shape, generator=generator).to(torch.uint8),
        "embed_audio": samples.to(torch.int16),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return untrained_run(tmp_path_factory.mktemp("run"), NANO, embed_dim=32)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_packed_embeddings_equal_the_plain_network(run: Path, batch: int) -> None:
    plain, packed = ModelEncoder.load(run, torch.device("cpu")), load_encoder(run, "cpu")
    assert isinstance(packed, ModelEncoder)
    types = {type(module) for module in packed.model.modules()}
    assert PackedLinear in types
    assert not {Linear, nn.Linear, nn.GELU} & types
    assert (packed.dim, packed.id) == (plain.dim, plain.id) == (32, plain.id)
    for name, media in _media(batch).items():
        expected, embedding = getattr(plain, name)(media), getattr(packed, name)(media)
        for vectors, expected_vectors in zip(embedding, expected, strict=True):
            torch.testing.assert_close(vectors, expected_vectors, atol=2e-6, rtol=0.0)
            assert float(vectors.std()) > 0.01
        single = getattr(packed, name)(media[-1:])
        torch.testing.assert_close(single.clip_BE[0], embedding.clip_BE[-1], atol=2e-6, rtol=0.0)


def test_packed_embeddings_are_bit_exact_in_another_thread(run: Path) -> None:
    encoder = load_encoder(run, "cpu")
    media = _media(4)["embed_video"]
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(encoder.embed_video, media).result().clip_BE, encoder.embed_video(media).clip_BE)


def test_pack_linears_merges_only_a_gelu_behind_a_layer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.GELU(), Linear(6, 8), nn.GELU(), nn.GELU(), nn.Linear(8, 8, bias=False), nn.GELU(approximate="tanh"),
        nn.LayerNorm(8), nn.GELU(), nn.Sequential(nn.Linear(8, 3), nn.ReLU()),
    ).eval()  # fmt: skip
    values = torch.randn(5, 4, 6)
    holder = nn.ModuleDict({"inside": copy.deepcopy(network)})
    pack_linears(holder)
    packed = holder["inside"]
    assert [type(child).__name__ for child in packed] == [  # type: ignore[union-attr]
        "GELU", "PackedLinear", "GELU", "PackedLinear", "GELU", "LayerNorm", "GELU", "Sequential",
    ]  # fmt: skip
    assert not packed.training
    with torch.inference_mode():
        torch.testing.assert_close(packed(values), network(values), atol=1e-6, rtol=0.0)


def test_mixed_precision_embeddings_are_close_and_of_unit_length(run: Path) -> None:
    plain, mixed = ModelEncoder.load(run, torch.device("cpu")), load_encoder(run, "cpu", "bf16-mixed")
    assert isinstance(mixed, MixedPrecisionEncoder)
    assert (mixed.id, mixed.path, mixed.dim, mixed.clip) == (plain.id, plain.path, plain.dim, plain.clip)
    for name, media in _media(6).items():
        for exact, vectors in zip(getattr(plain, name)(media), getattr(mixed, name)(media), strict=True):
            assert vectors.dtype == torch.float32
            torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]), atol=1e-6, rtol=0.0)
            cosines = (exact * vectors).sum(-1)
            assert 0.999 < float(cosines.min()) < 1.0 - 1e-7
