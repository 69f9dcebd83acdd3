"""Commands as people type them: whole outputs and exit codes, in real processes."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmmixer.cli.commands import COMMANDS
from cmmixer.cli.main import main
from cmmixer.cli.parser import field_helps, parse
from cmmixer.config import DubSettings, EvaluateSettings, FinetuneSettings, PretrainSettings, SearchSettings
from cmmixer.config.base import command_line
from cmmixer.errors import SettingsError


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmmixer", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "0"), ({"GOMP_SPINCOUNT": "5000"}, "5000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")],
)
def test_waiting_threads_of_torch_sleep_unless_the_user_says_otherwise(chosen: dict[str, str], spins: str) -> None:
    # libgomp itself tells what it took when torch loads it.
    done = run("evaluate", "no-such-run", "--data", "films", env={"OMP_DISPLAY_ENV": "verbose", **chosen})
    assert done.returncode == 2
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_help_comes_in_under_half_a_second_and_without_torch() -> None:
    # The best of a few, since the machine may be busy; `-X importtime` would tell torch by name.
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        done = run("--help")
        seconds.append(time.perf_counter() - begun)
        assert done.returncode == 0
    assert min(seconds) < 0.5
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from cmmixer.cli import main; main(['--help']); print('torch' in sys.modules, 'numpy' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_an_example_that_parses_and_help_for_every_flag(name: str) -> None:
    command = COMMANDS[name]
    done = run(name, "--help")
    assert done.returncode == 0
    assert f"example:\n  {command.example.splitlines()[0]}" in done.stdout
    for line in command.example.splitlines():
        words = line.split()
        settings, as_json = parse(command, words[words.index(name) + 1 :])
        assert isinstance(settings, command.settings)
        assert as_json is False
    helps = field_helps(command.settings)
    missing = [field.name for field in dataclasses.fields(command.settings) if not helps.get(field.name)]
    assert missing == []


def test_synthesize_says_what_it_wrote(tmp_path: Path) -> None:
    told = {"out": str(tmp_path / "films"), "films": 2, "kept": 0}
    for kept in (0, 2):
        done = run("synthesize", "--clips", "2", "--out", told["out"], "--workers", "1", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {**told, "kept": kept})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_finds_its_function(name: str) -> None:
    assert callable(COMMANDS[name].load())


@pytest.mark.parametrize(
    ("flags", "value"),
    [([], None), (["--frames_apart"], True), (["--no_frames_apart"], False), (["--no-frames-apart"], False)],
)
def test_a_switch_may_be_left_to_what_fits(tmp_path: Path, flags: list[str], value: bool | None) -> None:
    settings, _ = parse(COMMANDS["finetune"], ["--data", "films", *flags])
    assert settings.frames_apart is value
    assert command_line("finetune", settings) == shlex.join(
        ["cmmixer", "finetune", "--data", "films", *flags[:1]]
    ).replace("no-frames-apart", "no_frames_apart")
    (tmp_path / "recipe.yaml").write_text("frames_apart: false\n")
    settings, _ = parse(COMMANDS["finetune"], ["--data", "films", "--config", str(tmp_path / "recipe.yaml")])
    assert settings.frames_apart is False


def test_what_a_docstring_says_of_a_field_is_told_to_its_end() -> None:
    helps = field_helps(FinetuneSettings)
    assert helps["frame_weight"] == (
        "part of the loss that contrasts each frame with all sound windows of the batch, those of its own clip's other instants included, "
        "instead of whole clips; default: all of it with frames apart and 500 clips or more, else 0"
    )
    assert helps["pair_mix_prob"].endswith("default: 1 with fewer than 500 clips, unless the loss is on frames, else 0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pretrian"], "got command 'pretrian'; did you mean 'pretrain'? expected one of " + ", ".join(COMMANDS)),
        (
            ["pretrain", "--epoch", "3", "--foo"],
            "unknown options: epoch (did you mean epochs?), foo; see `cmmixer pretrain --help`",
        ),
        (["pretrain", "--epochs", "4"], "missing: --data; see `cmmixer pretrain --help`"),
        (
            ["pretrain", "--data", "x", "--epochs", "a"],
            "--epochs: got 'a', expected a value of type int; see `cmmixer pretrain --help`",
        ),
        (
            ["search", "q.mp4", "--index", "x", "--for", "vidio"],
            "--for: got 'vidio', expected one of audio, video, film; did you mean 'video'?",
        ),
        (["search"], "missing: QUERY, --index; see `cmmixer search --help`"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], told: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"cmmixer: {told}\n")


def test_dashes_and_underscores_mean_the_same() -> None:
    dashed, _ = parse(COMMANDS["pretrain"], ["--data", "x-y", "--batch-size", "4", "--warmup-epochs=2"])
    scored, _ = parse(COMMANDS["pretrain"], ["--data", "x-y", "--batch_size", "4", "--warmup_epochs=2"])
    assert dashed == scored
    assert (dashed.data, dashed.batch_size, dashed.warmup_epochs) == ("x-y", 4, 2.0)


def test_a_recipe_sets_options_and_flags_win(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: films\nepochs: 7\nlr: 2e-4\nmixup_mode: video\ncutmix_minmax: [0.2, 0.8]\n")
    settings, _ = parse(COMMANDS["pretrain"], ["--config", str(recipe), "--epochs", "9"])
    assert (settings.epochs, settings.lr, settings.mixup_mode, settings.cutmix_minmax) == (9, 2e-4, "video", (0.2, 0.8))


def test_unknown_keys_of_a_recipe_are_told_all_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: films\nepochss: 7\ncolour: blue\n")
    with pytest.raises(SettingsError) as refused:
        parse(COMMANDS["pretrain"], ["--config", str(recipe)])
    assert str(refused.value) == f"--config {recipe}: unknown options: epochss (did you mean epochs?), colour"


def test_a_missing_path_is_one_line(tmp_path: Path) -> None:
    done = run("pretrain", "--data", str(tmp_path / "nowhere"), "--preset", "nano", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("cmmixer: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("search", SearchSettings(query="a film.mp4", index="library", target="audio", k=3)),
        ("evaluate", EvaluateSettings(model="runs/x", data="store", bootstrap=20)),
        (
            "pretrain",
            PretrainSettings(data="it's here", cutmix_minmax=(0.2, 0.8), overwrite=True, lr=2e-4, preset="nano"),
        ),
        ("finetune", FinetuneSettings(data="store", init="runs/pre", warmup_epochs=0.5)),
        ("dub", DubSettings(film="a film.mp4", sound="b.wav", out="c.mov", loudness_lufs=-16.5, duck=True)),
    ],
)
def test_the_command_line_of_settings_gives_these_settings_back(name: str, settings: object) -> None:
    words = shlex.split(command_line(name, settings))
    assert words[:2] == ["cmmixer", name]
    assert parse(COMMANDS[name], words[2:]) == (settings, False)


@pytest.mark.parametrize(
    ("name", "library", "arguments"),
    [
        ("probe", "sklearn.linear_model", ["run", "--data", "x"]),
        ("inspect", "librosa", ["run", "--data", "x"]),
        ("export", "onnxruntime", ["--model", "run", "--out", "x"]),
    ],
)
def test_a_missing_library_of_an_extra_is_one_line_that_says_what_to_install(
    name: str, library: str, arguments: list[str]
) -> None:
    call = f"main({[name, *arguments]})"
    code = f"import sys; sys.modules['{library}'] = None; from cmmixer.cli.main import main; sys.exit({call})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{name} needs {library}, which is not installed; pip install 'cmmixer[{name}]'" in done.stderr
    assert "Traceback" not in done.stderr


# What each command with --device needs to be let in; none of it is there.
NEEDED = {
    "quickstart": "--out out",
    "pretrain": "--data none --out out",
    "finetune": "--data none --out out",
    "evaluate": "none --data none",
    "probe": "none --data none --out out",
    "inspect": "none --data none --out out",
    "embed": "--model none --data none --out out",
    "index": "--index out --optimize",
    "search": "--index none none.mp4",
    "serve": "--index none",
    "bench": "search",
}


def test_the_list_above_is_whole() -> None:
    assert set(NEEDED) == {name for name, command in COMMANDS.items() if "device" in field_helps(command.settings)}


@pytest.mark.parametrize("name", list(NEEDED))
def test_a_gpu_that_is_not_there_is_told_by_every_command_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main([name, *NEEDED[name].split(), "--device", "cuda"]) == 2
    told = "cmmixer: --device: got cuda, but torch sees no CUDA device; use --device cpu\n"
    assert capsys.readouterr().err == told
    assert list(tmp_path.iterdir()) == []
