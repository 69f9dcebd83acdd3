"""From the arguments to the exit code: 0 done, 1 a fault of ours, 2 the user's input, 130 interrupted."""

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
from cmmixer.cli.torchrun import EndedError, explain_end, tell_torchrun
from cmmixer.errors import CMMixerError, SettingsError
from cmmixer.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return _explained(lambda: _dispatch(arguments))


def run_command(command: Command, arguments: Sequence[str]) -> int:
    """Runs a command that is not in the table of `cmmixer`; returns its exit code."""
    return _explained(lambda: _run(command, list(arguments)))


def _explained(work: Callable[[], int]) -> int:
    try:
        with explain_end():
            return work()
    except CMMixerError as fault:
        _complain(" ".join(str(fault).split("\n")))
        return fault.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on where it stopped")
        return 130
    except EndedError:
        _complain("ended from outside (SIGTERM); the same command goes on where it stopped")
        return 128 + signal.SIGTERM
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            _complain(
                f"{fault.filename or 'writing'}: the disk is full; free some space and run the same command again"
            )
            return 2
        return _unexpected(fault)
    except Exception as fault:
        return _unexpected(fault)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"cmmixer {__version__}")
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
    except SystemExit:  # argparse leaves so after --help
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
    """A GPU that is asked for and not there is told before anything is read or written, whatever the command would do with it."""
    if getattr(settings, "device", "auto") == "cuda":
        from cmmixer.runtime import device_named

        device_named("cuda")


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    rows = "\n".join(f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS.values())
    return (
        "CMMixer learns which sound belongs to which picture, and makes a folder of films searchable.\n\n"
        f"usage: cmmixer COMMAND [options]\n\ncommands:\n{rows}\n\n"
        "Each has --help, with an example. All take --config recipe.yaml and --json. To begin:\n  cmmixer quickstart"
    )


def _unknown_command(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"got command {name!r}; {hint}expected one of {', '.join(COMMANDS)}"


def _share_cores() -> None:
    """Threads that wait for one another sleep instead of spinning; the user's own setting of either variable wins.

    torch's OpenMP reads this when it is loaded, so it comes before any import of torch. Spinning threads take the cores from
    those that they wait for as soon as another process computes too: docs/decisions.md, "Waiting threads sleep".
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quiet_libraries() -> None:
    """Libraries' advice to programmers is not for people at a terminal; `-W` and PYTHONWARNINGS bring it back."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    import logging

    logging.getLogger("lightning").setLevel(logging.WARNING)


def _complain(line: str) -> None:
    print(f"cmmixer: {line}", file=sys.stderr)
    tell_torchrun(line)


def _unexpected(fault: BaseException) -> int:
    """A fault of ours: one line for the user, the traceback in a file to send in."""
    if os.environ.get("CMMIXER_DEBUG"):
        traceback.print_exception(fault)
        return 1
    with tempfile.NamedTemporaryFile("w", prefix="cmmixer-fault-", suffix=".txt", delete=False) as file:
        traceback.print_exception(fault, file=file)
    _complain(
        f"a fault of ours, sorry: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}; the details are in {file.name}"
    )
    return 1
