"""Shell completion and recipe schemas: real shells accept and use the script, real recipes fit the schema."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cmmixer.cli.commands import COMMANDS
from cmmixer.cli.completion import SCHEMA, SHELLS, completion_script, field_choices, recipe_schema
from cmmixer.cli.main import main
from cmmixer.config import FinetuneSettings, SearchSettings
from cmmixer.errors import SettingsError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("completion") / "cmmixer.bash"
    script.write_text(completion_script("bash"))
    return script


def _completed(script: Path, *words: str) -> list[str]:
    """Returns what bash offers for the last of the words."""
    program = f"""
source {script}
COMP_WORDS=(cmmixer "$@"); COMP_CWORD=$#
_shtab_cmmixer
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


class TestCompletion:
    def test_bash_accepts_the_script(self, bash: Path) -> None:
        assert subprocess.run(["bash", "-n", str(bash)], capture_output=True, text=True, check=True).stderr == ""

    @pytest.mark.parametrize(
        ("words", "offered"),
        [
            (["pre"], ["prepare", "pretrain"]),
            (["ex"], ["export"]),
            (["pretrain", "--warm"], ["--warmup_epochs"]),
            (["pretrain", "--mixup_mode", ""], ["pixel", "patch", "image", "video"]),
            (["pretrain", "--no_n"], ["--no_norm_pix"]),
            (["search", "q.mp4", "--for", "a"], ["audio", "any"]),
            (["finetune", "--epochs", "3", "--head_init", "c"], ["cca"]),
            (["dub", "--lou"], ["--loudness_lufs"]),
            (["--print_c"], ["--print_completion"]),
            (["--print_completion", ""], list(SHELLS)),
            (["--print_schema", "pro"], ["probe"]),
            (["pretrain", "--batch_size", ""], []),
        ],
    )
    def test_bash_completes_commands_flags_and_choices(self, bash: Path, words: list[str], offered: list[str]) -> None:
        assert _completed(bash, *words) == offered

    def test_text_is_completed_as_a_file_name(self, bash: Path, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").touch()
        for words in (["pretrain", "--config"], ["pretrain", "--data"], ["search"]):
            assert _completed(bash, *words, f"{tmp_path}/rec") == [f"{tmp_path}/recipe.yaml"]

    def test_every_command_and_flag_is_in_the_script(self, bash: Path) -> None:
        script = bash.read_text()
        for name, command in COMMANDS.items():
            (flags,) = re.findall(rf"^_shtab_cmmixer_{name}_option_strings=\((.*)\)$", script, re.MULTILINE)
            expected = {f"--{field}" for field in command.settings.__dataclass_fields__} - {"--target"}
            assert expected - {f"--{field}" for field in command.positionals} <= set(flags.split())

    @pytest.mark.parametrize(("shell", "sign"), [("zsh", "#compdef cmmixer"), ("tcsh", "complete cmmixer")])
    def test_other_shells(self, shell: str, sign: str, tmp_path: Path) -> None:
        script = completion_script(shell)
        assert sign in script
        assert "pretrain" in script
        if shell == "zsh" and shutil.which("zsh"):
            (tmp_path / "_cmmixer").write_text(script)
            subprocess.run(["zsh", "-n", str(tmp_path / "_cmmixer")], check=True)

    @pytest.mark.parametrize("arguments", [["--print_completion", "bash"], ["--print-completion=bash"]])
    def test_the_command_line_prints_it(
        self, arguments: list[str], bash: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 0
        assert capsys.readouterr().out == bash.read_text() + "\n"

    def test_an_unknown_shell_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--print_completion", "bsh"]) == 2
        expected = "cmmixer: --print_completion: got 'bsh', expected one of bash, zsh, tcsh; did you mean 'bash'?\n"
        assert capsys.readouterr().err == expected
        assert main(["--print_completion"]) == 2
        assert "got '', expected one of bash, zsh, tcsh" in capsys.readouterr().err


class _Yaml12(yaml.SafeLoader):
    """Reads 1e-3 as a number, as editors and the command line do; PyYAML follows YAML 1.1, which wants a dot."""


_Yaml12.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


class TestSchema:
    @pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_every_recipe_fits_its_schema(self, path: Path) -> None:
        (command,) = set(re.findall(rf"cmmixer (\w+) --config recipes/{path.name}", path.read_text()))
        recipe: dict[str, Any] = yaml.load(path.read_text(), _Yaml12)
        schema = json.loads(recipe_schema(command))
        jsonschema.validate(recipe, schema)
        with pytest.raises(jsonschema.ValidationError, match=r"'epoch' was unexpected"):
            jsonschema.validate({**recipe, "epoch": 3}, schema)
        with pytest.raises(jsonschema.ValidationError, match=r"'nanno' is not one of"):
            jsonschema.validate({**recipe, "preset": "nanno"}, schema)
        with pytest.raises(jsonschema.ValidationError, match=r"'many' is not of type 'integer'"):
            jsonschema.validate({**recipe, "epochs": "many"}, schema)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_schema_is_valid_and_says_what_it_is(self, name: str) -> None:
        schema = json.loads(recipe_schema(name))
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == SCHEMA
        assert schema["title"] == f"Recipe of `cmmixer {name}`"
        summary = COMMANDS[name].summary
        assert schema["description"] == f"{summary} A recipe sets options: `cmmixer {name} --config recipe.yaml`."
        names = {"for" if field == "target" else field for field in COMMANDS[name].settings.__dataclass_fields__}
        assert set(schema["properties"]) == names
        assert all(entry["description"] and "%%" not in entry["description"] for entry in schema["properties"].values())

    def test_types_defaults_and_choices(self) -> None:
        properties = json.loads(recipe_schema("finetune"))["properties"]
        assert properties["epochs"]["type"] == "integer"
        assert properties["warmup_epochs"] | {"description": ""} == {
            "type": "number",
            "default": FinetuneSettings(data="x").warmup_epochs,
            "description": "",
        }
        assert properties["loss"]["enum"] == ["infonce", "nt_xent"]
        assert properties["preset"]["enum"][-1] is None
        assert properties["frame_level"]["type"] == "boolean"
        assert "default" not in properties["data"]
        values = json.loads(recipe_schema("search"))["properties"]["for"]
        assert values["enum"] == ["audio", "video", "any", None]

    def test_tuples_have_their_length(self) -> None:
        schema = json.loads(recipe_schema("pretrain"))
        jsonschema.validate({"cutmix_minmax": [0.2, 0.8]}, schema)
        jsonschema.validate({"cutmix_minmax": None}, schema)
        for wrong in ([0.2], [0.1, 0.2, 0.3], ["a", 0.2]):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({"cutmix_minmax": wrong}, schema)

    def test_an_unknown_command_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(
            SettingsError, match=r"^--print_schema: got 'pretrian', expected one of quickstart, .*'pretrain'"
        ):
            recipe_schema("pretrian")
        assert main(["--print-schema", "dub"]) == 0
        assert json.loads(capsys.readouterr().out)["title"] == "Recipe of `cmmixer dub`"


class TestChoices:
    def test_every_choice_that_a_settings_class_checks_is_found(self) -> None:
        sources = "".join(path.read_text() for path in (Path(RECIPES.parent) / "src/cmmixer/config").glob("*.py"))
        checked = set(re.findall(r'one_of\("(\w+)", self\.', sources))
        found = {
            "for" if name == "target" else name
            for command in COMMANDS.values()
            for name in field_choices(command.settings)
        }
        assert found == checked

    def test_the_values_are_those_of_the_check(self) -> None:
        assert field_choices(SearchSettings)["target"] == ("audio", "video", "any")
        assert field_choices(FinetuneSettings)["precision"] == ("32-true", "bf16-mixed")
        assert "data" not in field_choices(FinetuneSettings)
