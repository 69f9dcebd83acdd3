"""Matrix products by oneDNN: the network's own values, whatever the batch, and nothing left that was not packed."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from cmmixer.encoders import ModelEncoder, load_encoder
from cmmixer.encoders.mixed import MixedEncoder
from cmmixer.models.linear import HAS_ONEDNN, Linear
from cmmixer.models.packed import PackedLinear, pack_linears
from tests.conftest import NANO, untrained_run

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="this processor or this torch has no such products")


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
