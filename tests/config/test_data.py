"""Settings of the data refuse what cannot work, naming the option, the value and what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from cmmixer.config import PrepareSettings, SynthesizeSettings
from cmmixer.config.base import pick
from cmmixer.config.data import SILENCE_DBFS, ClusterSettings, DataSettings
from cmmixer.errors import SettingsError


def refused(settings: type[Any], **values: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(**values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "rya"}, "--engine: got 'rya', expected one of local, ray; did you mean 'ray'?"),
        ({"ray_actors": -1}, "--ray_actors: got -1, expected 0 or more"),
        ({"ray_cpus": 0}, "--ray_cpus: got 0, expected 1 or more"),
        ({"ray_gpus": -0.5}, "--ray_gpus: got -0.5, expected a value in [0.0, 64.0]"),
        ({"ray_gpus": 65.0}, "--ray_gpus: got 65.0, expected a value in [0.0, 64.0]"),
        (
            {"ray_address": "10.0.0.1:6379"},
            "--ray_address: got 10.0.0.1:6379 with --engine local; it needs --engine ray",
        ),
    ],
)
def test_a_cluster(values: dict[str, Any], message: str) -> None:
    assert refused(ClusterSettings, **values) == message


def test_half_a_gpu_and_an_address_are_accepted_with_ray() -> None:
    settings = ClusterSettings(engine="ray", ray_address="10.0.0.1:6379", ray_gpus=0.5)
    assert (settings.ray_actors, settings.ray_cpus) == (0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clips": 0}, "--clips: got 0, expected 1 or more"),
        ({"seed": -1}, "--seed: got -1, expected 0 or more"),
        ({"workers": -1}, "--workers: got -1, expected 0 or more"),
        (
            {"difficulty": "medum"},
            "--difficulty: got 'medum', expected one of easy, medium, hard; did you mean 'medium'?",
        ),
        ({"seconds": 0.4}, "--seconds: got 0.4, expected a value in [0.5, 600.0]"),
        ({"size": 8}, "--size: got 8, expected a value in [16, 2048]"),
        ({"fps": 121.0}, "--fps: got 121.0, expected a value in [1.0, 120.0]"),
        (
            {"twins": True, "twin_ahead_seconds": 0.0},
            "--twin_ahead_seconds: got 0.0, expected a value in (0.0, 60.0]",
        ),
        ({"twin_ahead_seconds": 0.25}, "--twin_ahead_seconds: got 0.25 without --twins; give both"),
    ],
)
def test_synthetic_videos(values: dict[str, Any], message: str) -> None:
    assert refused(SynthesizeSettings, **{"clips": 2, "out": "videos", **values}) == message


@pytest.mark.parametrize("settings", [DataSettings, PrepareSettings])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stride_seconds": 0.0}, "--stride_seconds: got 0.0, expected a value in (0.0, inf)"),
        ({"stride_seconds": float("inf")}, "--stride_seconds: got inf, expected a value in (0.0, inf)"),
        ({"stride_seconds": float("nan")}, "--stride_seconds: got nan, expected a value in (0.0, inf)"),
        ({"file_seconds": 0.0}, "--file_seconds: got 0.0, expected a value in (0.0, inf]"),
    ],
)
def test_how_files_are_cut(settings: type[Any], values: dict[str, Any], message: str) -> None:
    common = {"data": "videos"} if settings is DataSettings else {"data": "videos", "out": "store"}
    assert refused(settings, **common, **values) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "nan"}, "--preset: got 'nan', expected one of huge, large, base, small, tiny, nano; did you mean 'nano'?"),
        ({"jpeg_quality": 0}, "--jpeg_quality: got 0, expected a value in [1, 100]"),
        ({"jpeg_quality": 101}, "--jpeg_quality: got 101, expected a value in [1, 100]"),
        ({"workers": -2}, "--workers: got -2, expected 0 or more"),
        ({"ray_cpus": 0, "engine": "ray"}, "--ray_cpus: got 0, expected 1 or more"),
    ],
)  # fmt: skip
def test_preparing(values: dict[str, Any], message: str) -> None:
    assert refused(PrepareSettings, data="videos", out="store", **values) == message


def test_no_limit_on_the_time_of_a_file_is_accepted() -> None:
    assert DataSettings(data="videos", file_seconds=float("inf")).stride_seconds is None


def test_prepare_has_the_options_of_data_clips_and_cluster() -> None:
    settings = PrepareSettings(
        data="videos", out="store", split="train", preset="nano", frames=8, engine="ray", ray_actors=3, file_seconds=5.0
    )  # fmt: skip
    assert pick(DataSettings, settings) == DataSettings(data="videos", split="train", file_seconds=5.0)
    assert pick(ClusterSettings, settings) == ClusterSettings(engine="ray", ray_actors=3)
    assert settings.clip_settings(settings.preset).frames == 8
    assert settings.silence_dbfs == SILENCE_DBFS == -60.0
