"""The retriever: embeddings by the formula, independence of the batch, masking, pre-trained towers, the logit scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmmixer.config import PRESETS, ClipSettings, ModelSettings
from cmmixer.errors import SettingsError
from cmmixer.models.heads import fit_cca, tower_features
from cmmixer.models.losses import info_nce
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.models.patches import to_strip
from cmmixer.models.retriever import Retriever
from cmmixer.types import Statistics
from tests.models.test_vit import encoder_parameters
from tests.support.small_runs import PICO

MODEL = ModelSettings(dim=32, depth=2, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)
STATISTICS = Statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), mel_mean=-40.0, mel_std=12.0, clips=1)


def retriever(**options: object) -> Retriever:
    torch.manual_seed(0)
    return Retriever(MODEL, PICO, STATISTICS, embed_dim=12, **options)  # type: ignore[arg-type]


def inputs(clips: int = 6, frames: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
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
    pairs = retriever(shared_tower=shared)(*inputs())
    for embedding in (pairs.video, pairs.audio):
        assert embedding.clip_BE.shape == (6, 12)
        assert embedding.frames_BTE.shape == (6, 2, 12)
        torch.testing.assert_close(embedding.clip_BE.norm(dim=-1), torch.ones(6))
        torch.testing.assert_close(embedding.frames_BTE.norm(dim=-1), torch.ones(6, 2))


@torch.no_grad()
def test_embeddings_are_the_formula() -> None:
    network, (video, _) = retriever(), inputs()
    tokens = network.encoders["video"](to_strip(video)).tokens_BND[:, 1:]  # 4 rows x 8 columns, 4 of each frame
    grid = tokens.reshape(6, 4, 8, 32)
    clip, frames = tokens.mean(1), torch.stack([grid[:, :, :4].mean((1, 2)), grid[:, :, 4:].mean((1, 2))], dim=1)
    mean, std = clip.mean(0), (clip.var(0, correction=0) + 1e-5).sqrt()
    project = network.heads["video"].project.weight
    embedding = network(*inputs()).video
    for embedded, feature in ((embedding.clip_BE, clip), (embedding.frames_BTE, frames)):
        expected = ((feature - mean) / std) @ project.T
        torch.testing.assert_close(embedded, expected / expected.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_in_evaluation_embeddings_do_not_depend_on_the_batch() -> None:
    network = retriever()
    network(*inputs())
    network.eval()
    pixels, windows = media()
    for embed, decoded in ((network.embed_video, pixels), (network.embed_audio, windows)):
        whole = embed(decoded)
        for rows in (slice(0, 1), slice(2, 5), slice(5, None)):
            part = embed(decoded[rows])
            torch.testing.assert_close(part.clip_BE, whole.clip_BE[rows], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(part.frames_BTE, whole.frames_BTE[rows], rtol=1e-5, atol=1e-6)
        reversed_batch = embed(decoded.flip(0))
        torch.testing.assert_close(reversed_batch.clip_BE.flip(0), whole.clip_BE, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_embed_video_and_embed_audio_normalize_media() -> None:
    network = retriever().eval()
    pixels, windows = media()
    pairs = network(network.frontend.video(pixels), network.frontend.audio(windows))
    torch.testing.assert_close(network.embed_video(pixels).clip_BE, pairs.video.clip_BE)
    torch.testing.assert_close(network.embed_audio(windows).frames_BTE, pairs.audio.frames_BTE)


@pytest.mark.parametrize("shared", [False, True])
def test_published_defect_the_loss_never_saw_the_towers(shared: bool) -> None:
    """There, the loss was computed on raw inputs. Here its gradient reaches every weight of both towers."""
    network = retriever(shared_tower=shared)
    pairs = network(*inputs())
    info_nce(pairs.video.clip_BE, pairs.audio.clip_BE, pairs.logit_scale).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # The normalization removes a shift common to the batch.
        if not name.endswith("norm.bias"):
            assert parameter.grad.abs().sum() > 0, name


def test_a_shared_tower_has_one_encoder_and_two_heads() -> None:
    separate, shared = retriever(), retriever(shared_tower=True)

    def count(network: Retriever) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(separate) - count(shared) == encoder_parameters(MODEL)
    assert count(separate) == 2 * encoder_parameters(MODEL) + 2 * 32 * 12 + 1
    names = list(shared.state_dict())
    assert len({value.data_ptr() for value in shared.state_dict().values()}) == len(names)


@pytest.mark.parametrize("shared", [False, True])
def test_loads_a_pretrained_encoder_into_all_towers(shared: bool) -> None:
    torch.manual_seed(7)
    pretrained, network = MaskedAutoencoder(MODEL, PICO), retriever(shared_tower=shared)
    for weights in (pretrained.state_dict(), pretrained.encoder.state_dict()):
        network.load_pretrained_encoder(weights)
        for tower in network.encoders.values():
            for name, value in pretrained.encoder.state_dict().items():
                assert torch.equal(tower.state_dict()[name], value)
    with torch.no_grad():
        network.encoders["shared" if shared else "video"].cls += 1
    assert not torch.equal(pretrained.encoder.cls, network.encoders["shared" if shared else "video"].cls)


def test_refuses_a_pretrained_encoder_of_another_shape() -> None:
    other = MaskedAutoencoder(ModelSettings(16, 1, 2, 8, 1, 2, 8), PICO)
    with pytest.raises(RuntimeError, match="embed"):
        retriever().load_pretrained_encoder(other.state_dict())


def test_the_logit_scale_starts_at_the_temperature_and_stops_at_100() -> None:
    network = retriever(temperature=0.05)
    assert network(*inputs()).logit_scale.item() == pytest.approx(20.0, rel=1e-5)
    with torch.no_grad():
        network.logit_scale.fill_(9.0)
    pairs = network(*inputs())
    assert pairs.logit_scale.item() == pytest.approx(100.0, rel=1e-4)
    assert network.logit_scale.item() == pytest.approx(math.log(100.0))
    # At the limit the gradient is not 0.
    pairs.logit_scale.backward()
    assert network.logit_scale.grad is not None
    assert network.logit_scale.grad.item() > 0


def test_two_forward_passes_before_one_backward() -> None:
    network = retriever()
    scales = [network(*inputs(seed=seed)).logit_scale for seed in (0, 1)]
    sum(scales).backward()
    assert network.logit_scale.grad is not None
    assert network.logit_scale.grad.item() == pytest.approx(2 / 0.07, rel=1e-5)


def test_masking_takes_noise_or_draws_it() -> None:
    network, (video, audio) = retriever(), inputs()
    noise = torch.rand(2, 6, 32, generator=torch.Generator().manual_seed(0))
    pairs = network(video, audio, mask_ratio=0.5, noise=(noise[0], noise[1]))
    assert not torch.allclose(pairs.video.clip_BE, retriever()(video, audio).video.clip_BE)
    generator = torch.Generator().manual_seed(0)
    drawn = network(video, audio, mask_ratio=0.5, generator=generator)
    torch.testing.assert_close(drawn.video.clip_BE, pairs.video.clip_BE, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^mask_ratio above 0 needs noise or a generator$"):
        network(video, audio, mask_ratio=0.5)


@torch.no_grad()
def test_frame_level_encoding_treats_frames_as_clips_of_one_frame() -> None:
    network, (video, audio) = retriever(frame_level=True).eval(), inputs(frames=4)
    pairs = network(video, audio)
    for modality, frames in (("video", video), ("audio", audio)):
        embedding = getattr(pairs, modality)
        encoder, head = network.tower(modality), network.heads[modality]
        single = [encoder(to_strip(frames[:, t : t + 1])).tokens_BND[:, 1:].mean(1) for t in range(4)]
        clip_BE, frames_BTE = head(torch.stack(single, 1).mean(1), torch.stack(single, 1))
        torch.testing.assert_close(embedding.clip_BE, clip_BE)
        torch.testing.assert_close(embedding.frames_BTE, frames_BTE)
        assert (embedding.frames_BTE[:, 0] - embedding.frames_BTE[:, 1]).abs().max() > 0.01
    order = [2, 0, 3, 1]
    reordered = network(video[:, order], audio).video
    torch.testing.assert_close(reordered.clip_BE, pairs.video.clip_BE)
    torch.testing.assert_close(reordered.frames_BTE, pairs.video.frames_BTE[:, order])
    strip_level = retriever().eval()
    assert (
        strip_level(video[:, order], audio).video.clip_BE - strip_level(video, audio).video.clip_BE
    ).abs().max() > 1e-4


@torch.no_grad()
def test_frame_level_masking_drops_as_many_tokens_of_each_frame() -> None:
    network, (video, _) = retriever(frame_level=True), inputs(clips=2)
    noise = torch.rand(2, 32, generator=torch.Generator().manual_seed(1))  # 16 tokens of each of 2 frames
    _, frames = tower_features(network.tower("video"), video, 8, frame_level=True, mask_ratio=0.75, noise=noise)
    _, alone = tower_features(network.tower("video"), video[1:, 1:], 8, mask_ratio=0.75, noise=noise[1:, 16:])
    torch.testing.assert_close(frames[1, 1], alone[0, 0])
    whole, _ = tower_features(network.tower("video"), video[1:, 1:], 8)
    assert (whole[0] - alone[0, 0]).abs().max() > 1e-3


def test_frames_of_an_interleaved_strip_equal_the_clip() -> None:
    """Each patch of an interleaved strip holds columns of every frame, so all frames have the same features."""
    embedding = retriever(interleave=True)(*inputs()).video
    torch.testing.assert_close(
        embedding.frames_BTE, embedding.clip_BE.unsqueeze(1).expand(-1, 2, -1), rtol=1e-4, atol=1e-4
    )


def test_embeds_clips_of_more_frames() -> None:
    assert retriever()(*inputs(frames=5)).video.frames_BTE.shape == (6, 5, 12)


def test_the_retriever_compiles_as_one_graph() -> None:
    network = retriever()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    expected = retriever()(*inputs()).video.clip_BE
    torch.testing.assert_close(compiled(*inputs()).video.clip_BE, expected)
    torch.testing.assert_close(network.heads["video"].feature_norm.batches, torch.ones(()))


def test_embeddings_are_float32_in_half_precision() -> None:
    network = retriever()
    exact = network(*inputs()).video.clip_BE
    with torch.autocast("cpu", torch.bfloat16):
        half = network(*inputs()).video.clip_BE
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(6))
    assert (half * exact).sum(-1).min() > 0.99


def test_normalization_separates_embeddings_of_an_untrained_tower() -> None:
    """Its features share one large component. Their cosines are near 1 until it is removed."""
    network = retriever()
    embedding = network(*inputs(clips=32)).video.clip_BE
    others = ~torch.eye(32, dtype=torch.bool)
    assert (embedding @ embedding.T)[others].mean().abs() < 0.1
    raw = network.encoders["video"](to_strip(inputs(clips=32)[0])).tokens_BND[:, 1:].mean(1)
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


def test_initialize_heads_initializes_each_head_from_its_own_modality() -> None:
    network = retriever()
    video, audio = torch.randn(2, 50, 32, generator=torch.Generator().manual_seed(4))
    network.initialize_heads(video, audio)
    maps = fit_cca(video, audio)
    for modality, rows_KD, features in (("video", maps.video_KD, video), ("audio", maps.audio_KD, audio)):
        head = network.heads[modality]
        torch.testing.assert_close(head.project.weight, rows_KD[:12].float())
        torch.testing.assert_close(head.feature_norm.running_mean, features.mean(0))


@torch.no_grad()
def test_features_are_the_pooled_tokens_of_each_modality() -> None:
    network, (video, audio) = retriever().eval(), inputs()
    for modality, frames in (("video", video), ("audio", audio)):
        tokens = network.tower(modality)(to_strip(frames)).tokens_BND[:, 1:]
        torch.testing.assert_close(network.features(modality, frames), tokens.mean(1))


def test_refuses_clips_that_do_not_fit_the_patches() -> None:
    clip = ClipSettings(**{**vars(PICO), "width": 36})
    with pytest.raises(SettingsError, match=r"^frames of 32 x 36 pixels are not a whole number of patches of side 8;"):
        Retriever(MODEL, clip, STATISTICS)
