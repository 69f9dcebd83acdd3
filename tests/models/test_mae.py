"""The masked autoencoder: losses against a slow twin, what the encoder sees, gradients, precision, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cmmixer.config import PRESETS, ClipSettings, ModelSettings
from cmmixer.models.mae import MAEOutput, MaskedAutoencoder, masked_mse, normalize_patches
from cmmixer.models.mixer import blend
from cmmixer.models.patches import Grid, patchify_strip, to_strip
from cmmixer.models.vit import sincos_positions
from tests.models.test_vit import encoder_parameters
from tests.reference import patches_slow

MODEL = ModelSettings(dim=32, depth=2, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)
CLIP = ClipSettings(frames=2, height=16, width=16, clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000)


def autoencoder(**options: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(MODEL, CLIP, **options)  # type: ignore[arg-type]


def batch(clips: int = 3, frames: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Video, audio, mixing mask, noise."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(clips, frames, 3, 16, 16, generator=generator)
    audio = torch.randn(clips, frames, 1, 16, 16, generator=generator).expand(-1, -1, 3, -1, -1)
    mixing_mask = torch.rand(clips, frames, 1, 16, 16, generator=generator)
    return video, audio, mixing_mask, torch.rand(clips, 4 * frames, generator=generator)


def run(network: MaskedAutoencoder, inputs: tuple[Tensor, Tensor, Tensor, Tensor], ratio: float = 0.75) -> MAEOutput:
    video, audio, mixing_mask, noise = inputs
    return network(video, audio, mixing_mask, mask_ratio=ratio, noise_BL=noise)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("norm_pix", [False, True])
@torch.no_grad()
def test_losses_equal_the_slow_twin(norm_pix: bool, interleave: bool) -> None:
    inputs = batch()
    network = autoencoder(norm_pix=norm_pix, interleave=interleave, video_weight=0.5, audio_weight=3.0)
    output = run(network, inputs)
    slow = {}
    for name, frames, prediction in (
        ("video", inputs[0], output.prediction_video),
        ("audio", inputs[1], output.prediction_audio),
    ):
        target = [patches_slow.patches(patches_slow.strip(clip.double().numpy(), interleave), 8) for clip in frames]
        slow[name] = patches_slow.masked_loss(prediction.tolist(), target, output.mask.tolist(), norm_pix)
    assert output.loss_video.item() == pytest.approx(slow["video"], rel=1e-5)
    assert output.loss_audio.item() == pytest.approx(slow["audio"], rel=1e-5)
    assert output.loss.item() == pytest.approx(0.5 * slow["video"] + 3.0 * slow["audio"], rel=1e-5)


@torch.no_grad()
def test_forward_is_encoder_decoder_loss() -> None:
    network, (video, audio, mixing_mask, noise) = autoencoder(norm_pix=True, audio_weight=2.0), batch()
    video_BLP, audio_BLP = network.patchify(video), network.patchify(audio)
    mixed_BLP = network.patchify(blend(video, audio, mixing_mask))
    encoded = network.forward_encoder(mixed_BLP, Grid(2, 4), 0.75, noise)
    predictions = network.forward_decoder(encoded, Grid(2, 4))
    expected = network.forward_loss(video_BLP, audio_BLP, *predictions, encoded.mask_BL)
    assert encoded.tokens_BND.shape == (3, 1 + 2, 32)
    torch.testing.assert_close(run(network, (video, audio, mixing_mask, noise)), expected, rtol=1e-5, atol=1e-6)


def test_losses_are_weighted_and_without_a_mask_count_every_patch() -> None:
    network = autoencoder(video_weight=0.5, audio_weight=3.0)
    zeros, ones = torch.zeros(2, 8, 192), torch.ones(2, 8, 192)
    output = network.forward_loss(zeros, zeros, ones, 2 * ones, None)
    assert (output.loss_video.item(), output.loss_audio.item(), output.loss.item()) == (1.0, 4.0, 12.5)
    assert torch.equal(output.mask, torch.ones(2, 8))


def test_normalized_patches_have_mean_0_and_deviation_1_and_a_flat_one_is_0() -> None:
    patches = torch.stack([torch.arange(192.0), torch.full((192,), 7.0)]).unsqueeze(0)
    normalized = normalize_patches(patches)
    assert normalized[0, 0].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert normalized[0, 0].std(correction=0).item() == pytest.approx(1.0, rel=1e-6)
    assert normalized[0, 1].eq(0).all()
    assert torch.equal(autoencoder(norm_pix=True).target(patches), normalized)
    assert autoencoder().target(patches) is patches


@torch.no_grad()
def test_the_decoder_puts_visible_tokens_back_in_their_positions() -> None:
    network, (video, audio, mixing_mask, noise) = autoencoder(), batch(clips=1)
    seen: list[Tensor] = []
    network.decoder.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run(network, (video, audio, mixing_mask, noise))
    tokens = seen[0][0, 1:] - sincos_positions(2, 4, 16)
    hidden = [index for index in range(8) if index not in noise[0].argsort()[:2].tolist()]
    torch.testing.assert_close(tokens[hidden], network.decoder.mask_token.expand(6, 16), rtol=0, atol=1e-6)
    assert (tokens[noise[0].argsort()[:2]] - network.decoder.mask_token).abs().max() > 0.01


def test_refuses_a_mask_ratio_without_noise() -> None:
    video, audio, mixing_mask, _ = batch()
    with pytest.raises(ValueError, match=r"^mask_ratio 0.75 needs noise \[B, L\]$"):
        autoencoder()(video, audio, mixing_mask, mask_ratio=0.75)


def test_shapes_of_predictions_and_mask() -> None:
    output = run(autoencoder(), batch())
    assert output.prediction_video.shape == output.prediction_audio.shape == (3, 8, 8 * 8 * 3)
    assert output.mask.shape == (3, 8)
    assert output.mask.sum(1).tolist() == [6.0, 6.0, 6.0]


@torch.no_grad()
def test_the_encoder_gets_the_visible_patches_of_the_mix() -> None:
    network, (video, audio, mixing_mask, noise) = autoencoder(), batch()
    seen: list[Tensor] = []
    network.encoder.embed.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    output = run(network, (video, audio, mixing_mask, noise))
    mixed = patchify_strip(to_strip((1 - mixing_mask) * video + mixing_mask * audio), 8)
    for b in range(3):
        visible = noise[b].argsort()[:2]
        torch.testing.assert_close(seen[0][b], mixed[b, visible], rtol=1e-5, atol=1e-6)
        assert output.mask[b, visible].eq(0).all()


@torch.no_grad()
def test_hidden_patches_do_not_change_the_prediction() -> None:
    network, (video, audio, mixing_mask, noise) = autoencoder(), batch()
    before = run(network, (video, audio, mixing_mask, noise))
    hidden = before.mask.reshape(3, 1, 1, 2, 4).repeat_interleave(8, 3).repeat_interleave(8, 4)  # [B, 1, 1, H, T * W]
    hidden = torch.stack(hidden.split(16, dim=4), dim=1).squeeze(2)  # [B, T, 1, H, W]
    after = run(network, (video + 9 * hidden, audio - 9 * hidden, mixing_mask, noise))
    assert torch.equal(after.prediction_video, before.prediction_video)
    assert after.loss_video > before.loss_video


def test_loss_counts_masked_patches_only() -> None:
    prediction, target = torch.zeros(1, 4, 6), torch.ones(1, 4, 6)
    target[0, 1] = 3.0
    assert masked_mse(prediction, target, torch.tensor([[0.0, 1.0, 0.0, 0.0]])).item() == 9.0
    assert masked_mse(prediction, target, torch.tensor([[1.0, 1.0, 0.0, 0.0]])).item() == 5.0


def test_without_masking_every_patch_counts() -> None:
    network, (video, audio, mixing_mask, _) = autoencoder(), batch()
    output = network(video, audio, mixing_mask, mask_ratio=0.0)
    assert output.mask.eq(1).all()
    error = (output.prediction_video - patchify_strip(to_strip(video), 8)).square().mean()
    assert output.loss_video.item() == pytest.approx(error.item(), rel=1e-5)


def test_each_head_learns_from_its_own_modality() -> None:
    network = autoencoder(video_weight=1.0, audio_weight=0.0)
    run(network, batch()).loss.backward()
    assert network.decoder.audio_head.weight.grad is not None
    assert network.decoder.audio_head.weight.grad.eq(0).all()
    network = autoencoder()
    run(network, batch()).loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_learns_to_separate_a_mix() -> None:
    """Frames of one grey level and spectrograms of stripes, mixed half and half; each head learns its own modality."""
    network = autoencoder()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    stripes = (1.0 - 2.0 * (torch.arange(16) % 2)).expand(16, 16)
    for _ in range(150):
        grey = torch.randn(2, 16, 1, 1, 1, 1, generator=generator).expand(2, 16, 2, 3, 16, 16)
        mixing_mask = (torch.arange(16) < 8).float().expand(16, 2, 1, 16, 16)
        noise = torch.rand(16, 8, generator=generator)
        loss = network(grey[0], grey[1] * stripes, mixing_mask, mask_ratio=0.5, noise_BL=noise).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.25 * losses[0]


def test_reconstructs_clips_of_more_frames() -> None:
    network = autoencoder()
    output = run(network, batch(frames=5))
    assert output.prediction_video.shape[1] == 20
    assert torch.isfinite(output.loss)


def test_the_autoencoder_compiles_as_one_graph() -> None:
    network, (video, audio, mixing_mask, noise) = autoencoder(), batch()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    loss = compiled(video, audio, mixing_mask, mask_ratio=0.75, noise_BL=noise).loss
    assert loss.item() == pytest.approx(run(network, (video, audio, mixing_mask, noise)).loss.item(), rel=1e-6)


def test_the_loss_is_float32_in_half_precision() -> None:
    network, inputs = autoencoder(), batch()
    exact = run(network, inputs).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = run(network, inputs).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.02)


def test_the_autoencoder_refuses_frames_that_do_not_fit_the_patches() -> None:
    with pytest.raises(ValueError, match="frames of 20 x 16 pixels are not a whole number of patches of side 8"):
        MaskedAutoencoder(MODEL, ClipSettings(**{**vars(CLIP), "height": 20}))


@pytest.mark.parametrize("name", PRESETS)
def test_published_defect_decoder_sizes(name: str) -> None:
    """There, `dec512d8b` built 256 x 4."""
    base = PRESETS[name]
    clip = ClipSettings(**{key: getattr(base, key) for key in vars(CLIP)})
    with torch.device("meta"):
        network = MaskedAutoencoder(base.model, clip)
    d, patch = base.model.decoder_dim, 3 * base.model.patch**2
    decoder = (
        base.model.dim * d + d + d + base.model.decoder_depth * (12 * d * d + 13 * d) + 2 * d + 2 * (d * patch + patch)
    )
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == encoder_parameters(base.model) + decoder
    assert len(network.decoder.blocks) == base.model.decoder_depth
