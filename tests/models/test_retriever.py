from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmmixer.config import PRESETS, ClipSettings, ModelSettings
from cmmixer.models.heads import pool, tower_features
from cmmixer.models.losses import info_nce
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.patches import Grid, frame_parts, to_strip
from cmmixer.models.retriever import Retriever
from cmmixer.models.vit import Encoded
from cmmixer.types import Statistics
from tests.models.test_vit import encoder_parameters
from tests.support.small_runs import PICO

MODEL = ModelSettings(dim=32, depth=2, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)
STATISTICS = Statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), mel_mean=-40.0, mel_std=12.0, clips=1)


def retriever(**options: object) -> Retriever:
    torch.manual_seed(0)
    return Retriever(MODEL, PICO, STATISTICS, embed_dim=12, **options)  # type: ignore[arg-type]


def pictures(clips: int = 6, frames: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video, audio = torch.randn(2, clips, frames, 3, 32, 32, generator=generator)
    return video, audio


def media(clips: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (clips, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    windows = torch.randint(-9000, 9000, (clips, 2, PICO.window_samples), generator=generator, dtype=torch.int16)
    return pixels, windows


@pytest.mark.parametrize("shared", [False, True])
def test_embeddings_have_unit_length(shared: bool) -> None:
    pairs = retriever(shared_tower=shared)(*pictures())
    for embedding in (pairs.video, pairs.audio):
        assert embedding.clip_BE.shape == (6, 12)
        assert embedding.frames_BTE.shape == (6, 2, 12)
        torch.testing.assert_close(embedding.clip_BE.norm(dim=-1), torch.ones(6))
        torch.testing.assert_close(embedding.frames_BTE.norm(dim=-1), torch.ones(6, 2))


@torch.no_grad()
def test_an_embedding_is_its_formula() -> None:
    network, (video, _) = retriever(), pictures()
    tokens = network.encoders["video"](to_strip(video)).tokens_BND[:, 1:]  # 4 rows x 8 columns, 4 of each frame
    grid = tokens.reshape(6, 4, 8, 32)
    clip, frames = tokens.mean(1), torch.stack([grid[:, :, :4].mean((1, 2)), grid[:, :, 4:].mean((1, 2))], dim=1)
    mean, spread = clip.mean(0), (clip.var(0, correction=0) + 1e-5).sqrt()
    project = network.heads["video"].project.weight
    embedding = network(*pictures()).video
    for given, feature in ((embedding.clip_BE, clip), (embedding.frames_BTE, frames)):
        expected = ((feature - mean) / spread) @ project.T
        torch.testing.assert_close(given, expected / expected.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_in_evaluation_a_clip_does_not_depend_on_its_batch() -> None:
    network = retriever()
    network(*pictures())
    network.eval()
    pixels, windows = media()
    for embed, inputs in ((network.embed_video, pixels), (network.embed_audio, windows)):
        whole = embed(inputs)
        for rows in (slice(0, 1), slice(2, 5), slice(5, None)):
            part = embed(inputs[rows])
            torch.testing.assert_close(part.clip_BE, whole.clip_BE[rows], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(part.frames_BTE, whole.frames_BTE[rows], rtol=1e-5, atol=1e-6)
        turned = embed(inputs.flip(0))
        torch.testing.assert_close(turned.clip_BE.flip(0), whole.clip_BE, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_embedding_media_is_embedding_their_standardised_pictures() -> None:
    network = retriever().eval()
    pixels, windows = media()
    pairs = network(network.frontend.video(pixels), network.frontend.audio(windows))
    torch.testing.assert_close(network.embed_video(pixels).clip_BE, pairs.video.clip_BE)
    torch.testing.assert_close(network.embed_audio(windows).frames_BTE, pairs.audio.frames_BTE)


@pytest.mark.parametrize("shared", [False, True])
def test_published_defect_the_loss_never_saw_the_towers(shared: bool) -> None:
    """There, the loss was computed on raw inputs; here, its gradient reaches every weight of both towers."""
    network = retriever(shared_tower=shared)
    pairs = network(*pictures())
    info_nce(pairs.video.clip_BE, pairs.audio.clip_BE, pairs.logit_scale).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A shift common to a batch is taken out by the standardisation.
        if not name.endswith("norm.bias"):
            assert parameter.grad.abs().sum() > 0, name


def test_a_shared_tower_is_one_encoder_with_two_heads() -> None:
    two, one = retriever(), retriever(shared_tower=True)

    def count(network: Retriever) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(two) - count(one) == encoder_parameters(MODEL)
    assert count(two) == 2 * encoder_parameters(MODEL) + 2 * 32 * 12 + 1
    names = list(one.state_dict())
    assert len({value.data_ptr() for value in one.state_dict().values()}) == len(names)


@pytest.mark.parametrize("shared", [False, True])
def test_start_from_a_pretrained_encoder(shared: bool) -> None:
    torch.manual_seed(7)
    pretrained, network = MaskedAutoencoder(MODEL, PICO), retriever(shared_tower=shared)
    for weights in (pretrained.state_dict(), pretrained.encoder.state_dict()):
        network.start_from(weights)
        for tower in network.encoders.values():
            for name, value in pretrained.encoder.state_dict().items():
                assert torch.equal(tower.state_dict()[name], value)
    with torch.no_grad():
        network.encoders["shared" if shared else "video"].cls += 1
    assert not torch.equal(pretrained.encoder.cls, network.encoders["shared" if shared else "video"].cls)


def test_start_from_another_shape_is_refused() -> None:
    other = MaskedAutoencoder(ModelSettings(16, 1, 2, 8, 1, 2, 8), PICO)
    with pytest.raises(RuntimeError, match="embed"):
        retriever().start_from(other.state_dict())


def test_the_scale_starts_at_the_temperature_and_stops_at_100() -> None:
    network = retriever(temperature=0.05)
    assert network(*pictures()).logit_scale.item() == pytest.approx(20.0, rel=1e-5)
    with torch.no_grad():
        network.logit_scale.fill_(9.0)
    pairs = network(*pictures())
    assert pairs.logit_scale.item() == pytest.approx(100.0, rel=1e-4)
    assert network.logit_scale.item() == pytest.approx(math.log(100.0))
    # At the limit there is a way back.
    pairs.logit_scale.backward()
    assert network.logit_scale.grad is not None
    assert network.logit_scale.grad.item() > 0


def test_two_passes_may_wait_for_one_backward() -> None:
    network = retriever()
    scales = [network(*pictures(seed=seed)).logit_scale for seed in (0, 1)]
    sum(scales).backward()
    assert network.logit_scale.grad is not None
    assert network.logit_scale.grad.item() == pytest.approx(2 / 0.07, rel=1e-5)


def test_masked_training_pools_what_is_visible() -> None:
    network, (video, audio) = retriever(), pictures()
    noise = torch.rand(2, 6, 32, generator=torch.Generator().manual_seed(0))
    pairs = network(video, audio, mask_ratio=0.5, noise=(noise[0], noise[1]))
    assert not torch.allclose(pairs.video.clip_BE, retriever()(video, audio).video.clip_BE)
    generator = torch.Generator().manual_seed(0)
    drawn = network(video, audio, mask_ratio=0.5, generator=generator)
    torch.testing.assert_close(drawn.video.clip_BE, pairs.video.clip_BE, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs noise or a generator"):
        network(video, audio, mask_ratio=0.5)


@pytest.mark.parametrize("interleave", [False, True])
def test_pooling_equals_loops(interleave: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 1 + 3, 4, generator=generator)
    restore = torch.stack([torch.randperm(8, generator=generator) for _ in range(2)])
    parts = frame_parts(2, Grid(2, 4), 8, interleave)
    clip, frames = pool(Encoded(tokens, torch.zeros(2, 8), restore), parts)
    for b in range(2):
        visible = [number for place in range(3) for number in range(8) if restore[b, number] == place]
        torch.testing.assert_close(clip[b], sum(tokens[b, 1 + place] for place in range(3)) / 3)
        for t in range(2):
            weights = [parts[t, number].item() for number in visible]
            total = sum(w * tokens[b, 1 + place] for place, w in enumerate(weights))
            expected = total / sum(weights) if sum(weights) else torch.zeros(4)
            torch.testing.assert_close(frames[b, t], expected)


@torch.no_grad()
def test_frames_apart_are_clips_of_one_frame_and_their_order_is_not_in_the_clip() -> None:
    network, (video, audio) = retriever(frames_apart=True).eval(), pictures(frames=4)
    pairs = network(video, audio)
    for sense, given in (("video", video), ("audio", audio)):
        got = getattr(pairs, sense)
        encoder, head = network.tower(sense), network.heads[sense]
        each = [encoder(to_strip(given[:, place : place + 1])).tokens_BND[:, 1:].mean(1) for place in range(4)]
        expected = head(torch.stack(each, 1).mean(1), torch.stack(each, 1))
        torch.testing.assert_close(got.clip_BE, expected.clip_BE)
        torch.testing.assert_close(got.frames_BTE, expected.frames_BTE)
        assert (got.frames_BTE[:, 0] - got.frames_BTE[:, 1]).abs().max() > 0.01
    order = [2, 0, 3, 1]
    moved = network(video[:, order], audio).video
    torch.testing.assert_close(moved.clip_BE, pairs.video.clip_BE)
    torch.testing.assert_close(moved.frames_BTE, pairs.video.frames_BTE[:, order])
    strips = retriever().eval()
    assert (strips(video[:, order], audio).video.clip_BE - strips(video, audio).video.clip_BE).abs().max() > 1e-4


@torch.no_grad()
def test_a_mask_of_frames_apart_drops_as_many_tokens_of_each() -> None:
    network, (video, _) = retriever(frames_apart=True), pictures(clips=2)
    noise = torch.rand(2, 32, generator=torch.Generator().manual_seed(1))  # 16 tokens of each of 2 frames
    _, frames = tower_features(network.tower("video"), video, 8, apart=True, mask_ratio=0.75, noise=noise)
    _, alone = tower_features(network.tower("video"), video[1:, 1:], 8, mask_ratio=0.75, noise=noise[1:, 16:])
    torch.testing.assert_close(frames[1, 1], alone[0, 0])
    whole, _ = tower_features(network.tower("video"), video[1:, 1:], 8)
    assert (whole[0] - alone[0, 0]).abs().max() > 1e-3


def test_interleaved_frames_are_all_the_clip() -> None:
    """Patches of an interleaved strip hold columns of every frame, so no frame can be told from another."""
    embedding = retriever(interleave=True)(*pictures()).video
    torch.testing.assert_close(
        embedding.frames_BTE, embedding.clip_BE.unsqueeze(1).expand(-1, 2, -1), rtol=1e-4, atol=1e-4
    )


def test_frames_may_be_more_than_before() -> None:
    assert retriever()(*pictures(frames=5)).video.frames_BTE.shape == (6, 5, 12)


def test_compiles_as_one_graph() -> None:
    network = retriever()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    expected = retriever()(*pictures()).video.clip_BE
    torch.testing.assert_close(compiled(*pictures()).video.clip_BE, expected)
    torch.testing.assert_close(network.heads["video"].standardize.batches, torch.ones(()))


def test_half_precision_gives_float32_unit_vectors() -> None:
    network = retriever()
    exact = network(*pictures()).video.clip_BE
    with torch.autocast("cpu", torch.bfloat16):
        half = network(*pictures()).video.clip_BE
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(6))
    assert (half * exact).sum(-1).min() > 0.99


def test_standardising_is_what_lets_a_small_contrast_through() -> None:
    """Features that share one large component: their cosines come apart only once it is taken out."""
    network = retriever()
    embedding = network(*pictures(clips=32)).video.clip_BE
    others = ~torch.eye(32, dtype=torch.bool)
    assert (embedding @ embedding.T)[others].mean().abs() < 0.1
    raw = network.encoders["video"](to_strip(pictures(clips=32)[0])).tokens_BND[:, 1:].mean(1)
    raw = torch.nn.functional.normalize(raw, dim=-1)
    assert (raw @ raw.T)[others].mean() > 0.6


@pytest.mark.parametrize("name", PRESETS)
def test_all_presets_construct(name: str) -> None:
    base = PRESETS[name]
    clip = ClipSettings(**{key: getattr(base, key) for key in vars(PICO)})
    with torch.device("meta"):
        network = Retriever(base.model, clip, STATISTICS, embed_dim=256)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 2 * encoder_parameters(base.model) + 2 * base.model.dim * 256 + 1
