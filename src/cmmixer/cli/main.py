"""Runs a command. Exit codes: 0 success, 1 a bug, 2 wrong input, 130 interrupted, 143 terminated."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence

from cmmixer.cli.commands import COMMANDS, Command
from cmmixer.cli.torchrun import TerminatedError, explain_termination, report_to_torchrun
from cmmixer.errors import CMMixerError, SettingsError
from cmmixer.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of `cmmixer` and returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return _explain_errors(lambda: _dispatch(arguments))


def run_command(command: Command, arguments: Sequence[str]) -> int:
    """Runs a command that is not in the table of `cmmixer` and returns the exit code."""
    return _explain_errors(lambda: _run(command, list(arguments)))


def _explain_errors(work: Callable[[], int]) -> int:
    """Runs `work`; prints an error as one line and returns its exit code."""
    try:
        with explain_termination():
            return work()
    except CMMixerError as error:
        _print_error(" ".join(str(error).split("\n")))
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted; run the same command again to resume")
        return 130
    except TerminatedError:
        _print_error("terminated (SIGTERM); run the same command again to resume")
        return 128 + signal.SIGTERM
    except BrokenPipeError:  # the reader of the output has ended, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _print_error(
                f"{error.filename or 'writing'}: the disk is full; free some space and run the same command again"
            )
            return 2
        return _unexpected(error)
    except Exception as error:
        return _unexpected(error)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"cmmixer {__version__}")
        return 0
    flag, equals, value = arguments[0].replace("-", "_").partition("=")
    if flag in ("__print_completion", "__print_schema"):
        from cmmixer.cli.completion import completion_script, recipe_schema

        value = value if equals else " ".join(arguments[1:])
        print(completion_script(value) if flag == "__print_completion" else recipe_schema(value))
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise SettingsError(_unknown_command(name))
    _share_cores()
    return _run(COMMANDS[name], arguments[1:])


def _run(command: Command, arguments: list[str]) -> int:
    from cmmixer.cli.parser import parse

    try:
        settings, as_json = parse(command, arguments)
    except SystemExit:  # argparse exits after --help
        return 0
    _refuse_missing_device(settings)
    _quiet_libraries()
    from cmmixer.cli import console

    with console.RichProgress(enabled=int(os.environ.get("RANK", "0")) == 0) as progress:
        result = command.load()(settings, progress)
    if not getattr(result, "is_main", True):
        return 0
    if as_json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        console.show(result)
    code: int = getattr(result, "exit_code", 0)
    return code


def _refuse_missing_device(settings: object) -> None:
    """Refuses `--device cuda` without a GPU before the command reads or writes anything."""
    if getattr(settings, "device", "auto") == "cuda":
        from cmmixer.runtime import select_device

        select_device("cuda")


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    rows = "\n".join(f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS.values())
    return (
        "CMMixer learns which sound belongs to which picture, and makes a folder of videos searchable.\n\n"
        f"usage: cmmixer COMMAND [options]\n\ncommands:\n{rows}\n\n"
        "Each command has --help with an example, and takes --config recipe.yaml and --json. Start with:\n  cmmixer quickstart\n\n"
        "--print_completion bash|zsh|tcsh prints a completion script for a shell, --print_schema COMMAND a JSON schema of the\n"
        "command's recipe for an editor, --version the version."
    )


def _unknown_command(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"got command {name!r}; {hint}expected one of {', '.join(COMMANDS)}"


def _share_cores() -> None:
    """Makes OpenMP threads that wait sleep instead of spin, unless the user has set either variable.

    OpenMP reads the variables when torch is loaded, so this runs before any import of torch. Spinning threads take the cores
    from the threads that they wait for as soon as another process computes too: docs/decisions.md, "Waiting threads sleep".
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quiet_libraries() -> None:
    """Hides warnings of libraries, which are for programmers; `-W` or PYTHONWARNINGS shows them."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    import logging

    logging.getLogger("lightning").setLevel(logging.WARNING)


def _print_error(line: str) -> None:
    print(f"cmmixer: {line}", file=sys.stderr)
    report_to_torchrun(line)


def _unexpected(error: BaseException) -> int:
    """Reports a bug: one line for the user, and the traceback in a file to send in."""
    if os.environ.get("CMMIXER_DEBUG"):
        traceback.print_exception(error)
        return 1
    with tempfile.NamedTemporaryFile("w", prefix="cmmixer-error-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    _print_error(
        f"a bug in CMMixer, sorry: {type(error).__name__}: {' '.join(str(error).split())[:300]}; the details are in {file.name}"
    )
    return 1
