"""A command of CMMixer that writes down what it has done more often than people need, so that a kill falls between.

    python -m benchmarks.kills.command prepare --data films --out store      # as `cmmixer prepare ...`
    python -m benchmarks.kills.command --forks                               # forks one such command for each line it reads

The second form imports the libraries once; there is no time to do it for every run, and nothing to kill then. Nothing is
imported at the top: the decoder processes import this module too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

# Ten seconds otherwise, longer than a whole run here.
COMMIT_SECONDS = 0.2


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    from cmmixer.cli.main import main

    if arguments[0] == "prepare":
        from cmmixer.data import prepare

        prepare.COMMIT_SECONDS = COMMIT_SECONDS
    if arguments[0] == "embed":
        from cmmixer.embedding import vector_table

        vector_table.COMMIT_SECONDS = COMMIT_SECONDS
    if arguments[0] == "index":
        from cmmixer.retrieval import build

        build._COMMIT_SECONDS = COMMIT_SECONDS
    return main(arguments)


def serve() -> None:
    """Reads orders, one JSON object a line: `arguments` and `log` start a command, `wait` asks for the end of one."""
    from cmmixer.cli.commands import COMMANDS

    for name in ("prepare", "pretrain", "finetune", "embed", "index"):
        COMMANDS[name].load()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            ended, status = os.waitpid(order["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
        else:
            print(json.dumps(_fork(order)), flush=True)


def _fork(order: dict[str, object]) -> int:
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDWR)
    for kind, target in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(kind, target)
    code = 1
    try:
        code = run(order["arguments"])  # type: ignore[arg-type]
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["--forks"]:
        serve()
    else:
        sys.exit(run(sys.argv[1:]))
