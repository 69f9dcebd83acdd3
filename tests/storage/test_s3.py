"""Object storage, with a store in memory in place of the server; `tests/ray_cluster/test_s3.py` has a real server."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cmmixer.errors import InputError, SettingsError, StoreError
from cmmixer.storage import s3
from cmmixer.storage.s3 import Lease, ObjectFolder, aws_variables, explain_s3_error, is_renewed, is_server_error

obstore_store = pytest.importorskip("obstore.store", reason="the extra `s3` is not installed")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    memory = obstore_store.MemoryStore()
    monkeypatch.setattr(ObjectFolder, "_store", lambda self: memory)
    monkeypatch.setattr(s3, "LIFE_SECONDS", 1.0)
    monkeypatch.setattr(s3, "RENEW_SECONDS", 0.02)
    return memory


@pytest.fixture
def folder(store: Any) -> ObjectFolder:
    return ObjectFolder("s3://videos/store")


class TestObjectFolder:
    def test_files_are_written_read_and_removed(self, folder: ObjectFolder) -> None:
        folder.make()
        assert not folder.has("store.json")
        folder.write_text("store.json", "größer")
        folder.write_text("store.json", "größer als vorher")
        assert folder.read_text("store.json") == "größer als vorher"
        assert (folder.has("store.json"), folder.has_folder("store.json")) == (True, False)
        folder.remove("store.json")
        folder.remove("never there")
        assert folder.names() == []
        with pytest.raises(FileNotFoundError):
            folder.read_text("store.json")

    def test_names_are_files_and_folders_sorted(self, folder: ObjectFolder) -> None:
        for name in ("store.json", "clips.lance/data/1", "clips.lance/data/2", "a"):
            folder.write_text(name, "x")
        assert folder.names() == ["a", "clips.lance", "store.json"]
        assert folder.has_folder("clips.lance")
        folder.remove("clips.lance")
        assert folder.names() == ["a", "store.json"]

    def test_each_addition_of_lines_is_an_object(self, folder: ObjectFolder, store: Any) -> None:
        folder.append_lines("journal", ["a\n", "b\n"])
        folder.append_lines("journal", [])
        folder.append_lines("journal", ["c\n"])
        assert sorted(item["path"] for chunk in store.list() for item in chunk) == [
            "journal/00000000",
            "journal/00000001",
        ]
        other = ObjectFolder("s3://videos/store")
        other.append_lines("journal", ["d\n"])
        assert folder.read_lines("journal") == ["a", "b", "c", "d"]
        folder.append_lines("journal", ["e\n"])
        assert other.read_lines("journal") == ["a", "b", "c", "d", "e"]

    def test_removed_lines_start_again(self, folder: ObjectFolder) -> None:
        folder.append_lines("journal", ["a\n"])
        folder.remove("journal")
        assert folder.read_lines("journal") == []
        folder.append_lines("journal", ["b\n"])
        assert folder.read_lines("journal") == ["b"]

    def test_files_are_uploaded(self, folder: ObjectFolder, tmp_path: Any) -> None:
        (tmp_path / "v.parquet").write_bytes(b"PAR1")
        folder.write_file("v.parquet", tmp_path / "v.parquet")
        assert folder.read_text("v.parquet") == "PAR1"

    @pytest.mark.parametrize("url", ["s3://", "s3://videos", "s3://videos/", "s3:///name"])
    def test_an_address_needs_a_bucket_and_a_name(self, url: str) -> None:
        with pytest.raises(SettingsError) as refused:
            ObjectFolder(url)
        assert str(refused.value) == f"{url}: expected s3://BUCKET/NAME, a bucket and a name in it"

    def test_a_whole_bucket_is_accepted_on_request(self) -> None:
        folder = ObjectFolder("s3://videos/", whole_bucket=True)
        assert (folder.bucket, folder.prefix, str(folder)) == ("videos", "", "s3://videos")
        assert ObjectFolder("s3://videos/a/b/").prefix == "a/b"

    @pytest.mark.parametrize(
        ("endpoint", "allowed"), [("http://127.0.0.1:9", "true"), ("https://s3.example.org", "false")]
    )
    def test_plain_http_needs_an_http_endpoint(
        self, monkeypatch: pytest.MonkeyPatch, endpoint: str, allowed: str
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert ObjectFolder("s3://videos/store").storage_options == {
            "allow_http": allowed,
            "connect_timeout": "10s",
            "timeout": "120s",
            "client_max_retries": "8",
            "client_retry_timeout": "90",
        }

    def test_a_pickled_folder_takes_its_variables_along(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "here")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        pickled = pickle.dumps(ObjectFolder("s3://videos/store"))
        monkeypatch.delenv("AWS_REGION")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "its own")
        copy = pickle.loads(pickled)
        assert str(copy) == "s3://videos/store"
        assert (os.environ["AWS_REGION"], os.environ["AWS_ACCESS_KEY_ID"]) == ("here", "its own")
        assert {"AWS_REGION", "AWS_ACCESS_KEY_ID"} <= set(aws_variables())
        monkeypatch.delenv("AWS_REGION")

    def test_the_first_request_is_impatient_and_later_ones_are_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[dict[str, Any]] = []

        class Client:
            def __init__(self, bucket: str, **options: Any) -> None:
                made.append({"bucket": bucket, **options})

            def list_with_delimiter(self, prefix: str) -> dict[str, list[Any]]:
                return {"objects": [], "common_prefixes": []}

        monkeypatch.setattr(obstore_store, "S3Store", Client)
        folder = ObjectFolder("s3://videos/a/b")
        for _ in range(3):
            folder.names()
        assert [each["bucket"] for each in made] == ["videos"] * 2
        assert [each["prefix"] for each in made] == ["a/b"] * 2
        assert [each["client_options"]["timeout"] for each in made] == ["6s", "120s"]
        assert [each["retry_config"]["max_retries"] for each in made] == [1, 8]


class TestErrors:
    @pytest.fixture(autouse=True)
    def endpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "<Code>NoSuchBucket</Code>",
                "s3://videos/x: there is no bucket 'videos' at http://here; create it, or check the address",
            ),
            (
                "status: 403",
                "s3://videos/x: cannot be used at http://here: access is denied; check AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and the bucket's rights",
            ),
            (
                "error sending request for url (http://169.254.169.254/latest): 403 Forbidden",
                "s3://videos/x: cannot be used at http://here: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            (
                "operation timed out",
                "s3://videos/x: http://here does not answer; check AWS_ENDPOINT_URL, AWS_REGION and the connection",
            ),
            ("something\n  else", "s3://videos/x: cannot be used at http://here: something else"),
        ],
    )
    def test_reports_of_the_libraries_become_one_line(self, text: str, message: str) -> None:
        assert explain_s3_error(ObjectFolder("s3://videos/x"), OSError(text)) == message

    def test_digits_of_a_name_are_no_status_code(self) -> None:
        text = "Object at location e79-403-f8/401 not found"
        assert "denied" not in explain_s3_error(ObjectFolder("s3://videos/403"), OSError(text))

    def test_errors_of_the_server_are_told_from_those_of_a_table(self) -> None:
        assert is_server_error(OSError("LanceError(IO): Generic S3 error: x"))
        assert is_server_error(ValueError("NoSuchBucket"))
        assert not is_server_error(OSError("not a Lance file"))

    def test_without_a_variable_the_endpoint_is_that_of_aws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        message = explain_s3_error(ObjectFolder("s3://videos/x"), OSError("NoSuchBucket"))
        assert "there is no bucket 'videos' at the AWS endpoint" in message

    def test_requests_raise_what_they_mean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Client:
            error: Exception = FileNotFoundError("Object at location x not found\nDebug source: ...")

            def get(self, name: str) -> None:
                raise self.error

            head = get

        monkeypatch.setattr(ObjectFolder, "_store", lambda self: Client())
        folder = ObjectFolder("s3://videos/x")
        with pytest.raises(FileNotFoundError, match=r"^Object at location x not found$"):
            folder.read_text("store.json")
        assert not folder.has("store.json")
        Client.error = FileNotFoundError("NoSuchBucket")
        for request in (folder.read_text, folder.has):
            with pytest.raises(InputError, match="there is no bucket 'videos'"):
                request("store.json")


class TestLease:
    @pytest.fixture
    def lease(self, store: Any) -> Iterator[Lease]:
        lease = Lease(store, ".lock", StoreError("busy"))
        lease.acquire()
        yield lease
        lease.release()

    def test_a_second_holder_is_refused(self, folder: ObjectFolder, lease: Lease) -> None:
        lease.check()
        with pytest.raises(StoreError, match=r"^busy$"), folder.lock(".lock", StoreError("busy")):
            pass

    def test_a_released_lease_leaves_nothing(self, folder: ObjectFolder) -> None:
        for _ in range(2):
            with folder.lock(".lock", StoreError("busy")) as lock:
                lock.check()
                assert folder.has(".lock")
            assert folder.names() == []

    def test_renewals_keep_it_beyond_its_life(self, store: Any, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "LIFE_SECONDS", 0.2)
        time.sleep(0.3)
        lease.check()
        content = json.loads(bytes(store.get(".lock").bytes()))
        assert content["renewals"] > 1
        assert content["writer"].endswith(f"process {os.getpid()}")

    def test_one_of_a_killed_process_is_taken_over(
        self, store: Any, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "LIFE_SECONDS", 0.3)
        dead = Lease(store, ".lock", StoreError("busy"))
        dead.acquire()
        dead._ended.set()  # nobody renews it any more, as after kill -9
        dead._thread.join()
        with folder.lock(".lock", StoreError("busy")) as lock:
            with pytest.raises(InputError) as lost:
                dead.check()
            assert str(lost.value) == (
                "busy; this process lost its right to write (it was suspended, or the server did not answer)"
            )
            dead.release()
            lock.check()
            assert folder.has(".lock")  # the new holder's

    def test_a_write_whose_answer_was_lost_is_recognized(self, lease: Lease) -> None:
        with lease._lock:
            lease._version = '"an older one"'
        lease._renew()
        assert lease._version is not None
        lease.check()

    def test_a_server_that_does_not_answer_loses_the_lease_after_a_while(
        self, lease: Lease, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_connection(mode: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(lease, "_write", no_connection)
        lease.check()
        lease._renewed -= 0.6  # the time that it may go without a renewal
        with pytest.raises(InputError, match="lost its right to write"):
            lease.check()

    def test_whether_somebody_renews_it_is_seen(
        self, store: Any, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not folder.is_locked(".lock")
        with folder.lock(".lock", StoreError("busy")) as lock, monkeypatch.context() as patched:
            patched.setattr(time, "sleep", lambda seconds: lock._renew())  # however busy the machine is
            assert folder.is_locked(".lock")
        folder.write_text(".lock", "left by a killed process")
        assert not folder.is_locked(".lock")
        assert not is_renewed(store, "none")
