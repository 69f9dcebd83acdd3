"""Runs `index` in processes that are killed by SIGKILL after a given number of writes to the tables.

The program reads one run per line, as JSON, and prints its exit code. Each run is forked from here, so the libraries are
imported once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from lancedb.merge import LanceMergeInsertBuilder
from lancedb.table import LanceTable

from cmmixer.config import IndexSettings
from cmmixer.data import chunks
from cmmixer.errors import MediaError
from cmmixer.retrieval import build
from cmmixer.retrieval.build import index
from tests.support.coloured_videos import ColourEncoder


def decode_here(
    function: Callable[[Any], Any],
    items: Any,
    *,
    workers: int,
    seconds_each: float,
    pool: Any = None,
    check_cancelled: Any = None,
) -> Iterator[Any]:
    """Stands in for `map_sandboxed`, without processes."""
    for item in items:
        try:
            yield item, function(item)
        except MediaError as error:
            yield item, error


def run(settings: IndexSettings, *, writes: int | None) -> None:
    """Indexes and commits after every file; is killed after `writes` writes (None: never)."""
    chunks.map_sandboxed = decode_here  # type: ignore[assignment]
    build._COMMIT_ROWS = 1
    left = [10**9 if writes is None else writes]

    def counted(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def write(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(kind, name, write)

    counted(LanceTable, "add")
    counted(LanceTable, "delete")
    counted(LanceMergeInsertBuilder, "execute")
    index(settings, encoder=ColourEncoder())


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run(IndexSettings(**order["settings"]), writes=order["writes"])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
