"""Files that appear complete or not at all, locks, temporary folders, and errors about a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from cmmixer.errors import CheckpointError, DataError, StoreError
from cmmixer.storage import files
from cmmixer.storage.files import (
    atomic_file,
    atomic_folder,
    atomic_path,
    explain_full_disk,
    is_locked,
    lock_file,
    remove_leftovers,
    temporary_folder,
    write_atomically,
)

KILLED = """
import os, signal, sys
from cmmixer.storage.files import temporary_folder
with temporary_folder("cmmixer-queries-") as folder:
    (folder / "upload").write_text("x")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_HOLDER = """
import os, signal, sys
from pathlib import Path
from cmmixer.errors import StoreError
from cmmixer.storage.files import lock_file
with lock_file(Path(sys.argv[1]), StoreError("busy")):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _write_half(path: Path, error: BaseException) -> None:
    path.write_text("half")
    raise error


class TestWriteAtomically:
    def test_text_and_bytes_replace_the_old_content(self, tmp_path: Path) -> None:
        file = tmp_path / "a.json"
        write_atomically(file, "größer")
        assert file.read_bytes() == "größer".encode()
        write_atomically(file, b"\x00\x01")
        assert file.read_bytes() == b"\x00\x01"
        assert _names(tmp_path) == ["a.json"]

    def test_a_failed_write_keeps_the_old_content(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "a.json"
        write_atomically(file, "old")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(file, "new")
        assert file.read_text() == "old"
        assert _names(tmp_path) == ["a.json"]

    def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_atomically(tmp_path / "none" / "a.json", "x")


class TestAtomicPath:
    def test_the_file_appears_at_the_end(self, tmp_path: Path) -> None:
        with atomic_path(str(tmp_path / "video.mp4")) as draft:
            assert draft.name == f".tmp-{os.getpid()}-video.mp4"
            draft.write_text("x")
            assert not (tmp_path / "video.mp4").exists()
        assert _names(tmp_path) == ["video.mp4"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_nothing_is_left_after_an_error(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error), atomic_path(tmp_path / "video.mp4") as draft:
            _write_half(draft, error())
        assert _names(tmp_path) == []

    def test_an_error_before_anything_is_written_is_passed_on(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="codec"), atomic_path(tmp_path / "video.mp4"):
            raise ValueError("codec")


class TestAtomicFile:
    def test_it_is_locked_while_it_is_written(self, tmp_path: Path) -> None:
        target = tmp_path / "v.parquet"
        with atomic_file(target) as file:
            file.write(b"rows")
            assert is_locked(Path(file.name))
            assert not target.exists()
        assert target.read_bytes() == b"rows"
        assert not is_locked(target)

    def test_leftovers_of_the_same_file_are_removed_unless_locked(self, tmp_path: Path) -> None:
        kept = [".tmp-1-v[1].parquet", ".tmp-2-other.parquet", ".tmp-x-v[1].parquet", ".tmp-3-v[1].parquet.part"]
        for name in (*kept, ".tmp-2-v[1].parquet"):
            (tmp_path / name).touch()
        with (tmp_path / kept[0]).open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with atomic_file(tmp_path / "v[1].parquet") as file:
                file.write(b"x")
        assert _names(tmp_path) == sorted([*kept, "v[1].parquet"])

    def test_an_error_keeps_the_old_file(self, tmp_path: Path) -> None:
        target = tmp_path / "v.parquet"
        target.write_bytes(b"old")
        with pytest.raises(ValueError, match="bad row"), atomic_file(target) as file:
            _write_half(Path(file.name), ValueError("bad row"))
        assert target.read_bytes() == b"old"
        assert _names(tmp_path) == ["v.parquet"]


class TestAtomicFolder:
    def test_it_appears_whole_and_replaces_an_older_one(self, tmp_path: Path) -> None:
        folder = tmp_path / "runs" / "step-1"
        for text in ("first", "second"):
            with atomic_folder(folder) as draft:
                (draft / "deep").mkdir()
                (draft / "deep" / "weights").write_text(text)
                assert (folder.exists()) == (text == "second")
        assert (folder / "deep" / "weights").read_text() == "second"
        assert _names(tmp_path / "runs") == ["step-1"]

    def test_an_error_leaves_the_old_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "step-1"
        folder.mkdir()
        (folder / "weights").write_text("old")
        with pytest.raises(ValueError, match="stop"), atomic_folder(folder) as draft:
            _write_half(draft / "weights", ValueError("stop"))
        assert (folder / "weights").read_text() == "old"
        assert _names(tmp_path) == ["step-1"]


def test_leftovers_are_removed_whatever_they_are(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-file").touch()
    (tmp_path / ".tmp-1-folder" / "deep").mkdir(parents=True)
    (tmp_path / "mine.tmp-1").touch()
    remove_leftovers(tmp_path)
    assert _names(tmp_path) == ["mine.tmp-1"]


class TestLock:
    def test_a_second_holder_is_refused_and_the_next_one_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_PATIENCE_SECONDS", 0.02)
        path = tmp_path / ".lock"
        assert not is_locked(path)
        with lock_file(path, StoreError("busy")):
            assert is_locked(path)
            with pytest.raises(StoreError, match=r"^busy$"), lock_file(path, StoreError("busy")):
                pass
        assert not is_locked(path)
        with lock_file(path, StoreError("busy")):
            pass

    def test_the_content_of_the_file_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "writing"
        path.write_text("interrupted")
        with lock_file(path, StoreError("busy")) as file:
            file.seek(0)
            assert file.read() == b"interrupted"
            file.truncate(0)
        assert path.read_bytes() == b""

    def test_a_holder_of_an_instant_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        held, done = threading.Event(), threading.Event()

        def look() -> None:
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                held.set()
                time.sleep(0.1)
                done.set()

        thread = threading.Thread(target=look)
        thread.start()
        held.wait()
        with lock_file(path, StoreError("busy")):
            assert done.is_set()
        thread.join()

    def test_a_killed_holder_lets_go(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        killed = subprocess.run([sys.executable, "-c", KILLED_HOLDER, str(path)], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with lock_file(path, StoreError("busy")):
            pass

    def test_what_does_not_exist_is_not_locked(self, tmp_path: Path) -> None:
        assert not is_locked(tmp_path / "none")
        with pytest.raises(FileNotFoundError), lock_file(tmp_path / "none" / ".lock", StoreError("busy")):
            pass


class TestTemporaryFolder:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return tmp_path

    def test_it_is_removed_with_everything_in_it(self, place: Path) -> None:
        with temporary_folder("cmmixer-queries-") as folder:
            assert folder.parent.parent == place
            assert list(folder.iterdir()) == []
            (folder / "deep").mkdir()
            (folder / "deep" / "upload").touch()
        assert list(place.iterdir()) == []

    def test_leftovers_of_a_killed_process_are_removed_by_the_next(self, place: Path) -> None:
        command = [sys.executable, "-c", KILLED]
        killed = subprocess.run(command, env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True)
        left = Path(killed.stdout.strip())
        assert killed.returncode == -signal.SIGKILL
        assert (left / "upload").exists()
        with temporary_folder("cmmixer-dubs-"):
            assert left.exists()  # another prefix
        with temporary_folder("cmmixer-queries-"):
            assert not left.exists()

    def test_folders_that_are_held_or_were_never_locked_stay(self, place: Path) -> None:
        strange = place / "cmmixer-queries-mine"
        strange.mkdir()
        with temporary_folder("cmmixer-queries-") as first, temporary_folder("cmmixer-queries-") as second:
            assert first.exists()
            assert second.exists()
        assert list(place.iterdir()) == [strange]

    def test_links_are_not_followed(self, place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        other = tmp_path_factory.mktemp("other")
        (other / ".lock").touch()
        (place / "cmmixer-queries-link").symlink_to(other)
        with temporary_folder("cmmixer-queries-"):
            assert (other / ".lock").exists()


class TestExplainFullDisk:
    @pytest.mark.parametrize(
        ("cause", "message"),
        [
            (
                OSError(errno.ENOSPC, "No space left on device"),
                "runs/x: the disk is full; free some space and run the same command again, it continues",
            ),
            (
                OSError(errno.EDQUOT, "Disk quota exceeded"),
                "runs/x: the disk is full; free some space and run the same command again, it continues",
            ),
            (
                OSError("lance: No space left on device (os error 28)"),
                "runs/x: the disk is full; free some space and run the same command again, it continues",
            ),
            (
                OSError(errno.EFBIG, "File too large"),
                "runs/x: a file may not grow any larger there (see `ulimit -f`, or the file system's limit); raise the limit "
                "and run the same command again, it continues",
            ),
            (
                PermissionError(errno.EACCES, "Permission denied"),
                "runs/x: cannot write here (Permission denied); choose another folder",
            ),
            (
                OSError(errno.EROFS, "Read-only file system"),
                "runs/x: cannot write here (Read-only file system); choose another folder",
            ),
        ],
    )
    def test_the_system_s_errors_become_one_line(self, cause: OSError, message: str) -> None:
        with pytest.raises(CheckpointError) as raised, explain_full_disk(Path("runs/x"), CheckpointError):
            raise cause
        assert str(raised.value) == message
        assert raised.value.__cause__ is cause

    def test_other_errors_pass_unchanged(self) -> None:
        for cause in (FileNotFoundError(errno.ENOENT, "No such file"), ValueError("x"), DataError("y")):
            with pytest.raises(type(cause)) as raised, explain_full_disk("runs/x", CheckpointError):
                raise cause
            assert raised.value is cause
