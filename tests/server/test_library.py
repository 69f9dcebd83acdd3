"""The library: filters, facets, reloading when the index changes, and the folders that may be indexed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import IndexMetadata
from cmmixer.server import library as library_module
from cmmixer.server.entry import id_of
from cmmixer.server.library import Folders, LiveLibrary, Snapshot, without_path
from cmmixer.server.problems import ProblemError
from cmmixer.server.schemas import Filters
from tests.support.service import NO_ID, make_entry


def _snapshot(*rows: dict[str, Any]) -> Snapshot:
    """A library of these files, which lasts a second more with each."""
    entries = {}
    for number, values in enumerate(rows):
        path = values.pop("path", f"/media/{number}.mp4")
        entry = make_entry(end_seconds=1.0 + number, name=path, path=path, batch=f"b{number}", **values)
        entries[entry.id] = entry
    return Snapshot(cast(MomentIndex, SimpleNamespace()), entries)


def _names(snapshot: Snapshot, **filters: Any) -> list[str]:
    return [entry.name for entry in snapshot.filtered(Filters(**filters))]


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return _snapshot(
        {"path": "/media/a/red.mp4", "label": "warm", "extra": '{"camera": "B", "take": 3}'},
        {"path": "/media/a/b/blue.wav", "label": "cold", "extra": '{"camera": "A", "tags": ["sea", "gull"]}'},
        {"path": "/media/Green.mp4", "label": None, "source": "Garden", "extra": None},
    )


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["a/red.mp4", "a/b/blue.wav", "Green.mp4"]),
        ({"kind": "audio"}, ["a/b/blue.wav"]),
        ({"kind": "video"}, ["a/red.mp4", "Green.mp4"]),
        ({"label": ["warm"]}, ["a/red.mp4"]),
        ({"label": ["warm", "cold"]}, ["a/red.mp4", "a/b/blue.wav"]),
        ({"min_seconds": 2.0}, ["a/b/blue.wav", "Green.mp4"]),
        ({"max_seconds": 2.0}, ["a/red.mp4", "a/b/blue.wav"]),
        ({"min_seconds": 2.0, "max_seconds": 2.0}, ["a/b/blue.wav"]),
        ({"text": "GREEN"}, ["Green.mp4"]),
        ({"text": "garden"}, ["Green.mp4"]),
        ({"text": "col"}, ["a/b/blue.wav"]),
        ({"where": ["camera:B"]}, ["a/red.mp4"]),
        ({"where": ["camera:"]}, ["Green.mp4"]),
        ({"where": ["take:3"]}, ["a/red.mp4"]),
        ({"where": ["tags:gull"]}, ["a/b/blue.wav"]),
        ({"where": ["tags:sea", "camera:A"]}, ["a/b/blue.wav"]),
        ({"where": ["tags:sea", "camera:B"]}, []),
        ({"where": ["label:"]}, ["Green.mp4"]),
        ({"where": ["moments:4"], "kind": "audio"}, ["a/b/blue.wav"]),
    ],
)
def test_filters(snapshot: Snapshot, filters: dict[str, Any], names: list[str]) -> None:
    assert _names(snapshot, **filters) == names


def test_folder_filter_includes_subfolders(snapshot: Snapshot) -> None:
    folders = {folder.name: folder for folder in snapshot.folders}
    assert {name: folder.items for name, folder in folders.items()} == {"media": 3, "media/a": 2, "media/a/b": 1}
    assert _names(snapshot, folder=folders["media/a"].id) == ["a/red.mp4", "a/b/blue.wav"]
    assert _names(snapshot, folder=NO_ID) == []


def test_unknown_columns_are_refused(snapshot: Snapshot) -> None:
    assert snapshot.columns == ["camera", "label", "moments", "reason", "source", "tags", "take"]
    with pytest.raises(ProblemError) as error:
        _names(snapshot, where=["path:/media"])
    assert error.value.kind == "bad-request"
    assert error.value.detail == ("where: got path, expected one of camera, label, moments, reason, source, tags, take")


def test_columns_may_contain_colons() -> None:
    snapshot = _snapshot({"extra": '{"shot": "x", "shot:by": "N"}'}, {"extra": '{"shot": "by:N"}'})
    # The longest column that fits is meant.
    assert _names(snapshot, where=["shot:by:N"]) == ["0.mp4"]
    assert _names(snapshot, where=["shot:x"]) == ["0.mp4"]


def test_facets_are_the_most_frequent_values(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["rain"] * 3 + ["sea"] * 2 + ["gull"]
    rows = [{"label": label, "extra": f'{{"take": {number % 2}}}'} for number, label in enumerate(labels)]
    snapshot = _snapshot(*rows, {"label": None, "extra": None})
    assert [(facet.value, facet.items) for facet in snapshot.labels] == [("gull", 1), ("rain", 3), ("sea", 2)]
    (take,) = snapshot.metadata
    assert take.name == "take"
    assert [(facet.value, facet.items) for facet in take.values] == [("0", 3), ("1", 3)]
    monkeypatch.setattr(library_module, "_MAX_FACETS", 2)
    fewer = Snapshot(snapshot.index, snapshot.entries)
    assert [facet.value for facet in fewer.labels] == ["rain", "sea"]


def test_entries_are_found_by_id(snapshot: Snapshot) -> None:
    entry = next(iter(snapshot.entries.values()))
    assert snapshot.entry(entry.id) is entry
    assert snapshot.by_batch[entry.batch] is entry
    with pytest.raises(ProblemError) as error:
        snapshot.entry(NO_ID)
    assert (error.value.kind, error.value.detail) == ("not-found", f"no file of the library has the id {NO_ID}")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/home/me/library: is damaged", "INDEX: is damaged"),
        ("/home/me/library/files.lance is damaged", "files.lance is damaged"),
        ("no index in /home/me/library; use --index /home/me/library", "no index in INDEX; use --index INDEX"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_without_path(message: str, shown: str) -> None:
    assert without_path(message, Path("/home/me/library"), "INDEX") == shown


def test_snapshot_is_reloaded_only_when_the_index_changed(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "library"
    shutil.copytree(library, folder)
    now = [1000.0]
    monkeypatch.setattr(library_module.time, "monotonic", lambda: now[0])
    live = LiveLibrary(folder)
    first = live.snapshot()
    now[0] += 10.0
    assert live.snapshot() is first
    os.utime(folder / "index.json", ns=(1, 1))
    assert live.snapshot() is first  # checked less than a second ago
    now[0] += 1.1
    second = live.snapshot()
    assert second is not first
    assert second.entries.keys() == first.entries.keys()
    os.utime(folder / "index.json", ns=(2, 2))
    live.expire()
    assert live.snapshot() is not second


def test_an_index_that_cannot_be_read_is_tried_again(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    shutil.copytree(library, folder)
    live = LiveLibrary(folder)
    first = live.snapshot()
    folder.rename(tmp_path / "moved")
    live.expire()
    for _ in range(2):
        with pytest.raises(SearchIndexError, match=r"^INDEX: ") as error:
            live.snapshot()
        assert str(tmp_path) not in str(error.value)
    (tmp_path / "moved").rename(folder)
    assert live.snapshot().entries.keys() == first.entries.keys()


def test_the_check_refuses_a_replaced_index(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    shutil.copytree(library, folder)

    def refuse(metadata: IndexMetadata) -> None:
        raise SearchIndexError(f"{folder}: its vectors are of model {metadata.model_id[:4]}")

    live = LiveLibrary(folder, refuse)  # not called for the index that was opened
    os.utime(folder / "index.json", ns=(1, 1))
    live.expire()
    with pytest.raises(SearchIndexError, match=r"^INDEX: its vectors are of model [0-9a-f]{4}$"):
        live.snapshot()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folders to list: nested, hidden, and links to inside and outside."""
    for name in ("media/harbour/night", "media/.hidden", "secret/inner", "second"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "media" / "file.mp4").write_bytes(b"content")
    (tmp_path / "media" / "inside").symlink_to(tmp_path / "media" / "harbour")
    (tmp_path / "media" / "outside").symlink_to(tmp_path / "secret")
    return tmp_path


def _listed(folders: Folders, parent: str | None = None, **counts: int) -> dict[str, str]:
    return {folder.name: folder.id for folder in folders.listing(parent, counts).folders}


def test_folders_list_the_roots_and_their_subfolders(tree: Path) -> None:
    folders = Folders([str(tree / "media"), str(tree / "second"), str(tree / "missing")])
    roots = _listed(folders)
    assert list(roots) == ["media", "second"]
    assert roots["media"] == id_of("folder to index", str(tree / "media"))
    inside = _listed(folders, roots["media"])
    assert list(inside) == ["media/harbour", "media/inside"]  # no files, nothing hidden, no link to the outside
    assert list(_listed(folders, inside["media/harbour"])) == ["media/harbour/night"]
    assert folders.find(inside["media/harbour"]).path == str(tree / "media" / "harbour")


def test_folders_count_the_files_of_the_library(tree: Path) -> None:
    folders = Folders([str(tree / "media")])
    counts = {str(tree / "media"): 1, str(tree / "media" / "harbour"): 2, str(tree / "media" / "harbour" / "night"): 4}
    counts[str(tree / "media-of-others")] = 8
    listing = folders.listing(None, counts)
    assert [folder.items for folder in listing.folders] == [7]
    inner = folders.listing(listing.folders[0].id, counts)
    assert inner.parent is not None
    assert (inner.parent.items, [folder.items for folder in inner.folders]) == (7, [6, 0])


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _replace_by_link(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.parent.parent / "secret")


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        (_remove, "gone", "media/harbour: is no longer a folder"),
        (_replace_by_link, "outside-library", "media/harbour: is a link to a place that may not be indexed"),
    ],
)
def test_folders_that_changed_are_refused(tree: Path, change: Callable[[Path], None], kind: str, detail: str) -> None:
    folders = Folders([str(tree / "media")])
    harbour = _listed(folders, _listed(folders)["media"])["media/harbour"]
    change(tree / "media" / "harbour")
    for call in (folders.find, lambda key: folders.listing(key, {})):
        with pytest.raises(ProblemError) as error:
            call(harbour)
        assert (error.value.kind, error.value.detail) == (kind, detail)


def test_only_listed_folders_have_ids(tree: Path) -> None:
    folders = Folders([str(tree / "media")])
    unlisted = id_of("folder to index", str(tree / "secret"))
    with pytest.raises(ProblemError) as error:
        folders.find(unlisted)
    assert error.value.kind == "not-found"
    assert error.value.detail == f"no folder that may be indexed has the id {unlisted}; list the folders again"


def test_very_many_subfolders_are_cut_off(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "_MAX_SUBFOLDERS", 2)
    for number in range(5):
        (tree / "second" / f"{number}").mkdir()
    folders = Folders([str(tree / "second")])
    assert list(_listed(folders, _listed(folders)["second"])) == ["second/0", "second/1"]
