"""From settings classes to flags and back, recipes, and error messages in one line."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cmmixer.cli.commands import COMMANDS, Command
from cmmixer.cli.parser import build, parse
from cmmixer.config import DubSettings, EvaluateSettings, FinetuneSettings, PretrainSettings, SearchSettings
from cmmixer.config.base import command_line
from cmmixer.errors import SettingsError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeighSettings:
    """Weigh a thing.

    Attributes:
        thing: what to weigh, 100 % of it
        grams: the limit
        factor: what to multiply with; default: none
        sides: [low, high]
        exact: whether to the gram
        quiet: say nothing; default: as the thing
        target: whom for
    """

    thing: str
    grams: int
    factor: float | None = None
    sides: tuple[float, float] | None = None
    exact: bool = False
    quiet: bool | None = None
    target: str = "me"


WEIGH = Command(
    "weigh", WeighSettings, "math:sqrt", "weigh x --grams 3", positionals=("thing",), program="python -m weigh"
)


def _refused(*arguments: str, command: Command = WEIGH) -> str:
    with pytest.raises(SettingsError) as refused:
        parse(command, arguments)
    return str(refused.value)


class TestFlags:
    def test_every_type_of_field_is_parsed(self) -> None:
        words = ["stone", "--grams", "3", "--factor", "2e-1", "--sides", "[0.5, 2]", "--exact", "--no_quiet", "--json"]
        settings, as_json = parse(WEIGH, words)
        assert settings == WeighSettings(
            thing="stone", grams=3, factor=0.2, sides=(0.5, 2.0), exact=True, quiet=False, target="me"
        )
        assert as_json

    def test_what_is_left_out_has_its_default(self) -> None:
        assert parse(WEIGH, ["stone", "--grams", "3"]) == (WeighSettings(thing="stone", grams=3), False)

    def test_dashes_and_underscores_mean_the_same(self) -> None:
        dashed, _ = parse(COMMANDS["pretrain"], ["--data", "x-y", "--batch-size", "4", "--warmup-epochs=2"])
        scored, _ = parse(COMMANDS["pretrain"], ["--data", "x-y", "--batch_size", "4", "--warmup_epochs=2"])
        assert dashed == scored
        assert (dashed.data, dashed.batch_size, dashed.warmup_epochs) == ("x-y", 4, 2.0)

    def test_a_keyword_of_python_is_a_flag_all_the_same(self) -> None:
        settings, _ = parse(WEIGH, ["stone", "--grams", "3", "--for", "you"])
        assert settings.target == "you"

    def test_short_flags(self) -> None:
        settings, _ = parse(COMMANDS["search"], ["q.mp4", "--index", "library", "-k", "5"])
        assert settings.k == 5
        settings, _ = parse(COMMANDS["dub"], ["a.mp4", "b.wav", "-o", "c.mp4"])
        assert (settings.video, settings.audio, settings.out) == ("a.mp4", "b.wav", "c.mp4")

    @pytest.mark.parametrize(
        ("flags", "value"),
        [([], None), (["--frame_level"], True), (["--no_frame_level"], False), (["--no-frame-level"], False)],
    )
    def test_a_switch_may_be_left_to_its_default(self, tmp_path: Path, flags: list[str], value: bool | None) -> None:
        settings, _ = parse(COMMANDS["finetune"], ["--data", "videos", *flags])
        assert settings.frame_level is value
        expected = shlex.join(["cmmixer", "finetune", "--data", "videos", *flags])
        assert command_line("finetune", settings) == expected.replace("no-frame-level", "no_frame_level")

    def test_groups_have_headings_and_own_fields_come_first(self) -> None:
        titles = [group.title for group in build(COMMANDS["pretrain"])._action_groups if group._group_actions]
        assert titles == [
            "options",
            "pretrain options",
            "training loop",
            "augmentation",
            "mixer",
            "clip geometry",
            "data",
        ]


class TestHelp:
    def test_the_whole_help_of_a_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse(WEIGH, ["--help"])
        text = capsys.readouterr().out
        assert text.startswith("usage: python -m weigh THING [options]\n\nWeigh a thing.\n")
        assert text.endswith("\nexample:\n  weigh x --grams 3\n")
        lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.startswith("  ")]
        helps = {words[0]: words[1] for words in lines if len(words) == 2}
        assert helps["THING"] == "what to weigh, 100 % of it"
        assert helps["--grams N"] == "the limit"
        assert helps["--factor X"] == "what to multiply with; default: none"
        assert helps["--sides [X,X]"] == "[low, high]"
        assert helps["--exact, --no_exact"] == "whether to the gram"
        assert helps["--for TEXT"] == "whom for (default: me)"


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["stone"], "missing: --grams"),
            ([], "missing: THING, --grams"),
            (["stone", "--grams", "x"], "--grams: got 'x', expected a value of type int"),
            (["stone", "--gram", "3", "--grams", "3"], "unknown options: gram (did you mean grams?)"),
            (["stone", "--grams", "3", "--x=1", "-q"], "unknown options: x, q"),
            (["stone", "plume", "--grams", "3"], "unknown options: plume"),
            (["stone", "--grams", "3", "--sides", "[1]"], "--sides: got '[1]', which does not fit"),
            (["stone", "--grams", "3", "--exact", "maybe"], "unknown options: maybe"),
        ],
    )
    def test_bad_arguments_are_one_line(self, arguments: list[str], message: str) -> None:
        assert _refused(*arguments) == f"{message}; see `python -m weigh --help`"

    def test_checks_of_the_settings_are_passed_on(self) -> None:
        assert _refused("--data", "x", "--mask_ratio", "1", command=COMMANDS["pretrain"]) == (
            "--mask_ratio: got 1.0, expected a value in [0.0, 1.0)"
        )


class TestRecipes:
    def test_a_recipe_sets_options_and_flags_win(self, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("data: videos\nepochs: 7\nlr: 2e-4\nmixup_mode: video\ncutmix_minmax: [0.2, 0.8]\n")
        settings, _ = parse(COMMANDS["pretrain"], ["--config", str(recipe), "--epochs", "9"])
        got = settings.epochs, settings.lr, settings.mixup_mode, settings.cutmix_minmax
        assert got == (9, 2e-4, "video", (0.2, 0.8))

    def test_switches_and_keywords_of_python(self, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("exact: true\nquiet: false\nfor: you\n")
        settings, _ = parse(WEIGH, ["stone", "--grams", "3", f"--config={recipe}"])
        assert (settings.exact, settings.quiet, settings.target) == (True, False, "you")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("gram: 7\ncolour: blue\n", "unknown options: gram (did you mean grams?), colour"),
            ("target: you\n", "unknown options: target"),
            ("- a\n- b\n", "got a list, expected lines of `option: value`"),
            ("# nothing\n", "is empty, expected lines of `option: value`"),
        ],
    )
    def test_wrong_recipes_are_refused(self, tmp_path: Path, content: str, message: str) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(content)
        assert _refused("stone", "--grams", "3", "--config", str(recipe)) == f"--config {recipe}: {message}"

    def test_files_that_are_no_yaml_are_refused(self, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("a: [")
        start = f"--config {recipe}: cannot be read as YAML (while parsing a flow node"
        assert _refused("--config", str(recipe)).startswith(start)
        recipe.write_bytes(b"\xff")
        assert "cannot be read as YAML ('utf-8' codec can't decode byte 0xff" in _refused("--config", str(recipe))
        assert "cannot be read as YAML ([Errno 2]" in _refused("--config", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("search", SearchSettings(query="a video.mp4", index="library", target="audio", k=3)),
        ("evaluate", EvaluateSettings(model="runs/x", data="store", bootstrap=20)),
        (
            "pretrain",
            PretrainSettings(data="it's here", cutmix_minmax=(0.2, 0.8), overwrite=True, lr=2e-4, preset="nano"),
        ),
        ("finetune", FinetuneSettings(data="store", init="runs/pre", warmup_epochs=0.5)),
        ("dub", DubSettings(video="a video.mp4", audio="b.wav", out="c.mov", loudness_lufs=-16.5, duck=True)),
    ],
)
def test_the_command_line_of_settings_is_parsed_to_these_settings(name: str, settings: Any) -> None:
    words = shlex.split(command_line(name, settings))
    assert words[:2] == ["cmmixer", name]
    assert parse(COMMANDS[name], words[2:]) == (settings, False)
