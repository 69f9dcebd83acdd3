"""The picture people look at shows what really went through the network."""

from __future__ import annotations

import torch

from cmmixer.config import preset
from cmmixer.data.loader import collate
from cmmixer.evaluation.reconstruct import Separation, separate
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.types import Statistics
from tests.support.small_runs import PICO, random_clips

STATISTICS = Statistics((0.3, 0.4, 0.5), (0.2, 0.25, 0.3), -30.0, 10.0, clips=1)


def separation(share: float, *, norm_pix: bool = False) -> tuple[Separation, torch.Tensor, torch.Tensor]:
    """The first random clip, its pixels [T, H, W, 3] in [0, 1] and its mask [T, H, W] (True where hidden)."""
    torch.manual_seed(0)
    network = MaskedAutoencoder(preset("nano").model, PICO, norm_pix=norm_pix).eval()
    clips = random_clips(1)
    batch = collate([clips[0]])
    shares = torch.full((1, PICO.frames, 1, PICO.height, PICO.width), share)
    noise = torch.rand(1, 8)
    made = separate(network, FrontEnd(PICO, STATISTICS), batch, shares, 0.75, noise)
    kept = noise[0].argsort()[:2]
    hidden = torch.ones(8, dtype=torch.bool)
    hidden[kept] = False
    # 2 x 4 patches of side 16 over two frames of 32 x 32 pixels side by side.
    strip = hidden.reshape(2, 4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    return made, batch.video_BTCHW[0].permute(0, 2, 3, 1) / 255, torch.stack([strip[:, :32], strip[:, 32:]])


def test_frames_come_back_as_they_were() -> None:
    made, pixels, _ = separation(share=0.0)
    torch.testing.assert_close(made.frames, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.mixed, pixels, atol=1e-5, rtol=0)


def test_the_encoder_s_row_shows_only_what_is_visible() -> None:
    made, pixels, hidden = separation(share=0.0)
    grey = torch.tensor(STATISTICS.picture_mean)
    torch.testing.assert_close(made.masked[~hidden], pixels[~hidden], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.masked[hidden], grey.expand(int(hidden.sum()), 3), atol=1e-5, rtol=0)


def test_what_is_given_back_stands_where_nothing_was_seen() -> None:
    made, _, hidden = separation(share=0.5)
    grey = torch.tensor(STATISTICS.picture_mean)
    torch.testing.assert_close(made.video[~hidden], grey.expand(int((~hidden).sum()), 3), atol=1e-5, rtol=0)
    assert (made.video[hidden] - grey).abs().mean() > 0.01


def test_mel_pictures_have_low_bands_at_the_bottom_and_span_the_range() -> None:
    made, _, _ = separation(share=0.0)
    batch = collate([random_clips(1)[0]])
    mel = FrontEnd(PICO, STATISTICS).audio(batch.audio_BTN)[0, :, 0]
    expected = ((mel - mel.min()) / (mel.max() - mel.min())).flip(1)
    torch.testing.assert_close(made.mel[..., 0], expected, atol=1e-5, rtol=0)


def test_the_sheet_holds_six_rows_for_norm_pix_too() -> None:
    made, pixels, _ = separation(share=0.5, norm_pix=True)
    sheet = made.sheet()
    assert (sheet.shape, sheet.dtype) == ((6 * 32, 2 * 32, 3), torch.uint8)
    top = torch.cat([pixels[0], pixels[1]], dim=1)
    assert torch.equal(sheet[:32], (top.clamp(0, 1) * 255).round().to(torch.uint8))
    assert len(made.rows()) == 6
