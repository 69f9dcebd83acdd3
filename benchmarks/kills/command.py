"""Runs a command of CMMixer that commits more often than usual, so that kills fall between commits.

    python -m benchmarks.kills.command prepare --data videos --out store      # as `cmmixer prepare ...`
    python -m benchmarks.kills.command --forks                               # forks one such command per line it reads

The second form imports the libraries once, which would take most of the time of every run. Nothing is imported at the top,
because the decoder processes import this module too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

# Usually ten seconds, longer than a whole run here.
COMMIT_SECONDS = 0.2


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
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
    """Reads requests, one JSON object per line: `arguments` and `log` start a command, `wait` polls one for its exit code."""
    from cmmixer.cli.commands import COMMANDS

    for name in ("prepare", "pretrain", "finetune", "embed", "index"):
        COMMANDS[name].load()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            ended, status = os.waitpid(request["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
        else:
            print(json.dumps(_fork(request)), flush=True)


def _fork(request: dict[str, object]) -> int:
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    devnull = os.open(os.devnull, os.O_RDWR)
    for kind, target in ((devnull, 0), (devnull, 1), (log, 2)):
        os.dup2(kind, target)
    code = 1
    try:
        code = run(request["arguments"])  # type: ignore[arg-type]
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["--forks"]:
        serve()
    else:
        sys.exit(run(sys.argv[1:]))
