"""Runs `cmmixer serve` in its own process for the length of a `with` block, for tests and benchmarks."""

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
_ADDRESS = re.compile(r"CMMixer is running at (http://\S+)")
# Without an error, or by Ctrl-C.
_EXPECTED_CODES = (0, 130)


@contextmanager
def running_service(index: str | Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Starts the service on a free port, yields its address once it answers, and stops it.

    Args:
        index: folder of the index.
        flags: additional flags of the command.
        environment: of the process; None: that of this process.

    Raises:
        InternalError: the service ended before it answered, or with an error; has the end of its output.
    """
    command = [sys.executable, "-m", "cmmixer", "serve", "--index", str(index), "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    printed: list[str] = []
    with process.stderr:
        address = _address(process.stderr, printed)
        # Keeps reading, so that the service never blocks on a full pipe.
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
        if code not in _EXPECTED_CODES:
            raise InternalError(f"the service ended with {code}: {' '.join(printed)[-500:]}")


def _address(lines: Iterator[str], printed: list[str]) -> str | None:
    for line in lines:
        printed.append(line)
        if (found := _ADDRESS.search(line)) is not None:
            return found[1]
    return None
