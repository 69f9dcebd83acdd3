"""What many tests share: where the real videos are, and a few small clips."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

# Before anything is imported that remembers it: what tests and the processes they kill leave lies here, and goes with the session.
# Test processes of one run share a base: nested folders would make the paths of Ray's sockets too long.
_BASE = os.environ.setdefault("CMMIXER_TESTS_BASE", tempfile.gettempdir())
_TEMPORARY = tempfile.mkdtemp(prefix="cmmixer-tests-", dir=_BASE)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.tempdir = _TEMPORARY
# Behind multiprocessing's own folder, which goes at -100.
Finalize(None, shutil.rmtree, args=(_TEMPORARY,), kwargs={"ignore_errors": True}, exitpriority=-200)

# A shell ignores Ctrl-C for what it starts in the background, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_MEDIA = Path(__file__).resolve().parents[1].parent / "shared" / "data"

# Small enough that a training step takes milliseconds.


@pytest.fixture(scope="session")
def real_media() -> Path:
    """The folder of real videos and sounds; skips, visibly, where it is absent."""
    if not REAL_MEDIA.is_dir():
        pytest.skip("the real videos of ../shared/data are not here")
    return REAL_MEDIA
