"""Training settings: the published run, the learning rate rule, and what is refused with a line that says what to do."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from cmmixer.config import AugmentSettings, FinetuneSettings, MixerSettings, PretrainSettings
from cmmixer.config.base import RUN_ELSEWHERE, pick
from cmmixer.config.fields import field_helps
from cmmixer.config.training import NO_AUGMENTATION, TrainingSettings
from cmmixer.errors import SettingsError


def test_published_flags_build_the_published_run() -> None:
    settings = PretrainSettings(
        data="videos", num_workers=32, batch_size=8, epochs=400, lr=2e-4, warmup_epochs=40, mixup_mode="image"
    )
    assert settings.learning_rate(8 * 8, default_blr=1.5e-4) == 2e-4
    assert (settings.preset, settings.mask_ratio, settings.weight_decay, settings.beta2) == ("base", 0.75, 0.05, 0.95)


@pytest.mark.parametrize(
    ("lr", "blr", "clips", "expected"),
    [(None, None, 256, 1.5e-4), (None, None, 64, 1.5e-4 / 4), (None, 1e-3, 512, 2e-3), (3e-4, None, 512, 3e-4)],
)
def test_learning_rate_follows_the_linear_rule(
    lr: float | None, blr: float | None, clips: int, expected: float
) -> None:
    rate = TrainingSettings(lr=lr, blr=blr).learning_rate(clips, default_blr=1.5e-4)
    assert rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"mixup_mode": "imge"},
            "--mixup_mode: got 'imge', expected one of pixel, patch, image, video; did you mean 'image'?",
        ),
        ({"mask_ratio": 1.0}, "--mask_ratio: got 1.0, expected a value in [0.0, 1.0)"),
        ({"epochs": 0}, "--epochs: got 0, expected 1 or more"),
        ({"keep": 0}, "--keep: got 0, expected 1 or more"),
        ({"seed": -1}, "--seed: got -1, expected 0 or more"),
        ({"clip_grad": -0.5}, "--clip_grad: got -0.5, expected 0 or more"),
        ({"image_epochs": -1}, "--image_epochs: got -1, expected 0 or more"),
        ({"save_minutes": 0.0}, "--save_minutes: got 0.0, expected a value in (0.0, inf]"),
        ({"beta2": 1.0}, "--beta2: got 1.0, expected a value in [0.0, 1.0)"),
        ({"lr": 1e-3, "blr": 1e-3}, "--lr 0.001 and --blr 0.001: give one of the two"),
        ({"lr": 0.0}, "--lr: got 0.0, expected a value in (0.0, inf)"),
        ({"blr": float("inf")}, "--blr: got inf, expected a value in (0.0, inf)"),
        ({"cutmix_minmax": (0.6, 0.5)}, "--cutmix_minmax: got 0.6, 0.5, expected 0 <= low <= high <= 1"),
        ({"cutmix_minmax": (0.5, 1.5)}, "--cutmix_minmax: got 0.5, 1.5, expected 0 <= low <= high <= 1"),
        ({"flip_prob": 1.5}, "--flip_prob: got 1.5, expected a value in [0.0, 1.0]"),
        ({"crop_scale_min": 0.0}, "--crop_scale_min: got 0.0, expected a value in (0.0, 1.0]"),
        ({"freq_mask": 1.0}, "--freq_mask: got 1.0, expected a value in [0.0, 1.0)"),
        ({"randaugment_ops": 1.5}, "--randaugment_ops: got 1.5, expected a whole number"),
        ({"randaugment_magnitude": 11}, "--randaugment_magnitude: got 11, expected a value in [0.0, 10.0]"),
        ({"precision": "fp16"}, "--precision: got 'fp16', expected one of 32-true, bf16-mixed"),
        ({"device": "mps"}, "--device: got 'mps', expected one of auto, cpu, cuda"),
        ({"strategy": "fsdp2"}, "--strategy: got 'fsdp2', expected one of ddp, fsdp; did you mean 'fsdp'?"),
        ({"video_weight": -1.0}, "--video_weight: got -1.0, expected 0.0 or more"),
        (
            {"mixup_mode": "video", "mixup_alpha": 0.0, "cutmix_alpha": 0.0},
            "--mixup_alpha and --cutmix_alpha are both 0, so mode 'video' has nothing to draw; set one above 0, or --mixup_prob 0 "
            "to train without mixing",
        ),
    ],
)
def test_bad_values_of_pretrain_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        PretrainSettings(data="videos", **values)
    assert str(refused.value) == message


@pytest.mark.parametrize("settings_class", [PretrainSettings, FinetuneSettings])
def test_run_on_object_storage_is_refused(settings_class: type[Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        settings_class(data="videos", out="s3://bucket/run")
    assert str(refused.value).startswith("--out: got s3://bucket/run, expected ")
    assert str(refused.value).endswith(RUN_ELSEWHERE)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head_init": "ccs"}, "--head_init: got 'ccs', expected one of cca, random; did you mean 'cca'?"),
        ({"loss": "nt-xent"}, "--loss: got 'nt-xent', expected one of infonce, nt_xent; did you mean 'nt_xent'?"),
        ({"batch_size": 1}, "--batch_size: got 1, expected 2 or more"),
        ({"embed_dim": 1}, "--embed_dim: got 1, expected 2 or more"),
        ({"temperature": 0.0}, "--temperature: got 0.0, expected a value in (0.0, inf]"),
        ({"sequence_weight": 1.5}, "--sequence_weight: got 1.5, expected a value in [0.0, 1.0]"),
        ({"frame_weight": -0.5}, "--frame_weight: got -0.5, expected a value in [0.0, 1.0]"),
        ({"frame_mixup_prob": 2.0}, "--frame_mixup_prob: got 2.0, expected a value in [0.0, 1.0]"),
        (
            {"preset": "nanno"},
            "--preset: got 'nanno', expected one of huge, large, base, small, tiny, nano; did you mean 'nano'?",
        ),
    ],
)
def test_bad_values_of_finetune_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        FinetuneSettings(data="videos", **values)
    assert str(refused.value) == message


@pytest.mark.parametrize("mixup_mode", ["pixel", "patch"])
def test_modes_without_beta_draws_need_no_alpha(mixup_mode: str) -> None:
    settings = MixerSettings(mixup_mode=mixup_mode, mixup_alpha=0.0, cutmix_alpha=0.0)
    assert (settings.uses_mixup, settings.uses_cutmix) == (False, False)


def test_range_of_sides_enables_cutmix() -> None:
    settings = MixerSettings(mixup_alpha=0.0, cutmix_alpha=0.0, cutmix_minmax=(0.25, 0.5))
    assert (settings.uses_mixup, settings.uses_cutmix) == (False, True)
    assert (MixerSettings().uses_mixup, MixerSettings().uses_cutmix) == (True, True)


def test_no_augmentation_disables_every_augmentation() -> None:
    off = {"crop_scale_min": 1.0, "randaugment_magnitude": 5.0}  # the magnitude of no operations
    for field in dataclasses.fields(AugmentSettings):
        assert getattr(NO_AUGMENTATION, field.name) == off.get(field.name, 0.0)


def test_groups_are_taken_out_of_a_command() -> None:
    settings = PretrainSettings(data="videos", mixup_mode="video", mixup_prob=0.25, flip_prob=0.125, lr=1e-3)
    assert pick(MixerSettings, settings) == MixerSettings(mixup_mode="video", mixup_prob=0.25)
    assert pick(AugmentSettings, settings) == AugmentSettings(flip_prob=0.125)
    assert pick(TrainingSettings, settings).lr == 1e-3


def test_finetune_has_defaults_of_its_own() -> None:
    pretrain, finetune = PretrainSettings(data="videos"), FinetuneSettings(data="videos")
    assert (pretrain.epochs, pretrain.batch_size, pretrain.warmup_epochs, pretrain.out) == (
        400,
        8,
        40.0,
        "runs/pretrain",
    )
    assert (finetune.epochs, finetune.batch_size, finetune.warmup_epochs, finetune.out) == (
        30,
        64,
        1.0,
        "runs/finetune",
    )
    assert (finetune.head_init, finetune.loss, finetune.frame_level) == ("cca", "infonce", None)


@pytest.mark.parametrize("settings_class", [PretrainSettings, FinetuneSettings])
def test_every_setting_has_one_line_of_help(settings_class: type[Any]) -> None:
    helps = field_helps(settings_class)
    assert helps.keys() == {field.name for field in dataclasses.fields(settings_class)}
    for name, text in helps.items():
        assert re.fullmatch(r"[^\n]{3,}[^.\n]", text), name


@pytest.mark.parametrize("settings_class", [PretrainSettings, FinetuneSettings])
def test_settings_are_frozen(settings_class: type[Any]) -> None:
    settings = settings_class(data="videos")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lr = 1.0
