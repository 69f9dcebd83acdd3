"""Settings refuse what cannot work, in one line that says what to do."""

from __future__ import annotations

import dataclasses

import pytest

from cmmixer.config import PRESETS, ClipSettings, FinetuneSettings, MixerSettings, PretrainSettings, preset
from cmmixer.config.base import from_dict, pick
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import SettingsError


def test_published_flags_build_the_published_run() -> None:
    settings = PretrainSettings(
        data="films", num_workers=32, batch_size=8, epochs=400, lr=2e-4, warmup_epochs=40, mixup_mode="image"
    )
    assert settings.step_size(8 * 8, default_blr=1.5e-4) == 2e-4
    clip = settings.clip_settings(settings.preset)
    assert (clip.frames, clip.height, clip.width, clip.window_samples) == (4, 224, 224, 114_660)


@pytest.mark.parametrize(
    ("lr", "blr", "clips", "expected"),
    [(None, None, 256, 1.5e-4), (None, None, 64, 1.5e-4 / 4), (None, 1e-3, 512, 2e-3), (3e-4, None, 512, 3e-4)],
)
def test_step_size_follows_the_linear_rule(lr: float | None, blr: float | None, clips: int, expected: float) -> None:
    assert TrainingSettings(lr=lr, blr=blr).step_size(clips, default_blr=1.5e-4) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"mixup_mode": "imge"},
            "--mixup_mode: got 'imge', expected one of pixel, patch, image, video; did you mean 'image'?",
        ),
        (
            {"preset": "bse"},
            "--preset: got 'bse', expected one of huge, large, base, small, tiny, nano; did you mean 'base'?",
        ),
        ({"mask_ratio": 1.0}, "--mask_ratio: got 1.0, expected a value in [0.0, 1.0)"),
        ({"epochs": 0}, "--epochs: got 0, expected 1 or more"),
        ({"lr": 1e-3, "blr": 1e-3}, "--lr 0.001 and --blr 0.001: give one of the two"),
        ({"cutmix_minmax": (0.6, 0.5)}, "--cutmix_minmax: got 0.6, 0.5, expected 0 <= low <= high <= 1"),
        ({"flip_prob": 1.5}, "--flip_prob: got 1.5, expected a value in [0.0, 1.0]"),
        ({"precision": "fp16"}, "--precision: got 'fp16', expected one of 32-true, bf16-mixed"),
    ],
)
def test_bad_values_are_refused_with_the_option_and_the_way_out(values: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        PretrainSettings(data="films", **values)  # type: ignore[arg-type]
    assert str(refused.value) == told


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(SettingsError, match="both 0, so mode 'video' has nothing to draw"):
        MixerSettings(mixup_mode="video", mixup_alpha=0.0, cutmix_alpha=0.0)


def test_presets_hold_the_published_sizes() -> None:
    sizes = {name: dataclasses.astuple(PRESETS[name].model) for name in ("base", "large", "huge")}
    assert sizes == {
        "base": (768, 12, 12, 256, 4, 16, 16),
        "large": (1024, 24, 16, 512, 4, 16, 16),
        "huge": (1280, 32, 16, 512, 4, 16, 14),
    }


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_makes_a_grid_of_whole_patches(name: str) -> None:
    chosen = preset(name)
    assert chosen.height % chosen.model.patch == 0
    assert chosen.width % chosen.model.patch == 0
    assert chosen.model.dim % chosen.model.heads == 0
    assert chosen.model.decoder_dim % chosen.model.decoder_heads == 0


def test_options_complete_the_preset() -> None:
    settings = FinetuneSettings(data="films", preset="nano", frames=8)
    assert settings.clip_settings("nano") == ClipSettings(
        frames=8, height=64, width=64, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000
    )


def test_a_window_with_fewer_samples_than_columns_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"0.001 s at 16000 Hz is 16 samples, too few for 64 columns"):
        ClipSettings(frames=4, height=64, width=64, clip_seconds=4.0, window_seconds=0.001, sample_rate_hz=16000)


def test_groups_are_taken_out_of_a_command() -> None:
    settings = PretrainSettings(data="films", mixup_mode="video", mixup_prob=0.25)
    assert pick(MixerSettings, settings) == MixerSettings(mixup_mode="video", mixup_prob=0.25)


def test_unknown_keys_of_a_card_are_told_all_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        from_dict(MixerSettings, {"mixup_mod": "image", "colour": 3}, "card.json")
    assert str(refused.value) == "card.json: unknown settings: colour, mixup_mod (did you mean mixup_mode?)"
