"""One folder of small real films, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.small_videos import film


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good films of two or three seconds."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(12):
        film(folder / f"{'ab'[number % 2]}/{number:02}.mp4", seconds=2.0 + number % 2, seed=number)
    return folder


@pytest.fixture
def mixed_films(tmp_path: Path) -> Path:
    """Two good films among every kind of useless file."""
    folder = tmp_path / "mixed"
    film(folder / "good one.mp4", seed=1)
    film(folder / "good two.mp4", seed=2)
    (folder / "copy.mp4").write_bytes((folder / "good one.mp4").read_bytes())
    film(folder / "no sound.mp4", seed=3, sound=False)
    film(folder / "short.mp4", seconds=0.5, seed=4)
    film(folder / "still.mp4", seed=5, amplitude=0.0)
    (folder / "text.mp4").write_text("not a film")
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "gone.mp4").symlink_to(folder / "was never there")
    (folder / "folder.mp4").mkdir()
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.mp4").write_text("hidden")
    return folder
