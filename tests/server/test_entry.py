"""Files of the library as clients see them: ids, names, columns, and never a path of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cmmixer.server.entry import OWN_COLUMNS, id_of
from cmmixer.server.problems import ProblemError
from tests.support.service import make_entry


def test_ids_reveal_nothing_and_differ() -> None:
    ids = [id_of("item", "/a/b"), id_of("item", "/a", "b"), id_of("folder", "/a/b"), id_of("item", "/a/c")]
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert len(each) == 24
        assert set(each) <= set("0123456789abcdef")
    assert id_of("item", "/a/b") == ids[0]
    # A name that is not UTF-8 has an id too.
    assert len(id_of("item", os.fsdecode(b"d\xf6r.wav"))) == 24


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/media/a.mp4", "video"),
        ("/media/a.MKV", "video"),
        ("/media/a.wav", "audio"),
        ("/media/a.FLAC", "audio"),
        ("/media/a.unknown", "video"),
    ],
)
def test_kind_follows_from_the_ending(path: str, kind: str) -> None:
    assert make_entry(path=path).kind == kind


@pytest.mark.parametrize(
    ("root", "path", "name", "folder"),
    [
        ("/media", "/media/harbour/gulls.mp4", "harbour/gulls.mp4", "media/harbour"),
        ("/media", "/media/gulls.mp4", "gulls.mp4", "media"),
        ("/media/manifest.csv", "/media/harbour/gulls.mp4", "harbour/gulls.mp4", "media/harbour"),
        ("/lists/manifest.JSONL", "/elsewhere/gulls.mp4", "gulls.mp4", "lists"),
        ("/media/videos.list", "/media/a/b/c.mp4", "a/b/c.mp4", "media/a/b"),
    ],
)
def test_names_are_relative_to_the_data(root: str, path: str, name: str, folder: str) -> None:
    entry = make_entry(root=root, path=path)
    assert (entry.name, entry.folder) == (name, folder)
    assert entry.item().title == Path(name).stem


def test_folder_ids_go_up_to_the_indexed_folder() -> None:
    deep, shallow = make_entry(path="/media/a/b/c.mp4"), make_entry(path="/media/a/d.mp4")
    assert len(list(deep.folder_ids)) == 3
    assert list(deep.folder_ids)[1:] == list(shallow.folder_ids)
    # Folders of the same name in other places are others.
    elsewhere = make_entry(root="/other/media", path="/other/media/a/d.mp4")
    assert elsewhere.folder == shallow.folder
    assert set(elsewhere.folder_ids).isdisjoint(shallow.folder_ids)


def test_columns_are_those_of_the_manifest_and_the_index() -> None:
    extra = json.dumps({"camera": "B", "take": 3, "label": "of the manifest"})
    entry = make_entry(extra=extra)
    assert entry.metadata == {"camera": "B", "take": 3, "label": "of the manifest"}
    assert entry.columns == {
        "camera": "B",
        "take": 3,
        "label": "gull",  # the index's own column has precedence
        "source": "harbour/gulls",
        "reason": None,
        "moments": 4,
    }
    assert {"label", "source", "reason", "moments"} == OWN_COLUMNS


def test_no_column_reveals_a_path() -> None:
    entry = make_entry(
        path="/secret/place/a.mp4", name="/secret/place/a.mp4", root="/secret/place", message="/secret/x"
    )
    shown = entry.detail([]).model_dump_json()
    assert "secret" not in shown


def test_content_key_changes_with_the_content() -> None:
    assert make_entry().content_key == "ab" * 32
    unhashed = [make_entry(sha256=None), make_entry(sha256=None, sizes=[1001]), make_entry(sha256=None, mtimes_ns=[2])]
    assert len({entry.content_key for entry in unhashed}) == 3


def test_item_and_detail() -> None:
    entry = make_entry(start_seconds=2.0, end_seconds=11.6004, path="/media/harbour/gulls.mp4")
    item = entry.item()
    assert (item.id, item.name, item.title) == (entry.id, "harbour/gulls.mp4", "gulls")
    assert (item.folder, item.folder_name) == (next(entry.folder_ids), "media/harbour")
    assert (item.kind, item.label, item.source) == ("video", "gull", "harbour/gulls")
    assert (item.duration_seconds, item.moments, item.missing) == (9.6, 4, True)
    rows = [
        {"start_seconds": 2.0, "end_seconds": 6.0, "video": [1.0], "audio": None},
        {"start_seconds": 4.0, "end_seconds": 8.0, "video": [1.0], "audio": None},
    ]
    detail = entry.detail(rows)
    assert (detail.has_video, detail.has_audio) == (True, False)
    assert [(span.start_seconds, span.end_seconds) for span in detail.spans] == [(2.0, 6.0), (4.0, 8.0)]
    assert detail.columns == {"label": "gull", "source": "harbour/gulls", "moments": 4}


def test_file_of_each_modality(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav"):
        (tmp_path / name).write_bytes(b"content")
    video, audio = str(tmp_path / "a.mp4"), str(tmp_path / "a.wav")
    entry = make_entry(root=str(tmp_path), path=video, audio_path=audio)
    assert (entry.file("video", []), entry.file("audio", [])) == (video, audio)
    alone = make_entry(root=str(tmp_path), path=video)
    assert alone.file("audio", []) == video


def test_file_errors(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"content")
    (data / "link.mp4").symlink_to(outside / "secret.mp4")
    (data / "folder.mp4").mkdir()

    def problem_of(name: str, *roots: Path) -> tuple[str, str]:
        with pytest.raises(ProblemError) as error:
            make_entry(root=str(data), path=str(data / name)).file("video", [str(root) for root in roots])
        return error.value.kind, error.value.detail

    assert problem_of("none.mp4") == ("gone", "none.mp4: no longer exists")
    assert problem_of("link.mp4") == ("outside-library", "link.mp4: is a link to a place outside the library")
    assert problem_of("folder.mp4") == ("gone", "folder.mp4: is no longer a file")
    # A folder whose name merely begins like an allowed one is not inside it.
    (tmp_path / "out").mkdir()
    assert problem_of("link.mp4", tmp_path / "out")[0] == "outside-library"
    entry = make_entry(root=str(data), path=str(data / "link.mp4"))
    assert entry.file("video", [str(outside)]) == str(data / "link.mp4")


def test_files_of_a_manifest_may_lie_anywhere(tmp_path: Path) -> None:
    manifest, elsewhere = tmp_path / "lists" / "manifest.csv", tmp_path / "elsewhere" / "a.mp4"
    for path in (manifest, elsewhere):
        path.parent.mkdir()
        path.write_bytes(b"content")
    entry = make_entry(root=str(manifest), path=str(elsewhere))
    assert entry.name == "a.mp4"
    assert entry.file("video", []) == str(elsewhere)
