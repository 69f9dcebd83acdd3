from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cmmixer.config import PRESETS, ClipSettings, ModelSettings
from cmmixer.models.mae import MAEOutput, MaskedAutoencoder, masked_mse
from cmmixer.models.patches import patchify, to_strip
from tests.models.test_vit import encoder_parameters
from tests.reference import patches_slow

MODEL = ModelSettings(dim=32, depth=2, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)
CLIP = ClipSettings(frames=2, height=16, width=16, clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000)


def autoencoder(**options: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(MODEL, CLIP, **options)  # type: ignore[arg-type]


def batch(clips: int = 3, frames: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Video, audio, share, noise."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(clips, frames, 3, 16, 16, generator=generator)
    audio = torch.randn(clips, frames, 1, 16, 16, generator=generator).expand(-1, -1, 3, -1, -1)
    share = torch.rand(clips, frames, 1, 16, 16, generator=generator)
    return video, audio, share, torch.rand(clips, 4 * frames, generator=generator)


def run(network: MaskedAutoencoder, inputs: tuple[Tensor, Tensor, Tensor, Tensor], ratio: float = 0.75) -> MAEOutput:
    video, audio, share, noise = inputs
    return network(video, audio, share, mask_ratio=ratio, noise_BL=noise)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("norm_pix", [False, True])
@torch.no_grad()
def test_the_loss_equals_the_slow_twin(norm_pix: bool, interleave: bool) -> None:
    inputs = batch()
    network = autoencoder(norm_pix=norm_pix, interleave=interleave, video_weight=0.5, audio_weight=3.0)
    output = run(network, inputs)
    slow = {}
    for name, pictures, prediction in (
        ("video", inputs[0], output.prediction_video),
        ("audio", inputs[1], output.prediction_audio),
    ):
        target = [patches_slow.patches(patches_slow.strip(clip.double().numpy(), interleave), 8) for clip in pictures]
        slow[name] = patches_slow.masked_loss(prediction.tolist(), target, output.mask.tolist(), norm_pix)
    assert output.loss_video.item() == pytest.approx(slow["video"], rel=1e-5)
    assert output.loss_audio.item() == pytest.approx(slow["audio"], rel=1e-5)
    assert output.loss.item() == pytest.approx(0.5 * slow["video"] + 3.0 * slow["audio"], rel=1e-5)


def test_shapes_and_mask() -> None:
    output = run(autoencoder(), batch())
    assert output.prediction_video.shape == output.prediction_audio.shape == (3, 8, 8 * 8 * 3)
    assert output.mask.shape == (3, 8)
    assert output.mask.sum(1).tolist() == [6.0, 6.0, 6.0]


@torch.no_grad()
def test_what_goes_in_is_the_visible_part_of_the_mix() -> None:
    network, (video, audio, share, noise) = autoencoder(), batch()
    seen: list[Tensor] = []
    network.encoder.embed.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    output = run(network, (video, audio, share, noise))
    mixed = patchify(to_strip((1 - share) * video + share * audio), 8)
    for b in range(3):
        visible = noise[b].argsort()[:2]
        torch.testing.assert_close(seen[0][b], mixed[b, visible], rtol=1e-5, atol=1e-6)
        assert output.mask[b, visible].eq(0).all()


@torch.no_grad()
def test_what_is_hidden_changes_no_prediction() -> None:
    network, (video, audio, share, noise) = autoencoder(), batch()
    before = run(network, (video, audio, share, noise))
    hidden = before.mask.reshape(3, 1, 1, 2, 4).repeat_interleave(8, 3).repeat_interleave(8, 4)  # [B, 1, 1, H, T * W]
    hidden = torch.stack(hidden.split(16, dim=4), dim=1).squeeze(2)  # [B, T, 1, H, W]
    after = run(network, (video + 9 * hidden, audio - 9 * hidden, share, noise))
    assert torch.equal(after.prediction_video, before.prediction_video)
    assert after.loss_video > before.loss_video


def test_loss_counts_masked_patches_only() -> None:
    prediction, target = torch.zeros(1, 4, 6), torch.ones(1, 4, 6)
    target[0, 1] = 3.0
    assert masked_mse(prediction, target, torch.tensor([[0.0, 1.0, 0.0, 0.0]])).item() == 9.0
    assert masked_mse(prediction, target, torch.tensor([[1.0, 1.0, 0.0, 0.0]])).item() == 5.0


def test_without_masking_every_patch_counts() -> None:
    network, (video, audio, share, _) = autoencoder(), batch()
    output = network(video, audio, share, mask_ratio=0.0)
    assert output.mask.eq(1).all()
    error = (output.prediction_video - patchify(to_strip(video), 8)).square().mean()
    assert output.loss_video.item() == pytest.approx(error.item(), rel=1e-5)


def test_each_head_learns_from_its_own_modality_and_every_weight_has_a_gradient() -> None:
    network = autoencoder(video_weight=1.0, audio_weight=0.0)
    run(network, batch()).loss.backward()
    assert network.decoder.audio_head.weight.grad is not None
    assert network.decoder.audio_head.weight.grad.eq(0).all()
    network = autoencoder()
    run(network, batch()).loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_fuse_then_separate_can_be_learnt() -> None:
    """A picture of one grey and a sound of stripes, half and half: both come back, each from its own head."""
    network = autoencoder()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    stripes = (1.0 - 2.0 * (torch.arange(16) % 2)).expand(16, 16)
    for _ in range(150):
        grey = torch.randn(2, 16, 1, 1, 1, 1, generator=generator).expand(2, 16, 2, 3, 16, 16)
        share = (torch.arange(16) < 8).float().expand(16, 2, 1, 16, 16)
        noise = torch.rand(16, 8, generator=generator)
        loss = network(grey[0], grey[1] * stripes, share, mask_ratio=0.5, noise_BL=noise).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.25 * losses[0]


def test_frames_may_be_more_than_before() -> None:
    network = autoencoder()
    output = run(network, batch(frames=5))
    assert output.prediction_video.shape[1] == 20
    assert torch.isfinite(output.loss)


def test_compiles_as_one_graph() -> None:
    network, (video, audio, share, noise) = autoencoder(), batch()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    loss = compiled(video, audio, share, mask_ratio=0.75, noise_BL=noise).loss
    assert loss.item() == pytest.approx(run(network, (video, audio, share, noise)).loss.item(), rel=1e-6)


def test_half_precision_keeps_the_loss_in_float32() -> None:
    network, inputs = autoencoder(), batch()
    exact = run(network, inputs).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = run(network, inputs).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.02)


def test_pictures_that_do_not_fit_the_patches_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="pictures of 20 x 16 pixels are no whole number of patches of side 8"):
        MaskedAutoencoder(MODEL, ClipSettings(**{**vars(CLIP), "height": 20}))


@pytest.mark.parametrize("name", PRESETS)
def test_published_defect_decoders_have_the_size_their_preset_says(name: str) -> None:
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
