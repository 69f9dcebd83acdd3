"""`prepare` stores what it can decode, reports the rest, and loses or doubles nothing, whatever stops it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lance
import psutil
import pytest

from cmmixer.config.data import DataSettings
from cmmixer.data import clip_encoding
from cmmixer.data import prepare as prepare_module
from cmmixer.data import store as store_module
from cmmixer.data.dataset import open_clips
from cmmixer.data.prepare import prepare
from cmmixer.data.segments import Segment, SegmentSpec, decode_segment
from cmmixer.data.store import ClipStore
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.storage.folder import LocalFolder
from cmmixer.types import Clip
from tests.support.small_runs import PICO
from tests.support.small_stores import GEOMETRY_FLAGS, prepare_settings, table_rows
from tests.support.small_videos import video


class TestReport:
    def test_useless_videos_are_listed_with_their_reason(self, mixed_videos: Path, tmp_path: Path) -> None:
        report = prepare(prepare_settings(mixed_videos, tmp_path / "store"))
        assert ClipStore.open(tmp_path / "store").sources == ["copy"] * 2 + ["good two"] * 2
        assert {Path(skip.path).name: skip.reason for skip in report.skips} == {
            "folder.mp4": "not-a-file",
            "gone.mp4": "not-a-file",
            "good one.mp4": "duplicate",
            "no sound.mp4": "no-audio",
            "notes.txt": "not-media",
            "nothing.mp4": "empty",
            "short.mp4": "too-short",
            "still.mp4": "silent",
            "text.mp4": "unreadable",
        }
        text = (tmp_path / "store/skipped.txt").read_text()
        assert "duplicate:\n" in text
        assert f"the same frames and audio as {mixed_videos}/copy.mp4" in text
        figures = report.as_json()
        assert (figures["videos"], figures["clips"], figures["skipped"]) == (10, 4, 9)
        assert json.loads(json.dumps(figures))["skipped_by_reason"]["silent"] == 1
        assert "4 clips of 10 videos; 9 files left out" in report.render()

    def test_no_usable_video_is_an_error_and_the_report_stays(self, tmp_path: Path) -> None:
        video(tmp_path / "videos/short.mp4", seconds=0.5)
        with pytest.raises(DataError, match=r"no video gives a clip; 1 file left out: 1 too short; see .*skipped\.txt"):
            prepare(prepare_settings(tmp_path / "videos", tmp_path / "store"))
        assert "short.mp4: got 0.5" in (tmp_path / "store/skipped.txt").read_text()

    def test_overlapping_stretches_share_their_clips(self, tmp_path: Path) -> None:
        whole = video(tmp_path / "made/whole.mp4", seconds=3.0)
        (tmp_path / "m.csv").write_text(
            f"path,start_seconds,end_seconds\n{whole},0,2\n{whole},1,3\n{whole},1,2\n{whole},0,2\n"
        )
        report = prepare(prepare_settings(tmp_path / "m.csv", tmp_path / "store"))
        assert [i.split("#")[1] for i in ClipStore.open(tmp_path / "store").ids] == [
            "0.000-1.000",
            "1.000-2.000",
            "2.000-3.000",
        ]
        assert [skip.reason for skip in report.skips] == ["duplicate", "duplicate"]

    def test_a_video_that_is_damaged_in_the_middle_keeps_its_good_clips(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def damaged_from_1_to_2(segment: Segment, spec: SegmentSpec) -> Clip:
            if segment.span.start_seconds == 1.0:
                raise MediaError(segment.path, "unreadable", "no part of its video can be decoded")
            return decode_segment(segment, spec)

        def here(function: Any, items: Any, **options: object) -> Any:
            return ((item, function(item)) for item in items)

        monkeypatch.setattr(clip_encoding, "decode_segment", damaged_from_1_to_2)
        monkeypatch.setattr(prepare_module, "map_sandboxed", here)
        video(tmp_path / "data/video.mp4", seconds=3.0)
        for _ in range(2):  # run again, nothing changes
            report = prepare(prepare_settings(tmp_path / "data", tmp_path / "store"))
            assert [i.split("#")[1] for i in ClipStore.open(tmp_path / "store").ids] == ["0.000-1.000", "2.000-3.000"]
            assert [(skip.reason, skip.clips_used) for skip in report.skips] == [("unreadable", 2)]


class TestResuming:
    def test_run_again_it_decodes_nothing_and_adds_nothing(
        self, mixed_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = prepare(prepare_settings(mixed_videos, tmp_path / "store"))
        asked: list[str] = []

        def nothing_to_do(function: object, items: Any, **options: object) -> Any:
            asked.extend(item.name for item in items)
            return iter(())

        monkeypatch.setattr(prepare_module, "map_sandboxed", nothing_to_do)
        again = prepare(prepare_settings(mixed_videos, tmp_path / "store"))
        assert asked == []
        assert (again.clips, again.clips_before) == (first.clips, 4)
        assert list(again.skips) == list(first.skips)

    def test_new_videos_are_added_and_missing_ones_tried_again(self, videos: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "m.csv").write_text("path\nlate.mp4\nearly.mp4\n")
        shutil.copy(videos / "a/00.mp4", data / "early.mp4")
        assert prepare(prepare_settings(data / "m.csv", tmp_path / "store")).skips.counts == {"missing": 1}
        shutil.copy(videos / "b/01.mp4", data / "late.mp4")
        report = prepare(prepare_settings(data / "m.csv", tmp_path / "store"))
        assert (report.clips, report.clips_before, report.skips.total) == (5, 2, 0)
        assert ClipStore.open(tmp_path / "store").sources == ["early"] * 2 + ["late"] * 3

    def test_other_settings_are_refused_by_name(self, videos: Path, store: Path) -> None:
        with pytest.raises(StoreError) as caught:
            prepare(prepare_settings(videos, store, height=48, jpeg_quality=50, stride_seconds=0.5))
        assert str(caught.value) == (
            f"{store}: holds a store made differently: height: got 48, holds 32; stride_seconds: got "
            "0.5, holds 1.0; jpeg_quality: got 50, holds 92; choose another folder or --overwrite"
        )
        assert len(ClipStore.open(store)) == 30

    def test_overwrite_starts_again(self, videos: Path, tmp_path: Path) -> None:
        prepare(prepare_settings(videos / "a", tmp_path / "store"))
        report = prepare(prepare_settings(videos / "b", tmp_path / "store", height=48, overwrite=True))
        assert report.clips_before == 0
        assert {s[:2] for s in ClipStore.open(tmp_path / "store").sources} == {"01", "03", "05", "07", "09", "11"}
        assert ClipStore.open(tmp_path / "store").settings.height == 48

    def test_a_folder_with_other_things_is_left_alone(self, videos: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("x")
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=r"holds 'thesis\.tex', which does not belong to a clip store"):
                prepare(prepare_settings(videos, tmp_path, overwrite=overwrite))
        with pytest.raises(StoreError, match="is a file; a clip store is a folder"):
            prepare(prepare_settings(videos, tmp_path / "thesis.tex"))

    def test_two_writers_are_kept_apart(self, videos: Path, store: Path) -> None:
        with (
            LocalFolder(store).lock(".lock", StoreError("-")),
            pytest.raises(StoreError, match="another `prepare` is writing to it"),
        ):
            prepare(prepare_settings(videos, store))

    def test_a_store_is_not_read_as_videos(self, store: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            prepare(prepare_settings(store, tmp_path / "out"))
        assert str(caught.value) == (
            f"{store}: a clip store, not videos; give it as --data of pretrain, finetune or evaluate"
        )
        assert not (tmp_path / "out").exists()


class TestFullDisk:
    def test_what_was_written_stays_valid_and_the_next_run_resumes(
        self, videos: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = lance.write_dataset, []

        def full_after_three(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) > 4:  # the first one makes the empty table
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        monkeypatch.setattr(prepare_module, "COMMIT_SECONDS", 0.0)
        monkeypatch.setattr(store_module.lance, "write_dataset", full_after_three)
        with pytest.raises(StoreError, match="the disk is full; free some space and run the same command again"):
            prepare(prepare_settings(videos, tmp_path / "store"))
        half = ClipStore.open(tmp_path / "store")
        assert half.ids == ClipStore.open(store).ids[: len(half)]
        assert len(half) == 3 * 2
        assert half.read([5])[0].id == half.ids[5]
        with pytest.raises(StoreError, match="its `prepare` was stopped; run the same command again"):
            open_clips(DataSettings(data=str(tmp_path / "store")), PICO)
        monkeypatch.undo()
        prepare(prepare_settings(videos, tmp_path / "store"))
        assert same_rows(tmp_path / "store", store)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
    def test_a_disk_that_is_really_full(self, videos: Path, store: Path, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=False).returncode:
            pytest.skip("a small file system cannot be mounted here")
        try:
            with pytest.raises(StoreError, match="the disk is full"):
                prepare(prepare_settings(videos, disk / "store"))
            ClipStore.open(disk / "store")
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            prepare(prepare_settings(videos, disk / "store"))
            assert same_rows(disk / "store", store)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


SCRIPT = """
import sys
from cmmixer.config import PrepareSettings
from cmmixer.data import prepare
prepare.COMMIT_SECONDS = 0.0
prepare.prepare(PrepareSettings(data=sys.argv[1], out=sys.argv[2], workers=2, frames=2, height=32, width=32,
    clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000))
"""


def same_rows(one: Path, other: Path) -> bool:
    return bool(table_rows(one).equals(table_rows(other)))


class TestKill:
    def test_killed_at_any_moment_and_run_again_it_is_as_if_never_killed(
        self, mixed_videos: Path, videos: Path, tmp_path: Path
    ) -> None:
        for path in videos.rglob("*.mp4"):
            shutil.copy(path, mixed_videos)
        prepare(prepare_settings(mixed_videos, tmp_path / "whole"))
        rows = []
        for moment in (0, 3, 6):  # commits, the empty table is one; 0: as soon as the folder is there
            start_and_kill(mixed_videos, tmp_path / "store", commits=moment)
            rows.append(len(ClipStore.open(tmp_path / "store")) if moment else 0)
        assert rows == sorted(rows)
        assert 0 < rows[1] < rows[-1]  # it was stopped on its way, and each run resumed
        prepare(prepare_settings(mixed_videos, tmp_path / "store"))
        assert same_rows(tmp_path / "store", tmp_path / "whole")
        assert (tmp_path / "store/skipped.json").read_text() == (tmp_path / "whole/skipped.json").read_text()
        assert len(list((tmp_path / "store/clips.lance/data").iterdir())) <= 40

    def test_a_torn_line_of_the_journal_is_cut_off(self, mixed_videos: Path, tmp_path: Path) -> None:
        first = prepare(prepare_settings(mixed_videos, tmp_path / "store"))
        journal = tmp_path / "store/journal.jsonl"
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-20])
        again = prepare(prepare_settings(mixed_videos, tmp_path / "store"))
        assert journal.read_bytes() == whole
        assert (again.clips, list(again.skips)) == (first.clips, list(first.skips))


def start_and_kill(data: Path, out: Path, commits: int) -> None:
    """Runs `prepare` in a process of its own and kills it without warning once the table has so many more versions."""
    before = versions(out)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(data), str(out)])
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (versions(out) >= before + commits) if commits else out.exists():
            break
        time.sleep(0.001)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=20)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children), "orphans"


def versions(out: Path) -> int:
    folder = out / "clips.lance/_versions"
    return len(list(folder.glob("*.manifest"))) if folder.is_dir() else 0


class TestCommand:
    def test_training_on_a_store_with_a_truncated_fragment_ends_in_one_line(self, store: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(store, tmp_path / "store"))
        fragments = sorted((copy / "clips.lance/data").iterdir())
        os.truncate(fragments[-1], fragments[-1].stat().st_size // 2)
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        flags = [
            "--data",
            str(copy),
            "--out",
            str(tmp_path / "run"),
            "--preset",
            "nano",
            "--num_workers",
            "1",
            *GEOMETRY_FLAGS,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "cmmixer", "pretrain", *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "rror" in line]
        assert "clips.lance: missing or damaged" in line
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before

    def test_a_file_size_limit_is_a_full_disk_for_prepare(self, videos: Path, store: Path, tmp_path: Path) -> None:
        flags = ["--data", str(videos), "--out", str(tmp_path / "store"), "--workers", "1", *GEOMETRY_FLAGS]
        code = (
            "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)); from cmmixer.cli.main import main; sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "prepare", *flags], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("cmmixer")]
        assert f"{tmp_path / 'store'}: a file may not grow any larger there (see `ulimit -f`" in line
        ClipStore.open(tmp_path / "store")  # what is there is a store
        prepare(prepare_settings(videos, tmp_path / "store"))
        assert ClipStore.open(tmp_path / "store").ids == ClipStore.open(store).ids


def test_more_decoder_processes_than_videos(tmp_path: Path) -> None:
    video(tmp_path / "videos/one.mp4", seconds=2.0)
    assert prepare(prepare_settings(tmp_path / "videos", tmp_path / "store", workers=8)).clips == 2
