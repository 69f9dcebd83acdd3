"""Folders on object storage: what is written is there, one writer at a time, and a server that does not answer is reported."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cmmixer.errors import InputError, SettingsError, StoreError
from cmmixer.storage import s3 as s3_module
from cmmixer.storage.folder import Folder, open_folder
from cmmixer.storage.s3 import ObjectFolder, explain_s3_error
from tests.support.object_storage import NOWHERE, environment


@pytest.fixture(params=["disk", "objects"])
def folder(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> Folder:
    opened = open_folder(tmp_path / "folder" if request.param == "disk" else s3)
    opened.make()
    return opened


def test_files_come_and_go_the_same_on_a_disk_and_on_object_storage(folder: Folder) -> None:
    assert folder.names() == []
    assert not folder.has("metadata.json")
    with pytest.raises(FileNotFoundError):
        folder.read_text("metadata.json")
    folder.write_text("metadata.json", "größer")
    folder.write_text("metadata.json", "größer als vorher")
    assert folder.read_text("metadata.json") == "größer als vorher"
    assert (folder.has("metadata.json"), folder.has_folder("metadata.json")) == (True, False)
    assert folder.names() == ["metadata.json"]
    folder.remove("metadata.json")
    folder.remove("never there")
    assert folder.names() == []


def test_lines_grow_in_their_order_whoever_adds_them(folder: Folder) -> None:
    lines = [f"{number}\n" for number in range(12)]
    for line in lines[:11]:
        folder.append_lines("journal", [line])
    folder.append_lines("journal", [])
    again = open_folder(str(folder))
    again.append_lines("journal", lines[11:])
    assert again.read_lines("journal") == [line.strip() for line in lines]
    folder.remove("journal")
    assert folder.read_lines("journal") == []


def test_a_second_writer_is_refused_and_an_ended_one_leaves_nothing(folder: Folder) -> None:
    with folder.lock(".lock", StoreError("busy")) as lock:
        lock.check()
        with pytest.raises(StoreError, match="busy"), open_folder(str(folder)).lock(".lock", StoreError("busy")):
            pass
    with open_folder(str(folder)).lock(".lock", StoreError("busy")):
        pass


class TestLease:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3_module, "LIFE_SECONDS", 2.0)
        monkeypatch.setattr(s3_module, "RENEW_SECONDS", 0.2)

    def test_one_that_is_renewed_outlives_its_life(self, s3: str) -> None:
        with ObjectFolder(s3).lock(".lock", StoreError("busy")) as lock:
            time.sleep(2.5)
            lock.check()
            with pytest.raises(StoreError, match="busy"), ObjectFolder(s3).lock(".lock", StoreError("busy")):
                pass

    def test_one_of_a_killed_process_is_taken_over_and_its_holder_may_not_write_on(self, s3: str) -> None:
        dead = ObjectFolder(s3).lock(".lock", StoreError("busy"))
        holder = dead.__enter__()
        holder._ended.set()  # type: ignore[attr-defined]  # as kill -9 does: nobody renews it
        started = time.monotonic()
        with ObjectFolder(s3).lock(".lock", StoreError("busy")) as other:
            assert time.monotonic() - started >= 2.0
            with pytest.raises(InputError, match="busy; this process lost its right to write"):
                holder.check()
            dead.__exit__(None, None, None)
            other.check()  # and it did not remove what is another's
            assert ObjectFolder(s3).has(".lock")
        assert not ObjectFolder(s3).has(".lock")

    def test_a_renewal_whose_answer_was_lost_is_recognised(self, s3: str) -> None:
        with ObjectFolder(s3).lock(".lock", StoreError("busy")) as lock:
            with lock._lock:  # type: ignore[attr-defined]
                lock._version = '"of before"'  # type: ignore[attr-defined]  # the server has written, the answer was lost
            lock._renew()  # type: ignore[attr-defined]
            lock.check()


@pytest.mark.parametrize(
    ("url", "changes", "message"),
    [
        (
            "s3://videos/x",
            {"AWS_ENDPOINT_URL": NOWHERE},
            rf"s3://videos/x: {NOWHERE} does not answer; check AWS_ENDPOINT",
        ),
        ("s3://nobody/x", {}, "s3://nobody/x: there is no bucket 'nobody' at http://127"),
    ],
)
def test_a_server_or_bucket_that_is_not_there_is_told_in_seconds(
    s3: str, monkeypatch: pytest.MonkeyPatch, url: str, changes: dict[str, str], message: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    for ask in (ObjectFolder.make, lambda folder: folder.read_text("x"), lambda folder: folder.write_text("x", "y")):
        started = time.monotonic()
        with pytest.raises(InputError, match=message):
            ask(ObjectFolder(url))
        assert time.monotonic() - started < 10


def test_an_address_names_a_bucket_and_a_folder() -> None:
    for url in ("s3://", "s3://videos", "s3://videos/"):
        with pytest.raises(SettingsError, match="expected s3://BUCKET/NAME"):
            open_folder(url)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs obstore, which is not installed; pip install 'cmmixer\[s3\]'"):
        open_folder("s3://videos/x")


@pytest.mark.parametrize("name", ["e79ff8ca0af546c59401aa71", "shot-403/take"])
def test_digits_of_a_name_are_no_answer_of_the_server(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, value in environment(NOWHERE).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{NOWHERE} does not answer; check AWS_ENDPOINT_URL"):
        ObjectFolder(f"s3://videos/{name}").names()


@pytest.mark.parametrize(
    "message", ["Server returned non-2xx status code: 403 Forbidden: ", "status: 401", "<Code>AccessDenied</Code>"]
)
def test_a_refusal_of_the_server_is_told(message: str) -> None:
    assert "access is denied; check AWS_ACCESS_KEY_ID" in explain_s3_error(
        ObjectFolder("s3://videos/store"), OSError(message)
    )
