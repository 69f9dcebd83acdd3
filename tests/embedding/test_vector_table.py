"""The folder of vectors: a run that was stopped is gone on with, film by film."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmmixer.config import EmbedSettings
from cmmixer.embedding import embed as embed_module
from cmmixer.embedding import vector_table
from cmmixer.embedding.embed import embed
from cmmixer.embedding.read import read_vectors
from cmmixer.errors import StoreError
from cmmixer.progress import NoProgress
from cmmixer.storage.folder import open_folder
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, film


class _Stopped(NoProgress):
    """Ends the run in its middle, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_and_the_folder_is_as_if_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_table, "COMMIT_SECONDS", 0.0)
    data = tmp_path / "data"
    for number, colour in enumerate((RED, GREEN, BLUE, RED, GREEN, BLUE)):
        film(data / f"{number}.mp4", [colour, GREEN])
    (data / "2 broken.mp4").write_bytes(b"not a film")

    def run(out: Path, progress: NoProgress | None = None) -> Any:
        settings = EmbedSettings(model="-", data=str(data), out=str(out), workers=1, batch_size=1, vectors="int8")
        return embed(settings, progress, encoder=ColourEncoder())

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", _Stopped(after=4))
    card = vector_table.VectorsCard.read(open_folder(tmp_path / "out"))
    half = set(vector_table.vectors_table(open_folder(tmp_path / "out")).to_table()["entry"].to_pylist())
    assert (card.complete, 0 < len(half) < 6) == (False, True)
    embedded: list[str] = []
    real = embed_module.embed_moments

    def noted(entries: Any, *rest: Any, **options: Any) -> Any:
        embedded.extend(entry.key for entry in entries)
        return real(entries, *rest, **options)

    monkeypatch.setattr(embed_module, "embed_moments", noted)
    again = run(tmp_path / "out")
    assert half.isdisjoint(embedded)
    assert half | set(embedded) - {"2 broken.mp4"} == {f"{number}.mp4" for number in range(6)}
    assert again.as_json() == whole.as_json() | {"out": str(tmp_path / "out")}
    assert (again.films, again.skips.counts) == (6, {"unreadable": 1})
    assert read_vectors(tmp_path / "out").equals(read_vectors(tmp_path / "whole"))
    assert vector_table.VectorsCard.read(open_folder(tmp_path / "out")).complete
    assert (tmp_path / "out/skipped.txt").read_text() == (tmp_path / "whole/skipped.txt").read_text()


def test_what_is_no_folder_of_vectors_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no vectors there \(vectors\.json is missing\)"):
        read_vectors(tmp_path)
    (tmp_path / "vectors.json").write_text("{")
    with pytest.raises(StoreError, match=r"vectors\.json: damaged"):
        read_vectors(tmp_path)
    film(tmp_path / "data/a.mp4", [RED])
    (tmp_path / "file").write_text("x")
    settings = EmbedSettings(model="-", data=str(tmp_path / "data"), out=str(tmp_path / "file"), workers=1)
    with pytest.raises(
        StoreError, match=r"file: is a file; vectors go into a folder, or into a file named \*\.parquet"
    ):
        embed(settings, encoder=ColourEncoder())
