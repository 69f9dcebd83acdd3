"""Checks of settings and their messages, command lines, s3:// addresses, and strict reading of JSON values."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cmmixer.config import ClipSettings, FinetuneSettings, MixerSettings, PretrainSettings, SearchSettings
from cmmixer.config.base import (
    INDEX_ELSEWHERE,
    RUN_ELSEWHERE,
    ChoiceError,
    at_least,
    command_line,
    from_dict,
    is_remote,
    one_of,
    pick,
    refuse_remote,
    within,
)
from cmmixer.errors import InputError, SettingsError
from cmmixer.types import Statistics


def _message(check: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as refused:
        check()
    return str(refused.value)


class TestOneOf:
    def test_a_choice_passes(self) -> None:
        one_of("device", "cpu", ("auto", "cpu"))

    def test_another_value_is_refused_with_the_closest_choice(self) -> None:
        assert _message(lambda: one_of("device", "cdua", iter(["auto", "cpu", "cuda"]))) == (
            "--device: got 'cdua', expected one of auto, cpu, cuda; did you mean 'cuda'?"
        )
        assert _message(lambda: one_of("device", "x", ["auto"])) == "--device: got 'x', expected one of auto"

    def test_the_error_carries_the_choices_and_survives_pickling(self) -> None:
        with pytest.raises(ChoiceError) as refused:
            one_of("device", "cdua", ["auto", "cuda"])
        copy = pickle.loads(pickle.dumps(refused.value))
        assert (copy.option, copy.got, copy.choices) == ("device", "cdua", ("auto", "cuda"))
        assert str(copy) == str(refused.value)
        assert isinstance(copy, InputError)


class TestRanges:
    @pytest.mark.parametrize(
        ("value", "ends", "interval"),
        [
            (-0.1, {}, "[0.0, 1.0]"),
            (1.1, {}, "[0.0, 1.0]"),
            (0.0, {"open_low": True}, "(0.0, 1.0]"),
            (1.0, {"open_high": True}, "[0.0, 1.0)"),
            (float("nan"), {}, "[0.0, 1.0]"),
            (2.0, {"open_low": True, "open_high": True}, "(0.0, 1.0)"),
        ],
    )
    def test_numbers_outside_are_refused(self, value: float, ends: dict[str, bool], interval: str) -> None:
        expected = f"--prob: got {value}, expected a value in {interval}"
        assert _message(lambda: within("prob", value, 0.0, 1.0, **ends)) == expected

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_ends_are_inside_unless_excluded(self, value: float) -> None:
        within("prob", value, 0.0, 1.0)
        within("seconds", 1.0, 0.0, float("inf"), open_low=True, open_high=True)

    def test_lower_bounds(self) -> None:
        at_least("epochs", 1, 1)
        assert _message(lambda: at_least("epochs", 0, 1)) == "--epochs: got 0, expected 1 or more"
        assert _message(lambda: at_least("lr", float("nan"), 0)) == "--lr: got nan, expected 0 or more"


class TestRemote:
    @pytest.mark.parametrize(
        ("place", "remote"), [("s3://videos/x", True), ("videos", False), ("x/s3://", False), (Path("s3://x"), False)]
    )
    def test_addresses_are_told_from_paths(self, place: object, remote: bool) -> None:
        assert is_remote(place) is remote

    def test_addresses_are_refused_where_only_files_will_do(self) -> None:
        refuse_remote("index", "library", INDEX_ELSEWHERE)
        refuse_remote("index", None, INDEX_ELSEWHERE)
        assert _message(lambda: refuse_remote("out", "s3://videos/run", RUN_ELSEWHERE)) == (
            "--out: got s3://videos/run, expected a path on this machine; a run must be on a disk; copy it when it is finished"
        )


class TestCommandLine:
    def test_defaults_are_left_out_and_required_fields_are_not(self) -> None:
        assert command_line("pretrain", PretrainSettings(data="store")) == "cmmixer pretrain --data store"

    def test_switches_tuples_and_quotes(self) -> None:
        settings = PretrainSettings(data="it's here", cutmix_minmax=(0.2, 0.8), overwrite=True)
        assert command_line("pretrain", settings) == (
            """cmmixer pretrain --overwrite --cutmix_minmax '[0.2, 0.8]' --data 'it'"'"'s here'"""
        )
        assert command_line("finetune", FinetuneSettings(data="x", frame_level=False)) == (
            "cmmixer finetune --data x --no_frame_level"
        )

    def test_positionals_come_first_and_keywords_of_python_keep_their_flag(self) -> None:
        settings = SearchSettings(query="a b.mp4", index="library", target="audio")
        assert command_line("search", settings) == "cmmixer search 'a b.mp4' --index library --for audio"


def test_pick_takes_one_group_of_a_command() -> None:
    settings = PretrainSettings(data="videos", mixup_mode="video", mixup_prob=0.25)
    assert pick(MixerSettings, settings) == MixerSettings(mixup_mode="video", mixup_prob=0.25)


@dataclass(frozen=True)
class Inner:
    size: int
    label: str = ""


@dataclass(frozen=True)
class Outer:
    inner: Inner
    pair: tuple[int, str]
    many: tuple[float, ...] = ()
    names: list[str] = field(default_factory=list)
    table: dict[str, Inner] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)
    either: int | str = 0
    shape: tuple[int | str, ...] = ()
    nested: Inner | None = None


GOOD: dict[str, Any] = {"inner": {"size": 3}, "pair": [1, "a"]}


class TestFromDict:
    def test_every_kind_of_field(self) -> None:
        values = {
            **GOOD,
            "many": [1, 2.5],
            "names": ["x"],
            "table": {"a": {"size": 1, "label": "one"}},
            "anything": {"deep": [1, {"x": None}]},
            "either": "auto",
            "shape": ["B", 3],
            "nested": {"size": 4},
        }
        assert from_dict(Outer, values, "x") == Outer(
            inner=Inner(3),
            pair=(1, "a"),
            many=(1, 2.5),
            names=["x"],
            table={"a": Inner(1, "one")},
            anything={"deep": [1, {"x": None}]},
            either="auto",
            shape=("B", 3),
            nested=Inner(4),
        )

    def test_what_is_left_out_has_its_default(self) -> None:
        assert from_dict(Outer, {**GOOD, "nested": None}, "x") == Outer(inner=Inner(3), pair=(1, "a"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pair": [1]}, "pair: got [1], expected tuple"),
            ({"pair": [1, 2]}, "pair: got 2, expected str"),
            ({"names": "x"}, 'names: got "x", expected list'),
            ({"many": {"a": 1}}, 'many: got {"a": 1}, expected tuple'),
            ({"table": {"a": 1}}, "table.a: got 1, expected object"),
            ({"table": {"a": {"sise": 1}}}, "unknown keys: table.a.sise (did you mean size?)"),
            ({"either": 1.5}, "either: got 1.5, expected int"),
            ({"nested": {}}, "missing keys: nested.size"),
            ({"inner": None}, "inner: got null, expected object"),
            ({"inner": {"size": "3" * 200}}, f'inner.size: got "{"3" * 79}, expected int'),
        ],
    )
    def test_values_that_do_not_fit(self, changes: dict[str, Any], message: str) -> None:
        assert _message(lambda: from_dict(Outer, {**GOOD, **changes}, "file")) == f"file: {message}"

    def test_everything_wrong_is_named_at_once(self) -> None:
        values = {"inner": {"size": "x", "lable": ""}, "colour": 1, "pair": 3}
        assert _message(lambda: from_dict(Outer, values, "")) == (
            'unknown keys: colour, inner.lable (did you mean label?); inner.size: got "x", expected int; pair: got 3, expected tuple'
        )

    def test_a_misspelled_key_is_not_named_as_missing_too(self) -> None:
        message = _message(lambda: from_dict(MixerSettings, {"mixup_mod": "image", "colour": 3}, "metadata.json"))
        assert message == "metadata.json: unknown keys: colour, mixup_mod (did you mean mixup_mode?)"
        assert _message(lambda: from_dict(Inner, {"sise": 3}, "x")) == "x: unknown keys: sise (did you mean size?)"

    def test_what_is_no_object(self) -> None:
        assert _message(lambda: from_dict(Inner, [3], "x")) == "x: value: got [3], expected object"

    def test_checks_of_the_class_name_the_place_too(self) -> None:
        values = {
            "frames": 0,
            "height": 64,
            "width": 64,
            "clip_seconds": 4,
            "window_seconds": 1,
            "sample_rate_hz": 16000,
        }
        assert _message(lambda: from_dict(ClipSettings, values, "store.json")).startswith(
            "store.json: --frames: got 0, "
        )

    def test_numbers_are_kept_to_the_last_digit(self) -> None:
        values = {
            "frame_mean": [0.1, 0.2, 0.3],
            "frame_std": [1, 2, 3],
            "mel_mean": -30.000000000000004,
            "mel_std": 1e-17,
        }
        statistics = from_dict(Statistics, {**values, "clips": 5}, "x")
        assert (statistics.mel_mean, statistics.mel_std) == (-30.000000000000004, 1e-17)
        assert statistics.frame_mean == (0.1, 0.2, 0.3)
