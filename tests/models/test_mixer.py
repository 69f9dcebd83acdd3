"""The mixer: masks against a slow twin, the distributions of the draws, refusals, and defects of the published code."""

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
from cmmixer.models.mixer import CellDraw, RegionDraw, beta_symmetric, blend, draw, draw_mixing_mask, mix
from tests.reference.mixer_slow import mask_of_cells, mask_of_regions

MODES = ("pixel", "patch", "image", "video")


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def mask_of(mode: str, *, seed: int = 0, batch: int = 8, frames: int = 3, side: int = 16, **options: object) -> Tensor:
    mixer = MixerSettings(mixup_mode=mode, **options)  # type: ignore[arg-type]
    return draw_mixing_mask(mixer, batch=batch, frames=frames, height=side, width=side, patch=4, generator=seeded(seed))


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
def mixer_settings(draw_from: st.DrawFn) -> MixerSettings:
    low, high = sorted(draw_from(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return MixerSettings(
        mixup_mode=draw_from(st.sampled_from(MODES)),
        mixup_alpha=draw_from(st.sampled_from([0.1, 0.8, 4.0])),
        cutmix_alpha=draw_from(st.sampled_from([0.0, 0.3, 1.0])),
        cutmix_minmax=draw_from(st.sampled_from([None, (low, high)])),
        mixup_prob=draw_from(st.sampled_from([0.0, 0.5, 1.0])),
        mixup_switch_prob=draw_from(st.sampled_from([0.0, 0.5, 1.0])),
        mix_rate=draw_from(st.sampled_from([0.0, 0.3, 1.0])),
    )


@settings(max_examples=40, deadline=None)
@given(mixer=mixer_settings(), seed=st.integers(0, 2**20))
def test_masks_equal_the_slow_twin(mixer: MixerSettings, seed: int) -> None:
    drawn = draw(mixer, batch=3, frames=2, height=8, width=12, patch=4, generator=seeded(seed))
    slow = mask_of_cells(drawn) if isinstance(drawn, CellDraw) else mask_of_regions(drawn)
    torch.testing.assert_close(drawn.mixing_mask(), torch.from_numpy(slow), rtol=0, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(mixer=mixer_settings(), seed=st.integers(0, 2**20))
def test_lambda_is_the_share_of_the_base(mixer: MixerSettings, seed: int) -> None:
    drawn = draw(mixer, batch=3, frames=2, height=8, width=12, patch=4, generator=seeded(seed))
    if not isinstance(drawn, RegionDraw):
        return
    audio_share = drawn.mixing_mask().double().mean(dim=(2, 3, 4))
    base_share = torch.where(drawn.audio_base_BD, audio_share, 1.0 - audio_share)
    mixed = drawn.mixed_B.unsqueeze(1).expand(-1, 2)
    torch.testing.assert_close(base_share[mixed], drawn.lambda_BD.expand(-1, 2)[mixed], rtol=0, atol=1e-6)


def test_blend_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    video, audio = torch.randn(2, 4, 2, 3, 8, 8, generator=generator, dtype=torch.float64)
    mixing_mask = torch.rand(4, 2, 1, 8, 8, generator=generator)
    expected = (1 - mixing_mask.double()) * video + mixing_mask.double() * audio
    torch.testing.assert_close(blend(video, audio, mixing_mask), expected)


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.0, 5.0])
def test_beta_draws_follow_the_beta_distribution(alpha: float) -> None:
    drawn = beta_symmetric(alpha, (20_000,), seeded(11)).numpy()
    assert scipy.stats.kstest(drawn, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_beta_of_a_tiny_alpha_is_a_fair_coin() -> None:
    drawn = beta_symmetric(1e-4, (10_000,), seeded())
    assert torch.isfinite(drawn).all()
    assert ((drawn < 1e-6) | (drawn > 1 - 1e-6)).double().mean() > 0.99
    assert abs(drawn.mean().item() - 0.5) < 0.02


def test_mixup_lambda_follows_beta() -> None:
    drawn = regions(batch=4000, frames=2, mixup_alpha=0.8, cutmix_alpha=0.0)
    lambdas = drawn.lambda_BD.flatten().numpy()
    assert scipy.stats.kstest(lambdas, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 0.01


@settings(max_examples=30, deadline=None)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 2**20), prob=st.sampled_from([0.5, 1.0]))
def test_each_pixel_comes_from_one_modality_without_mixup(mode: str, seed: int, prob: float) -> None:
    video, audio = torch.randn(2, 3, 2, 3, 8, 8, generator=seeded(seed))
    mixed, mixing_mask = mix(video, audio, mode, generator=seeded(seed), mixup_alpha=0.0, mixup_prob=prob, patch=4)
    assert torch.equal(mixed, torch.where(mixing_mask == 1.0, audio, video))
    assert set(mixing_mask.unique().tolist()) <= {0.0, 1.0}


def test_a_patch_comes_from_one_modality() -> None:
    cells = mask_of("patch", batch=16).unfold(3, 4, 4).unfold(4, 4, 4).flatten(5)
    assert torch.equal(cells.amin(5), cells.amax(5))
    assert cells.amax(5).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("height", [12, 64])
def test_a_rectangle_has_area_one_minus_lambda(height: int) -> None:
    width = 2 * height
    drawn = regions(batch=2000, frames=1, height=height, width=width, mixup_alpha=0.0)
    # Sides are rounded to whole pixels, so a side of the area is off by at most half a pixel.
    lambdas = beta_symmetric(1.0, (2000, 1), _after_coins(2000))
    area = ((drawn.bottom_BD - drawn.top_BD) * (drawn.right_BD - drawn.left_BD)).double()
    inside = (drawn.top_BD > 0) & (drawn.bottom_BD < height) & (drawn.left_BD > 0) & (drawn.right_BD < width)
    assert inside.sum() > 100
    error = (area - (1 - lambdas) * height * width).abs()[inside]
    assert error.max() <= 0.5 * (height + width) + 0.25
    # A clipped rectangle is never larger.
    assert (area <= (1 - lambdas) * height * width + 0.5 * (height + width) + 0.25).all()


def _after_coins(batch: int) -> Generator:
    """The state of the generator when `draw` draws lambda: after the coins for mixed, base and cutmix."""
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


def test_minmax_draws_sides_from_its_range() -> None:
    drawn = regions(batch=4000, frames=1, height=10, width=20, mixup_alpha=0.0, cutmix_minmax=(0.2, 0.5))
    heights, widths = drawn.bottom_BD - drawn.top_BD, drawn.right_BD - drawn.left_BD
    assert heights.unique().tolist() == [2, 3, 4, 5]
    assert widths.unique().tolist() == list(range(4, 11))
    assert drawn.top_BD.min() == 0
    assert drawn.bottom_BD.max() == 10
    counts = torch.bincount(heights.flatten())[2:].numpy()
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_minmax_at_its_limits() -> None:
    assert regions(cutmix_minmax=(0.0, 0.0), mixup_alpha=0.0).lambda_BD.eq(1.0).all()
    assert regions(cutmix_minmax=(1.0, 1.0), mixup_alpha=0.0).lambda_BD.eq(0.0).all()


@pytest.mark.parametrize("mode", MODES)
def test_modalities_are_mixed_half_and_half_on_average(mode: str) -> None:
    shares = mask_of(mode, batch=3000, frames=2, side=8).mean(dim=(1, 2, 3, 4))
    assert abs(shares.mean().item() - 0.5) < 4 * shares.std().item() / 3000**0.5


@pytest.mark.parametrize("mode", ["pixel", "patch"])
def test_mix_rate_is_the_share_of_the_audio(mode: str) -> None:
    share = mask_of(mode, batch=4000, frames=2, side=8, mix_rate=0.2).mean().item()
    assert abs(share - 0.2) < 0.01


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_base_is_a_fair_draw(alpha: float) -> None:
    audio_base = regions(batch=10_000, mixup_alpha=1.0 - alpha, cutmix_alpha=alpha).audio_base_BD
    assert abs(audio_base.double().mean().item() - 0.5) < 0.01


def test_switch_prob_chooses_cutmix_over_mixup() -> None:
    assert abs(regions(batch=10_000, mixup_switch_prob=0.3).cutmix_BD.double().mean().item() - 0.3) < 0.01
    assert regions(mixup_switch_prob=0.0, mixup_alpha=0.0).cutmix_BD.all()
    assert not regions(mixup_switch_prob=1.0, cutmix_alpha=0.0).cutmix_BD.any()


@pytest.mark.parametrize("mode", MODES)
def test_mixup_prob_is_the_fraction_of_mixed_clips(mode: str) -> None:
    flat = mask_of(mode, batch=4000, frames=2, side=8, mixup_prob=0.4, cutmix_minmax=(0.25, 0.75)).flatten(1)
    unmixed = (flat == 0).all(1) | (flat == 1).all(1)
    assert abs(unmixed.double().mean().item() - 0.6) < 0.03


def test_video_mode_draws_once_per_clip_image_mode_per_frame() -> None:
    video = mask_of("video", frames=5)
    assert torch.equal(video, video[:, :1].expand_as(video))
    image = mask_of("image", frames=5)
    assert not (image == image[:, :1]).flatten(1).all(1).any()


@pytest.mark.parametrize("mode", MODES)
def test_clips_are_drawn_independently(mode: str) -> None:
    shares = mask_of(mode, batch=6000, frames=1, side=8, mixup_switch_prob=0.0).mean(dim=(1, 2, 3, 4))
    assert abs(np.corrcoef(shares.reshape(3000, 2).T.numpy())[0, 1]) < 0.06


@pytest.mark.parametrize("mode", MODES)
def test_draws_follow_from_the_seed(mode: str) -> None:
    assert torch.equal(mask_of(mode, seed=5), mask_of(mode, seed=5))
    assert not torch.equal(mask_of(mode, seed=5), mask_of(mode, seed=6))


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_a_draw_give_rows_of_its_mask(mode: str) -> None:
    drawn = draw(
        MixerSettings(mixup_mode=mode, mixup_prob=0.5),
        batch=6, frames=2, height=8, width=8, patch=4, generator=seeded(),
    )  # fmt: skip
    assert torch.equal(drawn.rows(slice(2, 5)).mixing_mask(), drawn.mixing_mask()[2:5])


@pytest.mark.parametrize("mode", MODES)
def test_the_global_generator_is_not_used(mode: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    mask_of(mode)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("mode", MODES)
def test_shapes_and_dtypes_of_mixed(mode: str) -> None:
    video = torch.zeros(2, 3, 3, 8, 16, dtype=torch.bfloat16)
    mixed, mixing_mask = mix(video, video + 1, mode, generator=seeded(), patch=8)
    assert (mixed.shape, mixed.dtype) == (video.shape, torch.bfloat16)
    assert (mixing_mask.shape, mixing_mask.dtype) == ((2, 3, 1, 8, 16), torch.float32)
    assert mixing_mask.min() >= 0
    assert mixing_mask.max() <= 1


def test_blend_is_exact_where_the_mask_is_0_or_1() -> None:
    video, audio = torch.randn(2, 1, 1, 3, 4, 4, generator=seeded())
    mixing_mask = (torch.arange(16) % 2).float().reshape(1, 1, 1, 4, 4)
    mixed = blend(video, audio, mixing_mask)
    assert torch.equal(mixed[..., 0::2], video[..., 0::2])
    assert torch.equal(mixed[..., 1::2], audio[..., 1::2])


def test_blend_has_the_gradients_of_the_formula() -> None:
    video, audio = torch.zeros(2, 1, 1, 3, 1, 2).requires_grad_().unbind()
    gradients = torch.autograd.grad(
        blend(video, audio, torch.tensor([0.25, 1.0]).reshape(1, 1, 1, 1, 2)).sum(), (video, audio)
    )
    assert [gradient[0, 0, 0, 0].tolist() for gradient in gradients] == [[0.75, 0.0], [0.25, 1.0]]


def test_mix_is_blend_with_a_drawn_mask() -> None:
    video, audio = torch.randn(2, 4, 2, 3, 8, 8, generator=seeded())
    mixed, mixing_mask = mix(video, audio, "video", generator=seeded(7), mixup_prob=0.5, patch=4)
    assert torch.equal(mixing_mask, mask_of("video", seed=7, batch=4, frames=2, side=8, mixup_prob=0.5))
    assert torch.equal(mixed, blend(video, audio, mixing_mask))


def test_a_mask_from_written_numbers() -> None:
    """One clip of each kind: cutmix on video, mixup on audio, unmixed audio."""
    draws = {"top_BD": 1, "bottom_BD": 2, "left_BD": 0, "right_BD": 2}
    drawn = RegionDraw(
        mixed_B=torch.tensor([True, True, False]),
        audio_base_BD=torch.tensor([[False], [True], [True]]),
        cutmix_BD=torch.tensor([[True], [False], [True]]),
        lambda_BD=torch.tensor([[2 / 3], [0.75], [2 / 3]], dtype=torch.float64),
        **{name: torch.full((3, 1), value) for name, value in draws.items()},
        frames=2, height=2, width=3,
    )  # fmt: skip
    mask = drawn.mixing_mask()
    assert mask.shape == (3, 2, 1, 2, 3)
    assert torch.equal(mask[:, 0], mask[:, 1])
    assert mask[0, 0, 0].tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    assert mask[1, 0, 0].tolist() == [[0.75] * 3] * 2
    assert mask[2, 0, 0].tolist() == [[1.0] * 3] * 2


def test_an_unmixed_cell_draw_is_its_base() -> None:
    cells = torch.tensor([[True, False]]).reshape(1, 1, 1, 2).expand(3, 1, 1, 2)
    drawn = CellDraw(torch.tensor([True, False, False]), torch.tensor([False, False, True]), cells, cell=2)
    assert drawn.mixing_mask()[:, 0, 0, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_draws_live_on_the_device_of_the_generator(mode: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator("cuda").manual_seed(0)
    mixing_mask = draw_mixing_mask(
        MixerSettings(mixup_mode=mode), batch=500, frames=2, height=16, width=16, patch=4, generator=generator
    )
    assert mixing_mask.device.type == "cuda"
    assert abs(mixing_mask.mean().item() - 0.5) < 0.1


def test_patch_mode_refuses_frames_that_do_not_fit_the_patches() -> None:
    video = torch.zeros(1, 1, 3, 30, 32)
    with pytest.raises(
        SettingsError, match="mode 'patch': 30 x 32 pixels are not a whole number of patches of side 16"
    ):
        mix(video, video, "patch", generator=seeded())


def test_mix_refuses_inputs_that_differ() -> None:
    video = torch.zeros(1, 2, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"video is torch.float32 \(1, 2, 3, 8, 8\), audio is torch.float32 \(1, 2, 1, 8, 8\)"
    ):
        mix(video, video[:, :, :1], generator=seeded())
    with pytest.raises(ValueError, match="expected the same shape and dtype"):
        mix(video, video.double(), generator=seeded())


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)])
def test_mix_refuses_wrong_shapes_and_dtypes(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected floating point \[B, T, C, H, W\]"):
        mix(wrong, wrong, generator=seeded())


@pytest.mark.parametrize("mode", MODES)
def test_published_defect_only_video_mode_mixes(mode: str) -> None:
    """There, `image` was overwritten and `pixel` computed x*r + x*(1-r) = x. Here the audio takes part in every mode."""
    video, audio = torch.zeros(64, 2, 3, 16, 16), torch.ones(64, 2, 3, 16, 16)
    mixed, mixing_mask = mix(video, audio, mode, generator=seeded(), patch=4)
    assert 0.3 < mixed.mean() < 0.7
    assert torch.equal(mixed, mixing_mask.expand_as(mixed))
    # Most clips contain both.
    shares = mixed.mean(dim=(1, 2, 3, 4))
    assert ((shares > 0) & (shares < 1)).double().mean() > 0.8


def test_published_defect_unknown_mode_falls_through() -> None:
    video = torch.zeros(1, 1, 3, 16, 16)
    with pytest.raises(
        SettingsError, match="got 'vidoe', expected one of pixel, patch, image, video; did you mean 'video'"
    ):
        mix(video, video, "vidoe", generator=seeded())


@pytest.mark.parametrize("mode", MODES)
def test_published_defect_unmixed_video_crashes(mode: str) -> None:
    """There, a draw without mixing returned a bare 1.0. Here an unmixed clip is all of one modality."""
    video, audio = torch.zeros(200, 3, 3, 8, 8), torch.ones(200, 3, 3, 8, 8)
    mixed, mixing_mask = mix(video, audio, mode, generator=seeded(), mixup_prob=0.0, patch=4)
    assert mixing_mask.shape == (200, 3, 1, 8, 8)
    whole = mixed.flatten(1)
    assert torch.equal(whole.amin(1), whole.amax(1))
    assert 0.35 < whole.mean() < 0.65


@pytest.mark.parametrize("mode", MODES)
def test_published_defect_one_lambda_for_the_whole_batch(mode: str) -> None:
    masks = mask_of(mode, batch=8, mixup_switch_prob=0.0).flatten(1)
    assert len(masks.unique(dim=0)) == 8
