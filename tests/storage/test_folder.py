"""Folders on a disk: the interface that stores are written through, and how locations are opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmmixer.errors import InputError, SettingsError, StoreError
from cmmixer.storage import files
from cmmixer.storage.folder import LocalFolder, absolute_location, explain_server_errors, open_folder
from cmmixer.storage.s3 import ObjectFolder


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    opened = LocalFolder(tmp_path / "deep" / "store")
    opened.make()
    return opened


def test_files_are_written_read_and_removed(folder: LocalFolder) -> None:
    assert folder.names() == []
    assert not folder.has("store.json")
    folder.write_text("store.json", "größer")
    folder.write_text("store.json", "größer als vorher")
    assert folder.read_text("store.json") == "größer als vorher"
    assert folder.has("store.json")
    assert folder.names() == ["store.json"]
    folder.remove("store.json")
    folder.remove("never there")
    assert folder.names() == []
    with pytest.raises(FileNotFoundError):
        folder.read_text("store.json")


def test_folders_count_only_with_something_in_them(folder: LocalFolder) -> None:
    (folder.path / "clips.lance").mkdir()
    assert not folder.has_folder("clips.lance")
    assert not folder.has("clips.lance")
    (folder.path / "clips.lance" / "data").mkdir()
    assert folder.has_folder("clips.lance")
    folder.write_text("file", "x")
    assert not folder.has_folder("file")
    folder.remove("clips.lance")
    assert folder.names() == ["file"]


def test_lines_are_appended_in_order(folder: LocalFolder) -> None:
    assert folder.read_lines("journal") == []
    folder.append_lines("journal", ["ä\n", "b\n"])
    folder.append_lines("journal", [])
    folder.append_lines("journal", ["c\n"])
    assert folder.read_lines("journal") == ["ä", "b", "c"]


@pytest.mark.parametrize(
    ("content", "lines"), [(b"a\nhal", ["a"]), (b"hal", []), (b"a\n\xc3", ["a"]), (b"a\nb\n", ["a", "b"])]
)
def test_a_line_cut_short_by_a_kill_is_dropped_for_good(folder: LocalFolder, content: bytes, lines: list[str]) -> None:
    (folder.path / "journal").write_bytes(content)
    assert folder.read_lines("journal") == lines
    folder.append_lines("journal", ["next\n"])
    assert folder.read_lines("journal") == [*lines, "next"]


def test_making_a_folder_twice_is_fine_and_on_a_file_is_not(folder: LocalFolder) -> None:
    folder.make()
    folder.write_text("file", "x")
    with pytest.raises(FileExistsError):
        LocalFolder(folder.path / "file").make()
    with pytest.raises(NotADirectoryError):
        LocalFolder(folder.path / "file" / "below").make()


def test_the_holder_of_the_lock_cleans_up_and_shuts_others_out(
    folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PATIENCE_SECONDS", 0.02)
    folder.write_text(".tmp-1-store.json", "half")
    assert not folder.is_locked(".lock")
    with folder.lock(".lock", StoreError("busy")) as lock:
        lock.check()
        assert folder.names() == [".lock"]
        assert folder.is_locked(".lock")
        with pytest.raises(StoreError, match="busy"), open_folder(str(folder)).lock(".lock", StoreError("busy")):
            pass
        with folder.lock(".other", StoreError("busy")):
            pass
    assert not folder.is_locked(".lock")


def test_a_location_is_a_path_an_address_or_a_folder(tmp_path: Path) -> None:
    assert str(open_folder(tmp_path)) == str(open_folder(str(tmp_path))) == str(tmp_path)
    there = LocalFolder(tmp_path)
    assert open_folder(there) is there
    assert there.child("clips.lance") == f"{tmp_path}/clips.lance"
    remote = open_folder("s3://videos/store/")
    assert isinstance(remote, ObjectFolder)
    assert str(remote) == "s3://videos/store"
    with pytest.raises(SettingsError, match=r"^s3://videos: expected s3://BUCKET/NAME, a bucket and a name in it$"):
        open_folder("s3://videos")


def test_absolute_locations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_location(open_folder("store")) == str(tmp_path / "store")
    assert absolute_location(open_folder("s3://videos/store")) == "s3://videos/store"


class TestServerErrors:
    def test_errors_about_a_local_table_pass(self, folder: LocalFolder) -> None:
        with pytest.raises(OSError, match="Generic S3 error"), explain_server_errors(folder):
            raise OSError("Generic S3 error")  # whatever it says: no server is involved

    def test_errors_about_a_remote_table_pass(self) -> None:
        remote = open_folder("s3://videos/store")
        with pytest.raises(ValueError, match=r"^Dataset at path x was not found$"), explain_server_errors(remote):
            raise ValueError("Dataset at path x was not found")

    def test_errors_about_the_server_become_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(InputError) as raised, explain_server_errors(open_folder("s3://videos/store")):
            raise OSError("LanceError(IO): Generic S3 error:\n error sending request for url (http://127.0.0.1:9)")
        assert str(raised.value) == (
            "s3://videos/store: http://127.0.0.1:9 does not answer; check AWS_ENDPOINT_URL, AWS_REGION and the connection"
        )
