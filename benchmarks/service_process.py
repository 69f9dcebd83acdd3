"""`cmmixer serve` in a process of its own, for programs that want a service for a while: tests, measurements."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cmmixer.errors import InternalError

_STOP_SECONDS = 60.0
_ADDRESS = re.compile(r"CMMixer is at (http://\S+)")
# By itself, or by the signal that Ctrl-C sends.
_ENDED_WELL = (0, 130)


@contextmanager
def running_service(index: str | Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Starts the command at a free port, gives its address once it answers, and ends it.

    Args:
        index: folder of the index.
        flags: further ones of the command.
        environment: of the process; None: as here.

    Raises:
        InternalError: it ended before it answered, or not by itself when it was asked to; says what it printed.
    """
    command = [sys.executable, "-m", "cmmixer", "serve", "--index", str(index), "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    printed: list[str] = []
    with process.stderr:
        address = _address(process.stderr, printed)
        # Nothing may keep it from writing on.
        reader = threading.Thread(target=lambda: printed.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            if address is None:
                raise InternalError(f"the service ended before it answered: {' '.join(printed)[-500:]}")
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            reader.join()
        if code not in _ENDED_WELL:
            raise InternalError(f"the service ended with {code}: {' '.join(printed)[-500:]}")


def _address(lines: Iterator[str], printed: list[str]) -> str | None:
    for line in lines:
        printed.append(line)
        if (found := _ADDRESS.search(line)) is not None:
            return found[1]
    return None
