"""Session fixtures of the end-to-end tests: a few synthetic videos and their clip store."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmmixer.config import PrepareSettings, SynthesizeSettings
from cmmixer.data.prepare import prepare
from cmmixer.synthetic.generate import synthesize


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 synthetic videos of 64 x 64 pixels, the frames of preset nano."""
    folder = tmp_path_factory.mktemp("videos")
    synthesize(SynthesizeSettings(clips=32, out=str(folder), seed=1, size=64))
    return folder


@pytest.fixture(scope="session")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip store of the videos."""
    folder = tmp_path_factory.mktemp("stores") / "videos"
    prepare(PrepareSettings(data=str(videos), out=str(folder), preset="nano"))
    return folder
