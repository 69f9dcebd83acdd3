"""A few synthetic films, once for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmmixer.config import PrepareSettings, SynthesizeSettings
from cmmixer.data.prepare import prepare
from cmmixer.synthetic.generate import synthesize


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 real mp4 files."""
    folder = tmp_path_factory.mktemp("films")
    synthesize(SynthesizeSettings(clips=32, out=str(folder), seed=1))
    return folder


@pytest.fixture(scope="session")
def store(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their clip store."""
    folder = tmp_path_factory.mktemp("stores") / "films"
    prepare(PrepareSettings(data=str(films), out=str(folder), preset="nano"))
    return folder
