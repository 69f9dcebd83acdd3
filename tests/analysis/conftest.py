"""Decodes in the process of the test, which is faster than starting decoder processes."""

from __future__ import annotations

import pytest

from cmmixer.data import chunks as chunks_module
from cmmixer.data import segments as segments_module
from tests.support import killed_indexing


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chunks_module, segments_module):
        monkeypatch.setattr(module, "map_sandboxed", killed_indexing.decode_here)
