"""The cache on disk: computes each key once, survives a full disk, and drops the least recently used files."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmmixer.errors import SearchIndexError
from cmmixer.server import cache as cache_module
from cmmixer.server.cache import Cache, key_of
from cmmixer.storage.files import TEMPORARY

KEY = key_of("a thumbnail")


def _files(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.rglob("*") if path.is_file())


def test_bytes_are_computed_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path / "cache", 1), []

    def compute() -> bytes:
        calls.append(1)
        return b"jpeg"

    assert [cache.get_bytes(KEY, ".jpg", compute) for _ in range(3)] == [b"jpeg"] * 3
    assert len(calls) == 1
    assert (tmp_path / "cache" / KEY[:2] / f"{KEY}.jpg").read_bytes() == b"jpeg"
    # A cache of another process in the same folder has it too.
    assert Cache(tmp_path / "cache", 1).get_bytes(KEY, ".jpg", lambda: b"other") == b"jpeg"
    # Another suffix is another file.
    assert cache.get_bytes(KEY, ".json", lambda: b"{}") == b"{}"


def test_threads_wait_for_the_one_that_computes(tmp_path: Path) -> None:
    cache, calls, started = Cache(tmp_path / "cache", 1), [], threading.Event()

    def compute() -> bytes:
        calls.append(threading.get_ident())
        started.set()
        time.sleep(0.05)
        return b"once"

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: cache.get_bytes(KEY, ".jpg", compute), range(8)))
    assert started.is_set()
    assert (results, len(calls)) == ([b"once"] * 8, 1)


def test_different_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    cache, both = Cache(tmp_path / "cache", 1), threading.Barrier(2, timeout=10)

    def compute() -> bytes:
        both.wait()  # passes only while the other key is being computed too
        return b"done"

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda name: cache.get_bytes(key_of(name), ".jpg", compute), ("one", "two")))
    assert results == [b"done", b"done"]


def test_failed_computation_is_tried_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1)

    def fail() -> bytes:
        raise ValueError("cannot be decoded")

    with pytest.raises(ValueError, match=r"^cannot be decoded$"):
        cache.get_bytes(KEY, ".jpg", fail)
    assert _files(cache) == []
    assert cache.get_bytes(KEY, ".jpg", lambda: b"jpeg") == b"jpeg"


def test_bytes_that_cannot_be_stored_are_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_atomically", full)
    assert cache.get_bytes(KEY, ".jpg", lambda: b"first") == b"first"
    assert cache.get_bytes(KEY, ".jpg", lambda: b"second") == b"second"
    assert _files(cache) == []


def test_files_are_written_once_and_appear_complete(tmp_path: Path) -> None:
    cache, drafts = Cache(tmp_path / "cache", 1), []

    def write(draft: Path) -> None:
        drafts.append(draft)
        assert draft.name.startswith(TEMPORARY)
        draft.write_bytes(b"half")
        assert not (draft.parent / f"{KEY}.mp4").exists()
        draft.write_bytes(b"half and half")

    path = cache.get_file(KEY, ".mp4", write)
    assert path == tmp_path / "cache" / KEY[:2] / f"{KEY}.mp4"
    assert path.read_bytes() == b"half and half"
    assert cache.get_file(KEY, ".mp4", write) == path
    assert len(drafts) == 1
    assert _files(cache) == [f"{KEY}.mp4"]


def test_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1)

    def fill_the_disk(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        cache.get_file(KEY, ".mp4", fill_the_disk)
    assert _files(cache) == []


def test_prune_removes_the_least_recently_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1)
    for number in range(14):
        path = cache.folder / f"{number:02d}" / f"{number:02d}.jpg"
        path.parent.mkdir()
        path.write_bytes(bytes(100_000))
        os.utime(path, (1000 + number, 1000 + number))
    assert len(cache.get_bytes("00", ".jpg", bytes)) == 100_000  # used: it is the newest now
    cache.prune()
    assert _files(cache) == ["00.jpg", *(f"{number:02d}.jpg" for number in range(5, 14))]
    cache.prune()
    assert len(_files(cache)) == 10  # 1,000,000 of 1,048,576 bytes: nothing more to remove


def test_prune_removes_only_old_temporary_files(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1)
    folder = cache.folder / "ab"
    folder.mkdir()
    for name, age_seconds in (("fresh.mp4", 60.0), ("stale.mp4", 7200.0)):
        path = folder / f"{TEMPORARY}{name}"
        path.write_bytes(bytes(3 << 20))  # does not count: another process is still writing it
        os.utime(path, (time.time() - age_seconds,) * 2)
    (folder / "kept.jpg").write_bytes(b"jpeg")
    cache.prune()
    assert _files(cache) == [f"{TEMPORARY}fresh.mp4", "kept.jpg"]


def test_writing_prunes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, pruned = Cache(tmp_path / "cache", 1), []
    monkeypatch.setattr(cache, "prune", lambda: pruned.append(len(_files(cache))))
    # By bytes: as soon as 5 % of a megabyte has been written.
    for number in range(12):
        cache.get_bytes(f"bytes {number}", ".jpg", lambda: bytes(10_000))
    assert pruned == [6, 12]
    # By number of files.
    monkeypatch.setattr(cache_module, "_PRUNE_EVERY", 3)
    pruned.clear()
    for number in range(7):
        cache.get_bytes(f"files {number}", ".jpg", lambda: b"x")
    assert pruned == [15, 18]


def test_full_disk_is_reported_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(SearchIndexError) as error:
        Cache(tmp_path / "cache", 1)
    assert str(error.value).startswith(f"{tmp_path / 'cache'}: the disk is full; free some space")


def test_keys_depend_on_every_part() -> None:
    keys = [key_of("a", "b"), key_of("ab"), key_of("a", "b", ""), key_of("", "a", "b"), key_of("b", "a")]
    assert len(set(keys)) == len(keys)
    assert key_of("a", "b") == key_of("a", "b")
    assert len(key_of("é")) == 64
