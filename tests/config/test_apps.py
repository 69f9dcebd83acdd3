"""Settings of quickstart, probe, export, dub, serve and doctor: what is refused, and with which words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cmmixer.config.apps import (
    DoctorSettings,
    DubSettings,
    ExportSettings,
    ProbeSettings,
    QuickstartSettings,
    ServeSettings,
    check_token,
)
from cmmixer.config.fields import field_helps
from cmmixer.errors import SettingsError

REQUIRED: dict[type[Any], dict[str, str]] = {
    QuickstartSettings: {},
    ProbeSettings: {"model": "runs/pre", "data": "sounds.csv"},
    ExportSettings: {"model": "runs/fine", "out": "onnx"},
    DubSettings: {"video": "a.mp4", "audio": "b.wav", "out": "c.mp4"},
    ServeSettings: {"index": "library"},
    DoctorSettings: {},
}
NOT_POSITIVE = "expected a value in (0.0, inf]"


def _refused(group: type[Any], **changes: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        group(**{**REQUIRED[group], **changes})
    return str(refused.value)


@pytest.mark.parametrize("group", REQUIRED)
class TestEach:
    def test_defaults_are_accepted(self, group: type[Any]) -> None:
        settings = group(**REQUIRED[group])
        assert {name: getattr(settings, name) for name in REQUIRED[group]} == REQUIRED[group]

    def test_settings_are_frozen_and_take_keywords_only(self, group: type[Any]) -> None:
        settings = group(**REQUIRED[group])
        name = dataclasses.fields(group)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, name, "x")
        with pytest.raises(TypeError):
            group("x")

    def test_required_fields_are_those_above(self, group: type[Any]) -> None:
        required = {field.name for field in dataclasses.fields(group) if field.default is dataclasses.MISSING}
        assert required == set(REQUIRED[group])

    def test_each_field_has_a_help_of_one_phrase(self, group: type[Any]) -> None:
        helps = field_helps(group)
        for field in dataclasses.fields(group):
            assert len(helps[field.name].split()) > 0, field.name
            assert not helps[field.name].endswith("."), field.name


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        (QuickstartSettings, {"scale": 0.0}, "--scale: got 0.0, expected a value in (0.0, 100.0]"),
        (QuickstartSettings, {"scale": 101.0}, "--scale: got 101.0, expected a value in (0.0, 100.0]"),
        (QuickstartSettings, {"seed": -1}, "--seed: got -1, expected 0 or more"),
        (QuickstartSettings, {"workers": -1}, "--workers: got -1, expected 0 or more"),
        (QuickstartSettings, {"device": "metal"}, "--device: got 'metal', expected one of auto, cpu, cuda"),
        (ExportSettings, {"format": "onxx"}, "--format: got 'onxx', expected one of onnx; did you mean 'onnx'?"),
        (ExportSettings, {"seed": -1}, "--seed: got -1, expected 0 or more"),
        (DoctorSettings, {"file_seconds": 0.0}, f"--file_seconds: got 0.0, {NOT_POSITIVE}"),
        (DoctorSettings, {"workers": -2}, "--workers: got -2, expected 0 or more"),
    ],
)
def test_quickstart_export_and_doctor(group: type[Any], changes: dict[str, Any], message: str) -> None:
    assert _refused(group, **changes) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "vido"}, "--task: got 'vido', expected one of audio, video, audiovisual; did you mean 'video'?"),
        ({"mode": "x"}, "--mode: got 'x', expected one of linear, finetune"),
        ({"short": "pad"}, "--short: got 'pad', expected one of refuse, use, skip"),
        ({"folds": 1}, "--folds: got 1, expected 2 or more"),
        ({"clips": 0}, "--clips: got 0, expected 1 or more"),
        ({"epochs": 0}, "--epochs: got 0, expected 1 or more"),
        ({"batch_size": 0}, "--batch_size: got 0, expected 1 or more"),
        ({"bootstrap": 0}, "--bootstrap: got 0, expected 1 or more"),
        ({"warmup_epochs": -0.5}, "--warmup_epochs: got -0.5, expected 0 or more"),
        ({"weight_decay": -1.0}, "--weight_decay: got -1.0, expected 0 or more"),
        ({"modality_dropout": 1.5}, "--modality_dropout: got 1.5, expected a value in [0.0, 1.0]"),
        ({"lr": 0.0}, f"--lr: got 0.0, {NOT_POSITIVE}"),
        ({"file_seconds": -1.0}, f"--file_seconds: got -1.0, {NOT_POSITIVE}"),
        ({"flip_prob": 2.0}, "--flip_prob: got 2.0, expected a value in [0.0, 1.0]"),
        ({"device": "metal"}, "--device: got 'metal', expected one of auto, cpu, cuda"),
    ],
)
def test_probe(changes: dict[str, Any], message: str) -> None:
    assert _refused(ProbeSettings, **changes) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -0.5}, "--start: got -0.5, expected a value in [0.0, inf)"),
        ({"at": float("inf")}, "--at: got inf, expected a value in [0.0, inf)"),
        ({"fade_in_seconds": -1.0}, "--fade_in_seconds: got -1.0, expected a value in [0.0, inf)"),
        ({"fade_out_seconds": float("nan")}, "--fade_out_seconds: got nan, expected a value in [0.0, inf)"),
        ({"loudness_lufs": -4.0}, "--loudness_lufs: got -4.0, expected a value in [-60.0, -5.0]"),
        ({"loudness_lufs": -61.0}, "--loudness_lufs: got -61.0, expected a value in [-60.0, -5.0]"),
        ({"file_seconds": 0.0}, f"--file_seconds: got 0.0, {NOT_POSITIVE}"),
    ],
)
def test_dub(changes: dict[str, Any], message: str) -> None:
    assert _refused(DubSettings, **changes) == message


class TestServe:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"port": 65536}, "--port: got 65536, expected a value in [0, 65535]"),
            ({"cache_mb": 0}, "--cache_mb: got 0, expected 1 or more"),
            ({"max_upload_mb": 0}, "--max_upload_mb: got 0, expected 1 or more"),
            ({"queries": 0}, "--queries: got 0, expected 1 or more"),
            ({"searches": 0}, "--searches: got 0, expected 1 or more"),
            ({"workers": 0}, "--workers: got 0, expected 1 or more"),
            ({"waiting": -1}, "--waiting: got -1, expected 0 or more"),
            ({"memory_mb": 499}, "--memory_mb: got 499, expected 500 or more"),
            ({"upload_seconds": 0.0}, f"--upload_seconds: got 0.0, {NOT_POSITIVE}"),
            ({"query_seconds": 0.0}, f"--query_seconds: got 0.0, {NOT_POSITIVE}"),
            ({"file_seconds": 0.0}, f"--file_seconds: got 0.0, {NOT_POSITIVE}"),
            ({"convert_seconds": 0.0}, f"--convert_seconds: got 0.0, {NOT_POSITIVE}"),
            ({"dub_seconds": 0.0}, f"--dub_seconds: got 0.0, {NOT_POSITIVE}"),
            ({"query_minutes": 0.0}, f"--query_minutes: got 0.0, {NOT_POSITIVE}"),
            ({"device": "metal"}, "--device: got 'metal', expected one of auto, cpu, cuda"),
            ({"token": "x" * 16, "token_file": "t"}, "--token and --token_file: got both, expected one of them"),
            ({"token": "short"}, "--token: got 5 characters, expected 16 or more"),
            (
                {"index": "s3://videos/library"},
                "--index: got s3://videos/library, expected a path on this machine; an index must be on a disk; on object "
                "storage `cmmixer embed --out s3://...` writes the vectors as a table",
            ),
        ],
    )
    def test_refused(self, changes: dict[str, Any], message: str) -> None:
        assert _refused(ServeSettings, **changes) == message

    @pytest.mark.parametrize("host", ["0.0.0.0", "203.0.113.9", "::", "media.example.org"])
    def test_an_address_that_others_can_reach_needs_a_token(self, host: str) -> None:
        assert _refused(ServeSettings, host=host) == (
            f"--host: got {host}, which other machines can reach; add --token or --token_file, or listen on 127.0.0.1"
        )
        for secret in ({"token": "x" * 16}, {"token_file": "token.txt"}):
            settings = ServeSettings(index="library", host=host, **secret)  # type: ignore[arg-type]
            assert not settings.is_loopback

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
    def test_a_loopback_address_needs_none(self, host: str) -> None:
        assert ServeSettings(index="library", host=host).is_loopback


class TestToken:
    def test_a_long_visible_token_is_returned(self) -> None:
        assert check_token("correct-horse-battery", "--token") == "correct-horse-battery"

    @pytest.mark.parametrize(
        "token", ["a token with spaces in it", "x" * 16 + "\n", "größer-als-sechzehn", "x" * 16 + "\x7f"]
    )
    def test_characters_that_a_header_cannot_carry_are_refused(self, token: str) -> None:
        with pytest.raises(SettingsError) as refused:
            check_token(token, "token.txt")
        expected = "token.txt: got a character that a header cannot carry, expected visible ASCII without spaces"
        assert str(refused.value) == expected
