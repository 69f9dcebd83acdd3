from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from cmmixer.config import MixerSettings
from cmmixer.errors import SettingsError
from cmmixer.models.mixer import CellDraw, RegionDraw, beta_symmetric, draw, draw_share, mix, mix_with
from tests.reference.mixer_slow import share_of_cells, share_of_regions

MODES = ("pixel", "patch", "image", "video")


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def share_of(mode: str, *, seed: int = 0, batch: int = 8, frames: int = 3, side: int = 16, **options: object) -> Tensor:
    mixer = MixerSettings(mixup_mode=mode, **options)  # type: ignore[arg-type]
    return draw_share(mixer, batch=batch, frames=frames, height=side, width=side, patch=4, generator=seeded(seed))


def regions(
    *, seed: int = 0, batch: int = 16, frames: int = 3, height: int = 12, width: int = 20, **options: object
) -> RegionDraw:
    drawn = draw(
        MixerSettings(**options),  # type: ignore[arg-type]
        batch=batch, frames=frames, height=height, width=width, patch=4, generator=seeded(seed),
    )  # fmt: skip
    assert isinstance(drawn, RegionDraw)
    return drawn


@st.composite
def mixer_settings(draw_one: st.DrawFn) -> MixerSettings:
    low, high = sorted(draw_one(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return MixerSettings(
        mixup_mode=draw_one(st.sampled_from(MODES)),
        mixup_alpha=draw_one(st.sampled_from([0.1, 0.8, 4.0])),
        cutmix_alpha=draw_one(st.sampled_from([0.0, 0.3, 1.0])),
        cutmix_minmax=draw_one(st.sampled_from([None, (low, high)])),
        mixup_prob=draw_one(st.sampled_from([0.0, 0.5, 1.0])),
        mixup_switch_prob=draw_one(st.sampled_from([0.0, 0.5, 1.0])),
        mix_rate=draw_one(st.sampled_from([0.0, 0.3, 1.0])),
    )


# The slow twin


@settings(max_examples=40, deadline=None)
@given(mixer=mixer_settings(), seed=st.integers(0, 2**20))
def test_equals_the_slow_twin_given_the_same_draws(mixer: MixerSettings, seed: int) -> None:
    drawn = draw(mixer, batch=3, frames=2, height=8, width=12, patch=4, generator=seeded(seed))
    slow = share_of_cells(drawn) if isinstance(drawn, CellDraw) else share_of_regions(drawn)
    torch.testing.assert_close(drawn.share(), torch.from_numpy(slow), rtol=0, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(mixer=mixer_settings(), seed=st.integers(0, 2**20))
def test_the_true_lambda_is_the_base_s_part_of_the_frame(mixer: MixerSettings, seed: int) -> None:
    drawn = draw(mixer, batch=3, frames=2, height=8, width=12, patch=4, generator=seeded(seed))
    if not isinstance(drawn, RegionDraw):
        return
    sound = drawn.share().double().mean(dim=(2, 3, 4))
    base_part = torch.where(drawn.sound_base_BD, sound, 1.0 - sound)
    mixed = drawn.mixed_B.unsqueeze(1).expand(-1, 2)
    torch.testing.assert_close(base_part[mixed], drawn.lambda_BD.expand(-1, 2)[mixed], rtol=0, atol=1e-6)


def test_mixed_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    video, audio = torch.randn(2, 4, 2, 3, 8, 8, generator=generator, dtype=torch.float64)
    share = torch.rand(4, 2, 1, 8, 8, generator=generator)
    expected = (1 - share.double()) * video + share.double() * audio
    torch.testing.assert_close(mix_with(video, audio, share), expected)


# Beta


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.0, 5.0])
def test_beta_draws_follow_the_beta_distribution(alpha: float) -> None:
    drawn = beta_symmetric(alpha, (20_000,), seeded(11)).numpy()
    assert scipy.stats.kstest(drawn, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_beta_of_a_tiny_alpha_is_a_fair_coin_and_never_not_a_number() -> None:
    drawn = beta_symmetric(1e-4, (10_000,), seeded())
    assert torch.isfinite(drawn).all()
    assert ((drawn < 1e-6) | (drawn > 1 - 1e-6)).double().mean() > 0.99
    assert abs(drawn.mean().item() - 0.5) < 0.02


def test_mixup_lambda_follows_beta() -> None:
    drawn = regions(batch=4000, frames=2, mixup_alpha=0.8, cutmix_alpha=0.0)
    lambdas = drawn.lambda_BD.flatten().numpy()
    assert scipy.stats.kstest(lambdas, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 0.01


# Where pixels come from


@settings(max_examples=30, deadline=None)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 2**20), prob=st.sampled_from([0.5, 1.0]))
def test_every_pixel_of_pixel_patch_and_cutmix_comes_from_exactly_one_source(mode: str, seed: int, prob: float) -> None:
    video, audio = torch.randn(2, 3, 2, 3, 8, 8, generator=seeded(seed))
    mixed, share = mix(video, audio, mode, generator=seeded(seed), mixup_alpha=0.0, mixup_prob=prob, patch=4)
    assert torch.equal(mixed, torch.where(share == 1.0, audio, video))
    assert set(share.unique().tolist()) <= {0.0, 1.0}


def test_a_patch_is_whole() -> None:
    share = share_of("patch", batch=16)
    cells = share.unfold(3, 4, 4).unfold(4, 4, 4).flatten(5)
    assert torch.equal(cells.amin(5), cells.amax(5))
    assert cells.amax(5).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("height", [12, 64])
def test_an_unclipped_rectangle_s_area_is_one_minus_lambda_within_rounding(height: int) -> None:
    width = 2 * height
    drawn = regions(batch=2000, frames=1, height=height, width=width, mixup_alpha=0.0)
    # Sides are rounded to whole pixels, so a side of the area is off by at most half a pixel.
    lambdas = beta_symmetric(1.0, (2000, 1), _after_coins(2000))
    area = ((drawn.bottom_BD - drawn.top_BD) * (drawn.right_BD - drawn.left_BD)).double()
    inside = (drawn.top_BD > 0) & (drawn.bottom_BD < height) & (drawn.left_BD > 0) & (drawn.right_BD < width)
    assert inside.sum() > 100
    error = (area - (1 - lambdas) * height * width).abs()[inside]
    assert error.max() <= 0.5 * (height + width) + 0.25
    # A clipped one is never larger.
    assert (area <= (1 - lambdas) * height * width + 0.5 * (height + width) + 0.25).all()


def _after_coins(batch: int) -> Generator:
    """The generator as `draw` has it when it comes to lambda: after the coins for mixed, base and cutmix."""
    generator = seeded()
    for shape in ((batch,), (batch, 1), (batch, 1)):
        torch.rand(shape, generator=generator)
    return generator


def test_rectangles_stay_inside_the_frame() -> None:
    drawn = regions(batch=500)
    assert (drawn.top_BD >= 0).all()
    assert (drawn.left_BD >= 0).all()
    assert (drawn.bottom_BD <= 12).all()
    assert (drawn.right_BD <= 20).all()
    assert (drawn.bottom_BD >= drawn.top_BD).all()
    assert (drawn.right_BD >= drawn.left_BD).all()


def test_minmax_draws_sides_from_its_range_anywhere_inside() -> None:
    drawn = regions(batch=4000, frames=1, height=10, width=20, mixup_alpha=0.0, cutmix_minmax=(0.2, 0.5))
    heights, widths = drawn.bottom_BD - drawn.top_BD, drawn.right_BD - drawn.left_BD
    assert heights.unique().tolist() == [2, 3, 4, 5]
    assert widths.unique().tolist() == list(range(4, 11))
    assert drawn.top_BD.min() == 0
    assert drawn.bottom_BD.max() == 10
    counts = torch.bincount(heights.flatten())[2:].numpy()
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_minmax_may_cover_nothing_or_everything() -> None:
    assert regions(cutmix_minmax=(0.0, 0.0), mixup_alpha=0.0).lambda_BD.eq(1.0).all()
    assert regions(cutmix_minmax=(1.0, 1.0), mixup_alpha=0.0).lambda_BD.eq(0.0).all()


# How much of each


@pytest.mark.parametrize("mode", MODES)
def test_both_modalities_get_in_half_and_half_on_average(mode: str) -> None:
    part = share_of(mode, batch=3000, frames=2, side=8).mean(dim=(1, 2, 3, 4))
    assert abs(part.mean().item() - 0.5) < 4 * part.std().item() / 3000**0.5


@pytest.mark.parametrize("mode", ["pixel", "patch"])
def test_mix_rate_is_the_part_of_the_sound(mode: str) -> None:
    part = share_of(mode, batch=4000, frames=2, side=8, mix_rate=0.2).mean().item()
    assert abs(part - 0.2) < 0.01


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_base_is_a_fair_draw(alpha: float) -> None:
    sound_base = regions(batch=10_000, mixup_alpha=1.0 - alpha, cutmix_alpha=alpha).sound_base_BD
    assert abs(sound_base.double().mean().item() - 0.5) < 0.01


def test_switch_prob_chooses_cutmix_over_mixup() -> None:
    assert abs(regions(batch=10_000, mixup_switch_prob=0.3).cutmix_BD.double().mean().item() - 0.3) < 0.01
    assert regions(mixup_switch_prob=0.0, mixup_alpha=0.0).cutmix_BD.all()
    assert not regions(mixup_switch_prob=1.0, cutmix_alpha=0.0).cutmix_BD.any()


@pytest.mark.parametrize("mode", MODES)
def test_mixup_prob_is_the_part_of_clips_that_is_mixed(mode: str) -> None:
    share = share_of(mode, batch=4000, frames=2, side=8, mixup_prob=0.4, cutmix_minmax=(0.25, 0.75))
    flat = share.flatten(1)
    unmixed = (flat == 0).all(1) | (flat == 1).all(1)
    assert abs(unmixed.double().mean().item() - 0.6) < 0.03


# What a draw covers


def test_video_mode_is_constant_over_frames_and_image_mode_is_not() -> None:
    video = share_of("video", frames=5)
    assert torch.equal(video, video[:, :1].expand_as(video))
    image = share_of("image", frames=5)
    assert not (image == image[:, :1]).flatten(1).all(1).any()


@pytest.mark.parametrize("mode", MODES)
def test_clips_are_drawn_independently(mode: str) -> None:
    part = share_of(mode, batch=6000, frames=1, side=8, mixup_switch_prob=0.0).mean(dim=(1, 2, 3, 4)).reshape(3000, 2)
    assert abs(np.corrcoef(part.T.numpy())[0, 1]) < 0.06


@pytest.mark.parametrize("mode", MODES)
def test_deterministic_by_generator(mode: str) -> None:
    assert torch.equal(share_of(mode, seed=5), share_of(mode, seed=5))
    assert not torch.equal(share_of(mode, seed=5), share_of(mode, seed=6))


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_a_draw_are_rows_of_its_share(mode: str) -> None:
    drawn = draw(
        MixerSettings(mixup_mode=mode, mixup_prob=0.5),
        batch=6, frames=2, height=8, width=8, patch=4, generator=seeded(),
    )  # fmt: skip
    assert torch.equal(drawn.rows(slice(2, 5)).share(), drawn.share()[2:5])


@pytest.mark.parametrize("mode", MODES)
def test_chance_is_the_generator_alone(mode: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    share_of(mode)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("mode", MODES)
def test_shape_and_type_of_what_comes_back(mode: str) -> None:
    video = torch.zeros(2, 3, 3, 8, 16, dtype=torch.bfloat16)
    mixed, share = mix(video, video + 1, mode, generator=seeded(), patch=8)
    assert (mixed.shape, mixed.dtype) == (video.shape, torch.bfloat16)
    assert (share.shape, share.dtype) == ((2, 3, 1, 8, 16), torch.float32)
    assert share.min() >= 0
    assert share.max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_draws_on_the_generator_s_device(mode: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator("cuda").manual_seed(0)
    share = draw_share(
        MixerSettings(mixup_mode=mode), batch=500, frames=2, height=16, width=16, patch=4, generator=generator
    )
    assert share.device.type == "cuda"
    assert abs(share.mean().item() - 0.5) < 0.1


# Refusals


def test_patch_mode_refuses_pictures_that_are_no_whole_patches() -> None:
    video = torch.zeros(1, 1, 3, 30, 32)
    with pytest.raises(SettingsError, match="mode 'patch': 30 x 32 pixels are no whole number of patches of side 16"):
        mix(video, video, "patch", generator=seeded())


def test_unequal_pictures_are_refused() -> None:
    video = torch.zeros(1, 2, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"video is torch.float32 \(1, 2, 3, 8, 8\), audio is torch.float32 \(1, 2, 1, 8, 8\)"
    ):
        mix(video, video[:, :, :1], generator=seeded())
    with pytest.raises(ValueError, match="expected the same shape and type"):
        mix(video, video.double(), generator=seeded())


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)])
def test_pictures_of_wrong_shape_or_type_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected floating point \[B, T, C, H, W\]"):
        mix(wrong, wrong, generator=seeded())


# What the published code does


@pytest.mark.parametrize("mode", MODES)
def test_published_defect_only_video_mode_mixes(mode: str) -> None:
    """There, `image` was overwritten and `pixel` computed x*r + x*(1-r) = x; here, the sound enters in every mode."""
    video, audio = torch.zeros(64, 2, 3, 16, 16), torch.ones(64, 2, 3, 16, 16)
    mixed, share = mix(video, audio, mode, generator=seeded(), patch=4)
    assert 0.3 < mixed.mean() < 0.7
    assert torch.equal(mixed, share.expand_as(mixed))
    # Within one clip too: both are seen together in most.
    part = mixed.mean(dim=(1, 2, 3, 4))
    assert ((part > 0) & (part < 1)).double().mean() > 0.8


def test_published_defect_unknown_mode_falls_through() -> None:
    video = torch.zeros(1, 1, 3, 16, 16)
    with pytest.raises(
        SettingsError, match="got 'vidoe', expected one of pixel, patch, image, video; did you mean 'video'"
    ):
        mix(video, video, "vidoe", generator=seeded())


@pytest.mark.parametrize("mode", MODES)
def test_published_defect_unmixed_video_crashes(mode: str) -> None:
    """There, a draw without mixing returned a bare 1.0; here, an unmixed clip is one modality, whole."""
    video, audio = torch.zeros(200, 3, 3, 8, 8), torch.ones(200, 3, 3, 8, 8)
    mixed, share = mix(video, audio, mode, generator=seeded(), mixup_prob=0.0, patch=4)
    assert share.shape == (200, 3, 1, 8, 8)
    whole = mixed.flatten(1)
    assert torch.equal(whole.amin(1), whole.amax(1))
    assert 0.35 < whole.mean() < 0.65


@pytest.mark.parametrize("mode", MODES)
def test_published_defect_one_lambda_for_the_whole_batch(mode: str) -> None:
    share = share_of(mode, batch=8, mixup_switch_prob=0.0).flatten(1)
    assert len(share.unique(dim=0)) == 8
