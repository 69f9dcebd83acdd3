"""The images of a reconstruction show what really went through the network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cmmixer import checkpoint
from cmmixer.config import MixerSettings, PretrainSettings, preset
from cmmixer.data.loader import collate
from cmmixer.errors import CheckpointError
from cmmixer.evaluation.reconstruct import Separation, Separator, reconstruct, separate
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.types import Statistics
from tests.support.small_runs import PICO, random_clips, untrained_run

STATISTICS = Statistics((0.3, 0.4, 0.5), (0.2, 0.25, 0.3), -30.0, 10.0, clips=1)


def separation(audio: float, *, norm_pix: bool = False) -> tuple[Separation, torch.Tensor, torch.Tensor]:
    """The images of a random clip, its pixels [T, H, W, 3] in [0, 1] and its mask [T, H, W] (True where hidden)."""
    torch.manual_seed(0)
    network = MaskedAutoencoder(preset("nano").model, PICO, norm_pix=norm_pix).eval()
    batch = collate([random_clips(1)[0]])
    mixing_mask = torch.full((1, PICO.frames, 1, PICO.height, PICO.width), audio)
    noise = torch.rand(1, 8)
    images = separate(network, FrontEnd(PICO, STATISTICS), batch, mixing_mask, 0.75, noise)
    kept = noise[0].argsort()[:2]
    hidden = torch.ones(8, dtype=torch.bool)
    hidden[kept] = False
    # 2 x 4 patches of side 16 over two frames of 32 x 32 pixels side by side.
    strip = hidden.reshape(2, 4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    return images, batch.video_BTCHW[0].permute(0, 2, 3, 1) / 255, torch.stack([strip[:, :32], strip[:, 32:]])


def test_frames_are_shown_unnormalized() -> None:
    images, pixels, _ = separation(audio=0.0)
    torch.testing.assert_close(images.frames, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(images.mixed, pixels, atol=1e-5, rtol=0)


def test_masked_patches_are_grey() -> None:
    images, pixels, hidden = separation(audio=0.0)
    grey = torch.tensor(STATISTICS.frame_mean)
    torch.testing.assert_close(images.masked[~hidden], pixels[~hidden], atol=1e-5, rtol=0)
    torch.testing.assert_close(images.masked[hidden], grey.expand(int(hidden.sum()), 3), atol=1e-5, rtol=0)


def test_reconstructions_are_shown_where_masked() -> None:
    images, _, hidden = separation(audio=0.5)
    grey = torch.tensor(STATISTICS.frame_mean)
    torch.testing.assert_close(images.video[~hidden], grey.expand(int((~hidden).sum()), 3), atol=1e-5, rtol=0)
    assert (images.video[hidden] - grey).abs().mean() > 0.01


def test_mel_spectrograms_have_low_bands_at_the_bottom_and_span_the_range() -> None:
    images, _, _ = separation(audio=0.0)
    batch = collate([random_clips(1)[0]])
    mel = FrontEnd(PICO, STATISTICS).audio(batch.audio_BTN)[0, :, 0]
    expected = ((mel - mel.min()) / (mel.max() - mel.min())).flip(1)
    torch.testing.assert_close(images.mel[..., 0], expected, atol=1e-5, rtol=0)


def test_the_sheet_has_six_rows_with_norm_pix_too() -> None:
    images, pixels, _ = separation(audio=0.5, norm_pix=True)
    sheet = images.sheet()
    assert (sheet.shape, sheet.dtype) == ((6 * 32, 2 * 32, 3), torch.uint8)
    top = torch.cat([pixels[0], pixels[1]], dim=1)
    assert torch.equal(sheet[:32], (top.clamp(0, 1) * 255).round().to(torch.uint8))
    assert len(images.rows()) == 6
    assert list(images.rows()) == [
        "frames",
        "mel spectrograms",
        "mixed (mel spectrograms upside down, as in the network)",
        "what the encoder sees",
        "frames reconstructed where masked",
        "mel spectrograms reconstructed where masked",
    ]


def _network(*, norm_pix: bool = False) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(preset("nano").model, PICO, norm_pix=norm_pix).eval()


def _inputs(clips: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    video, audio = torch.randn(2, clips, PICO.frames, 3, PICO.height, PICO.width, generator=generator)
    mixing_mask = torch.rand(clips, PICO.frames, 1, PICO.height, PICO.width, generator=generator)
    return video, audio, mixing_mask, torch.rand(clips, 8, generator=generator)


@pytest.mark.parametrize(("mask_ratio", "norm_pix"), [(0.25, False), (0.5, True), (0.75, True)])
def test_whole_strips_equal_the_slow_twin(mask_ratio: float, norm_pix: bool) -> None:
    """Token by token: the mean of the predictions over the passes in which the token was masked."""
    network = _network(norm_pix=norm_pix)
    video, audio, mixing_mask, noise_BL = _inputs()
    got = reconstruct(network, video, audio, mixing_mask, mask_ratio=mask_ratio, noise_BL=noise_BL)
    ratio = max(mask_ratio, 0.5)
    keep = int(8 * (1 - ratio))
    for clip in range(len(video)):
        order = noise_BL[clip].argsort().tolist()
        passes = [order[first : first + keep] for first in range(0, 8, keep)]
        for strips, clean, name in ((got.video, video, "prediction_video"), (got.audio, audio, "prediction_audio")):
            patches = network.patchify(strips)[clip]
            clean_LP = network.patchify(clean)[clip]
            for token in range(8):
                predictions = []
                for visible in passes:
                    if token in visible:
                        continue
                    # Noise that puts the visible tokens first, in their order.
                    rest = [each for each in order[order.index(visible[0]) :] + order if each not in visible]
                    noise = torch.empty(8)
                    noise[torch.tensor(visible + list(dict.fromkeys(rest)))] = torch.arange(8.0)
                    one = slice(clip, clip + 1)
                    with torch.no_grad():
                        output = network(
                            video[one], audio[one], mixing_mask[one], mask_ratio=ratio, noise_BL=noise[None]
                        )
                    predictions.append(getattr(output, name)[0, token])
                expected = torch.stack(predictions).mean(0)
                if norm_pix:
                    std = (clean_LP[token].var(correction=0) + 1e-6).sqrt()
                    expected = expected * std + clean_LP[token].mean()
                torch.testing.assert_close(patches[token], expected, atol=2e-5, rtol=1e-4)


def test_every_patch_is_reconstructed_whatever_the_noise() -> None:
    video, audio, mixing_mask, noise_BL = _inputs()
    for noise in (noise_BL, noise_BL.flip(1), torch.zeros(1, 8)):
        strips = reconstruct(_network(), video, audio, mixing_mask, mask_ratio=0.9, noise_BL=noise)
        assert strips.video.shape == strips.audio.shape == video.shape
        assert torch.isfinite(strips.video).all()
        assert torch.isfinite(strips.audio).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = asdict(PretrainSettings(data="x", mixup_mode="pixel", mix_rate=0.25, mask_ratio=0.5))
    metadata = checkpoint.Metadata(
        kind="mae",
        model=preset("nano").model,
        clip=PICO,
        statistics=STATISTICS,
        options={},
        settings=settings,
    )
    checkpoint.save(folder, metadata, _network().state_dict(), keep=1)
    return folder


class TestSeparator:
    def test_it_has_the_mixer_and_the_mask_ratio_of_the_training(self, run: Path) -> None:
        separator = Separator(run)
        assert separator.mixer == MixerSettings(mixup_mode="pixel", mix_rate=0.25)
        assert separator.mask_ratio == 0.5
        mixing_mask, noise = separator.draws(3, seed=4)
        assert (mixing_mask.shape, noise.shape) == ((3, 2, 1, 32, 32), (3, 8))
        assert mixing_mask.unique().tolist() == [0.0, 1.0]
        assert abs(float(mixing_mask.mean()) - 0.25) < 0.05
        for one, other in zip(separator.draws(3, seed=4), (mixing_mask, noise), strict=True):
            assert torch.equal(one, other)
        assert not torch.equal(separator.draws(3, seed=5)[1], noise)

    def test_its_images_are_those_of_its_network(self, run: Path) -> None:
        separator = Separator(run)
        batch = collate([random_clips(2)[1], random_clips(2)[0]])
        draws = separator.draws(2, seed=0)
        images = separator.separation(batch, *draws)
        expected = separate(separator.network, FrontEnd(PICO, STATISTICS), batch, draws[0], 0.5, draws[1])
        assert torch.equal(images.sheet(), expected.sheet())

    def test_a_retriever_is_refused(self, tmp_path: Path) -> None:
        run = untrained_run(tmp_path / "run", PICO)
        with pytest.raises(CheckpointError, match=r"got a retriever \(from `cmmixer finetune`\), expected a mae"):
            Separator(run)
