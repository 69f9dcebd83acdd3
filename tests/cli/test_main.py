"""The command line as people type it: whole outputs and exit codes. What needs a process of its own has one."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmmixer.cli import main as main_module
from cmmixer.cli.commands import COMMANDS, Command
from cmmixer.cli.main import main, run_command
from cmmixer.cli.parser import parse
from cmmixer.cli.torchrun import TerminatedError
from cmmixer.config.fields import field_helps
from cmmixer.errors import CheckpointError, DataError, InternalError, NonFiniteError
from cmmixer.version import __version__


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmmixer", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


@dataclasses.dataclass(frozen=True)
class AnswerSettings:
    """Answer a question.

    Attributes:
        question: the question
    """

    question: str


@dataclasses.dataclass(frozen=True)
class Answer:
    text: str
    is_main: bool = True
    exit_code: int = 0

    def as_json(self) -> dict[str, str]:
        return {"text_of_it": self.text}


ANSWER = Command("answer", AnswerSettings, "tests.cli.test_main:answer", "answer why", positionals=("question",))
answer: Callable[..., Any]


def _answers(monkeypatch: pytest.MonkeyPatch, work: Callable[[AnswerSettings], Any]) -> None:
    """Lets the command do this work."""
    monkeypatch.setattr(Command, "load", lambda command: lambda settings, progress: work(settings))


class TestOverview:
    @pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
    def test_it_lists_every_command(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert out.startswith("CMMixer learns which sound belongs to which picture, and makes a folder of videos")
        assert [
            line.split()[0] for line in out.splitlines() if line.startswith("  ") and "cmmixer" not in line
        ] == list(COMMANDS)
        for command in COMMANDS.values():
            assert f"{command.name:<10}  {command.summary}\n" in out

    @pytest.mark.parametrize("flag", ["-V", "--version"])
    def test_version(self, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([flag]) == 0
        assert capsys.readouterr().out == f"cmmixer {__version__}\n"

    def test_help_takes_under_half_a_second_and_no_torch(self) -> None:
        # The best of a few, since the machine may be busy; `-X importtime` would tell torch by name.
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            assert run("--help").returncode == 0
            seconds.append(time.perf_counter() - begun)
            if seconds[-1] < 0.5:
                break
        assert min(seconds) < 0.5
        code = "main(['--help']); print('torch' in sys.modules, 'numpy' in sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", f"import sys; from cmmixer.cli.main import main; {code}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert loaded.stdout.splitlines()[-1] == "False False"


class TestCommands:
    @pytest.mark.parametrize("name", list(COMMANDS))
    def test_each_has_an_example_that_parses_and_help_for_every_flag(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = COMMANDS[name]
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.endswith(f"example:\n  {command.example}\n")
        for line in command.example.splitlines():
            words = line.split()
            settings, as_json = parse(command, words[words.index(name) + 1 :])
            assert isinstance(settings, command.settings)
            assert as_json is False
        helps = field_helps(command.settings)
        assert [field.name for field in dataclasses.fields(command.settings) if not helps.get(field.name)] == []

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_finds_its_function(self, name: str) -> None:
        assert callable(COMMANDS[name].load())

    def test_a_missing_library_of_an_extra_says_what_to_install(self) -> None:
        calls = {
            "sklearn.linear_model": ["probe", "run", "--data", "x"],
            "librosa": ["inspect", "run", "--data", "x"],
            "onnxruntime": ["export", "--model", "run", "--out", "x"],
        }
        code = (
            f"import sys\nfrom cmmixer.cli.main import main\nsys.modules.update(dict.fromkeys({list(calls)}))\n"
            f"assert [main(call) for call in {list(calls.values())}] == [2, 2, 2]"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines() == [
            f"cmmixer: {call[0]} needs {library}, which is not installed; pip install 'cmmixer[{call[0]}]'"
            for library, call in calls.items()
        ]

    def test_a_library_that_a_command_always_needs_is_no_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            Command("x", AnswerSettings, "no_such_module:f", "x", extra=None).load()

    def test_synthesize_says_what_it_wrote(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report = {"out": str(tmp_path / "videos"), "videos": 2, "kept": 0}
        for kept in (0, 2):
            assert main(["synthesize", "--clips", "2", "--out", report["out"], "--workers", "1", "--json"]) == 0
            assert json.loads(capsys.readouterr().out) == {**report, "kept": kept}


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["pretrian"], "got command 'pretrian'; did you mean 'pretrain'? expected one of " + ", ".join(COMMANDS)),
            (["--epochs", "3"], "got command '--epochs'; expected one of " + ", ".join(COMMANDS)),
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
                "--for: got 'vidio', expected one of audio, video, any; did you mean 'video'?",
            ),
            (["search"], "missing: QUERY, --index; see `cmmixer search --help`"),
        ],
    )
    def test_it_is_one_line_and_exit_code_2(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 2
        assert capsys.readouterr() == ("", f"cmmixer: {message}\n")

    def test_a_real_process_says_the_same(self, tmp_path: Path) -> None:
        # libgomp itself reports what it took when torch loads it.
        where = str(tmp_path / "nowhere")
        done = run("pretrain", "--data", where, "--preset", "nano", "--out", "x", env={"OMP_DISPLAY_ENV": "verbose"})
        assert (done.returncode, done.stdout) == (2, "")
        assert "GOMP_SPINCOUNT = '0'" in done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"cmmixer: {where}")
        assert "Traceback" not in done.stderr


class TestResults:
    def test_a_result_is_printed_for_people_or_as_json(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _answers(monkeypatch, lambda settings: Answer(f"{settings.question}? because"))
        assert run_command(ANSWER, ["why"]) == 0
        assert capsys.readouterr().out == "text of it: why? because\n"
        assert run_command(ANSWER, ["why", "--json"]) == 0
        assert capsys.readouterr().out == '{\n "text_of_it": "why? because"\n}\n'

    def test_a_result_has_an_exit_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _answers(monkeypatch, lambda settings: Answer("no", exit_code=3))
        assert run_command(ANSWER, ["why"]) == 3

    def test_only_the_main_process_prints(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _answers(monkeypatch, lambda settings: Answer("no", is_main=False, exit_code=3))
        assert run_command(ANSWER, ["why"]) == 0
        assert capsys.readouterr().out == ""


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (DataError("videos: no such folder;\ncheck the name"), 2, "videos: no such folder; check the name"),
            (CheckpointError("runs/x: damaged"), 2, "runs/x: damaged"),
            (NonFiniteError("step 3: the loss is nan"), 1, "step 3: the loss is nan"),
            (InternalError("x"), 1, "x"),
            (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
            (TerminatedError(), 143, "terminated (SIGTERM); run the same command again to resume"),
            (
                OSError(errno.ENOSPC, "No space left on device", "log.jsonl"),
                2,
                "log.jsonl: the disk is full; free some space and run the same command again",
            ),
            (
                OSError(errno.EDQUOT, "Disk quota exceeded"),
                2,
                "writing: the disk is full; free some space and run the same command again",
            ),
        ],
    )
    def test_each_kind_has_its_line_and_exit_code(
        self,
        error: BaseException,
        code: int,
        line: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(settings: AnswerSettings) -> None:
            raise error

        _answers(monkeypatch, fail)
        assert run_command(ANSWER, ["why"]) == code
        assert capsys.readouterr().err == f"cmmixer: {line}\n"

    @pytest.mark.parametrize("error", [ValueError("a\n  b"), OSError(errno.EIO, "Input/output error")])
    def test_a_bug_leaves_its_traceback_in_a_file(
        self,
        error: Exception,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        def fail(settings: AnswerSettings) -> None:
            raise error

        monkeypatch.setattr(main_module.tempfile, "tempdir", str(tmp_path))
        monkeypatch.delenv("CMMIXER_DEBUG", raising=False)
        _answers(monkeypatch, fail)
        assert run_command(ANSWER, ["why"]) == 1
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("cmmixer-error-")
        text = " ".join(str(error).split())
        assert capsys.readouterr().err == (
            f"cmmixer: a bug in CMMixer, sorry: {type(error).__name__}: {text}; the details are in {file}\n"
        )
        assert file.read_text().startswith("Traceback (most recent call last):")
        assert "raise error" in file.read_text()

    def test_a_traceback_is_printed_on_request(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CMMIXER_DEBUG", "1")
        _answers(monkeypatch, lambda settings: 1 / 0)
        assert run_command(ANSWER, ["why"]) == 1
        assert capsys.readouterr().err.endswith("ZeroDivisionError: division by zero\n")

    def test_a_reader_that_ended_is_no_error(self) -> None:
        code = "import sys; from cmmixer.cli.main import main; sys.exit(main(['--print_schema', 'pretrain']))"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
        process.stderr.close()

    def test_sigterm_ends_a_command_in_one_line(self) -> None:
        code = (
            "import os, signal, sys, time\nfrom cmmixer.cli import main as m\nfrom cmmixer.cli.commands import Command\n"
            "def work(settings, progress):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(30)\n"
            "Command.load = lambda command: work\nsys.exit(m.main(['doctor']))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 128 + signal.SIGTERM
        assert done.stderr.endswith("cmmixer: terminated (SIGTERM); run the same command again to resume\n")


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), ({"GOMP_SPINCOUNT": "5000"}, None), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    given: dict[str, str], policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    main_module._share_cores()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    assert os.environ.get("GOMP_SPINCOUNT") == given.get("GOMP_SPINCOUNT")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


# What each command with --device requires; none of it exists.
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
}


class TestMissingGpu:
    def test_the_list_above_is_complete(self) -> None:
        assert set(NEEDED) == {name for name, command in COMMANDS.items() if "device" in field_helps(command.settings)}

    @pytest.mark.parametrize("name", list(NEEDED))
    def test_it_is_reported_by_every_command_before_anything_is_written(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.chdir(tmp_path)
        assert main([name, *NEEDED[name].split(), "--device", "cuda"]) == 2
        message = "cmmixer: --device: got cuda, but torch sees no CUDA device; use --device cpu\n"
        assert capsys.readouterr().err == message
        assert list(tmp_path.iterdir()) == []
