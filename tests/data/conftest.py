"""A folder of small videos, a store made of them, and a folder of every kind of unusable file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmmixer.data.prepare import prepare
from tests.support.small_stores import prepare_settings
from tests.support.small_videos import video


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good videos of two or three seconds, in two folders."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        video(folder / f"{'ab'[number % 2]}/{number:02}.mp4", seconds=2.0 + number % 2, seed=number)
    return folder


@pytest.fixture(scope="session")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of these videos: 30 clips. Tests that change a store copy it."""
    out = tmp_path_factory.mktemp("stores") / "videos"
    prepare(prepare_settings(videos, out, workers=2))
    return out


@pytest.fixture
def mixed_videos(tmp_path: Path) -> Path:
    """Two good videos among every kind of unusable file."""
    folder = tmp_path / "mixed"
    video(folder / "good one.mp4", seed=1)
    video(folder / "good two.mp4", seed=2)
    (folder / "copy.mp4").write_bytes((folder / "good one.mp4").read_bytes())
    video(folder / "no sound.mp4", seed=3, sound=False)
    video(folder / "short.mp4", seconds=0.5, seed=4)
    video(folder / "still.mp4", seed=5, amplitude=0.0)
    (folder / "text.mp4").write_text("not a video")
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "gone.mp4").symlink_to(folder / "was never there")
    (folder / "folder.mp4").mkdir()
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.mp4").write_text("hidden")
    return folder
