"""The clip store: what it holds, what it lists, and that nothing is lost or doubled, whatever stops `prepare`."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import pytest

from cmmixer.config import PrepareSettings
from cmmixer.config.clip import ClipSettings
from cmmixer.config.data import DataSettings
from cmmixer.data import clip_encoding
from cmmixer.data import prepare as prepare_module
from cmmixer.data import store as store_module
from cmmixer.data.clip_encoding import decode_jpeg, encode_jpeg
from cmmixer.data.clips import ClipRef, read_ref
from cmmixer.data.dataset import StoreClips, open_clips
from cmmixer.data.loader import make_loader
from cmmixer.data.prepare import prepare
from cmmixer.data.store import ClipStore
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.storage.folder import LocalFolder
from cmmixer.types import Clip
from tests.support.small_runs import PICO
from tests.support.small_videos import film

GEOMETRY: dict[str, Any] = {
    "frames": PICO.frames,
    "height": PICO.height,
    "width": PICO.width,
    "clip_seconds": PICO.clip_seconds,
    "window_seconds": PICO.window_seconds,
    "sample_rate_hz": PICO.sample_rate_hz,
}


def settings(data: Path, out: Path, **changes: Any) -> PrepareSettings:
    return PrepareSettings(**{"data": str(data), "out": str(out), "workers": 1, **GEOMETRY, **changes})


@pytest.fixture(scope="module")
def store(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "films"
    prepare(settings(films, out, workers=2))
    return out


class TestContent:
    def test_it_holds_what_training_from_films_sees(self, films: Path, store: Path) -> None:
        from_films = open_clips(DataSettings(data=str(films)), PICO, workers=1)
        from_store = open_clips(DataSettings(data=str(store)), PICO)
        assert list(from_store.ids) == list(from_films.ids)
        assert list(from_store.sources) == list(from_films.sources)
        for direct, stored in zip(from_films.read(range(30)), from_store.read(range(30)), strict=True):
            assert stored.span == direct.span  # type: ignore[union-attr]
            assert (stored.sound.samples_TN == direct.sound.samples_TN).all()  # type: ignore[union-attr]
            assert (stored.sound.centres_seconds_T == direct.sound.centres_seconds_T).all()  # type: ignore[union-attr]
            off = stored.frames.pixels_THWC.astype(int) - direct.frames.pixels_THWC  # type: ignore[union-attr]
            assert (off**2).mean() ** 0.5 < 3.0  # more than 38 dB
            assert np.abs(off).max() <= 40  # at edges of colour

    def test_batches_from_films_and_store_are_the_same_in_any_worker(self, films: Path, store: Path) -> None:
        from_films = open_clips(DataSettings(data=str(films)), PICO, workers=1)
        direct = list(make_loader(from_films, batch_size=5, seed=4))
        stored = list(make_loader(open_clips(DataSettings(data=str(store)), PICO), batch_size=5, seed=4, num_workers=1))
        assert [batch.ids for batch in stored] == [batch.ids for batch in direct]
        assert all((a.audio_BTN == b.audio_BTN).all() for a, b in zip(stored, direct, strict=True))

    def test_rows_come_in_the_order_asked_for_and_repeat(self, store: Path) -> None:
        clips = ClipStore.open(store)
        asked = [7, 0, 29, 7]
        assert [clip.id for clip in clips.read(asked)] == [clips.ids[row] for row in asked]
        assert clips.read([]) == []
        with pytest.raises(IndexError, match="there are 30"):
            clips.read([30])

    def test_the_card_can_be_read_by_people(self, store: Path, films: Path) -> None:
        card = json.loads((store / "store.json").read_text())
        assert card["clip"] == GEOMETRY
        assert card["data"] == str(films)
        assert (card["format"], card["complete"], card["stride_seconds"]) == (2, True, 1.0)
        assert card["created_by"].startswith("cmmixer ")

    def test_it_travels_to_other_processes_without_its_open_table(self, store: Path) -> None:
        clips = StoreClips(ClipStore.open(store))
        pickled = pickle.dumps(clips)
        assert pickle.loads(pickled)[3].id == clips.ids[3]
        assert len(pickled) < 10_000

    def test_labels_splits_and_sources_of_a_manifest(self, films: Path, tmp_path: Path) -> None:
        rows = [f"{films}/a/00.mp4,dog,train,one", f"{films}/b/01.mp4,,gallery,two"]
        (tmp_path / "m.csv").write_text("\n".join(["path,label,split,source", *rows]))
        prepare(settings(tmp_path / "m.csv", tmp_path / "store"))
        clips = ClipStore.open(tmp_path / "store")
        assert clips.labels == ["dog", "dog", None, None, None]
        assert clips.splits == ["train", "train", "gallery", "gallery", "gallery"]
        gallery = open_clips(DataSettings(data=str(tmp_path / "store"), split="gallery"), PICO)
        assert list(gallery.sources) == ["two", "two", "two"]
        assert gallery[0].id == clips.ids[2]
        with pytest.raises(DataError, match="no clip of split 'test'; splits there: gallery, train"):
            open_clips(DataSettings(data=str(tmp_path / "store"), split="test"), PICO)

    def test_jpeg_keeps_colour_at_full_resolution(self) -> None:
        # One red column on black: with halved colour it would bleed into its neighbours.
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[:, 8] = (200, 0, 0)
        planes = np.empty((3, 16, 16), np.uint8)
        decode_jpeg(encode_jpeg(picture, 98), planes)
        back = planes.transpose(1, 2, 0).astype(int)
        assert np.abs(back - picture).max() < 25
        assert len(encode_jpeg(picture, 20)) < len(encode_jpeg(picture, 98))


class TestReport:
    def test_useless_films_are_listed_with_their_reason(self, mixed_films: Path, tmp_path: Path) -> None:
        report = prepare(settings(mixed_films, tmp_path / "store"))
        assert ClipStore.open(tmp_path / "store").sources == ["copy"] * 2 + ["good two"] * 2
        assert {Path(skip.path).name: skip.reason for skip in report.skips} == {
            "folder.mp4": "not-a-file",
            "gone.mp4": "not-a-file",
            "good one.mp4": "duplicate",
            "no sound.mp4": "no-sound",
            "notes.txt": "not-media",
            "nothing.mp4": "empty",
            "short.mp4": "too-short",
            "still.mp4": "silent",
            "text.mp4": "unreadable",
        }
        text = (tmp_path / "store/skipped.txt").read_text()
        assert "duplicate:\n" in text
        assert f"the same pictures and sound as {mixed_films}/copy.mp4" in text
        figures = report.as_json()
        assert (figures["films"], figures["clips"], figures["skipped"]) == (10, 4, 9)
        assert json.loads(json.dumps(figures))["skipped_by_reason"]["silent"] == 1
        assert "4 clips of 10 films; 9 files left out" in report.render()

    def test_no_usable_film_is_an_error_and_the_report_stays(self, tmp_path: Path) -> None:
        film(tmp_path / "films/short.mp4", seconds=0.5)
        with pytest.raises(DataError, match=r"no film gives a clip; 1 file left out: 1 too short; see .*skipped\.txt"):
            prepare(settings(tmp_path / "films", tmp_path / "store"))
        assert "short.mp4: got 0.5" in (tmp_path / "store/skipped.txt").read_text()

    def test_overlapping_stretches_share_their_clips(self, tmp_path: Path) -> None:
        whole = film(tmp_path / "made/whole.mp4", seconds=3.0)
        (tmp_path / "m.csv").write_text(
            f"path,start_seconds,end_seconds\n{whole},0,2\n{whole},1,3\n{whole},1,2\n{whole},0,2\n"
        )
        report = prepare(settings(tmp_path / "m.csv", tmp_path / "store"))
        assert [i.split("#")[1] for i in ClipStore.open(tmp_path / "store").ids] == [
            "0.000-1.000",
            "1.000-2.000",
            "2.000-3.000",
        ]
        assert [skip.reason for skip in report.skips] == ["duplicate", "duplicate"]

    def test_a_film_that_is_damaged_in_the_middle_keeps_its_good_clips(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def damaged_from_1_to_2(ref: ClipRef, clip: ClipSettings, *, file_seconds: float) -> Clip:
            if ref.span.start_seconds == 1.0:
                raise MediaError(ref.path, "unreadable", "no part of its picture can be decoded")
            return read_ref(ref, clip, file_seconds=file_seconds)

        def here(function: Any, items: Any, **options: object) -> Any:
            return ((item, function(item)) for item in items)

        monkeypatch.setattr(clip_encoding, "read_ref", damaged_from_1_to_2)
        monkeypatch.setattr(prepare_module, "map_isolated", here)
        film(tmp_path / "data/film.mp4", seconds=3.0)
        for _ in range(2):  # run again, nothing changes
            report = prepare(settings(tmp_path / "data", tmp_path / "store"))
            assert [i.split("#")[1] for i in ClipStore.open(tmp_path / "store").ids] == ["0.000-1.000", "2.000-3.000"]
            assert [(skip.reason, skip.clips_used) for skip in report.skips] == [("unreadable", 2)]


class TestContinuing:
    def test_run_again_it_decodes_nothing_and_adds_nothing(
        self, mixed_films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = prepare(settings(mixed_films, tmp_path / "store"))
        asked: list[str] = []

        def nothing_to_do(function: object, items: Any, **options: object) -> Any:
            asked.extend(item.name for item in items)
            return iter(())

        monkeypatch.setattr(prepare_module, "map_isolated", nothing_to_do)
        again = prepare(settings(mixed_films, tmp_path / "store"))
        assert asked == []
        assert (again.clips, again.clips_before) == (first.clips, 4)
        assert list(again.skips) == list(first.skips)

    def test_new_films_are_added_and_missing_ones_tried_again(self, films: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "m.csv").write_text("path\nlate.mp4\nearly.mp4\n")
        shutil.copy(films / "a/00.mp4", data / "early.mp4")
        assert prepare(settings(data / "m.csv", tmp_path / "store")).skips.counts == {"missing": 1}
        shutil.copy(films / "b/01.mp4", data / "late.mp4")
        report = prepare(settings(data / "m.csv", tmp_path / "store"))
        assert (report.clips, report.clips_before, report.skips.total) == (5, 2, 0)
        assert ClipStore.open(tmp_path / "store").sources == ["early"] * 2 + ["late"] * 3

    def test_other_settings_are_refused_by_name(self, films: Path, store: Path) -> None:
        with pytest.raises(StoreError) as caught:
            prepare(settings(films, store, height=48, jpeg_quality=50, stride_seconds=0.5))
        assert str(caught.value) == (
            f"{store}: holds a store made differently: height 32 there, 48 asked for; stride_seconds 1.0 there, "
            "0.5 asked for; jpeg_quality 92 there, 50 asked for; choose another folder or --overwrite"
        )
        assert len(ClipStore.open(store)) == 30

    def test_training_with_another_geometry_is_refused_by_name(self, store: Path) -> None:
        other = PICO.__class__(**{**GEOMETRY, "frames": 4})
        with pytest.raises(StoreError, match="prepared differently: frames 2 there, 4 asked for; prepare another one"):
            open_clips(DataSettings(data=str(store)), other)
        with pytest.raises(StoreError, match=r"stride_seconds 1 there, 0\.25 asked for"):
            open_clips(DataSettings(data=str(store), stride_seconds=0.25), PICO)

    def test_overwrite_starts_anew(self, films: Path, tmp_path: Path) -> None:
        prepare(settings(films / "a", tmp_path / "store"))
        report = prepare(settings(films / "b", tmp_path / "store", height=48, overwrite=True))
        assert report.clips_before == 0
        assert {s[:2] for s in ClipStore.open(tmp_path / "store").sources} == {"01", "03", "05", "07", "09", "11"}
        assert ClipStore.open(tmp_path / "store").settings.height == 48

    def test_a_folder_with_other_things_is_left_alone(self, films: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("x")
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=r"holds 'thesis\.tex', which is not of a clip store"):
                prepare(settings(films, tmp_path, overwrite=overwrite))
        with pytest.raises(StoreError, match="is a file; a clip store is a folder"):
            prepare(settings(films, tmp_path / "thesis.tex"))

    def test_two_writers_are_kept_apart(self, films: Path, store: Path) -> None:
        with (
            LocalFolder(store).held(".lock", StoreError("-")),
            pytest.raises(StoreError, match="another `prepare` is writing to it"),
        ):
            prepare(settings(films, store))

    def test_films_are_not_a_store_and_a_store_is_no_films(self, films: Path, store: Path, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"no clip store there \(store\.json is missing\); make one with"):
            ClipStore.open(films)
        with pytest.raises(DataError, match="a clip store, not films"):
            prepare(settings(store, tmp_path / "out"))

    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (lambda s: shutil.rmtree(s / "clips.lance"), r"clips\.lance: missing or damaged"),
            (lambda s: (s / "store.json").write_text("{"), r"store\.json: damaged"),
            (lambda s: (s / "store.json").write_text('{"format": 9}'), r"store format 9, expected 2; prepare it again"),
            (lambda s: [f.write_bytes(b"x") for f in (s / "clips.lance/data").iterdir()], "missing or damaged"),
        ],
    )
    def test_damage_is_told(self, store: Path, tmp_path: Path, damage: Any, told: str) -> None:
        copy = shutil.copytree(store, tmp_path / "copy")
        damage(copy)
        with pytest.raises(StoreError, match=told):
            ClipStore.open(copy).read([0])


class TestFullDisk:
    def test_what_was_written_stays_valid_and_the_next_run_goes_on(
        self, films: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            prepare(settings(films, tmp_path / "store"))
        half = ClipStore.open(tmp_path / "store")
        assert half.ids == ClipStore.open(store).ids[: len(half)]
        assert len(half) == 3 * 2
        assert half.read([5])[0].id == half.ids[5]
        with pytest.raises(StoreError, match="its `prepare` was stopped; run the same command again"):
            open_clips(DataSettings(data=str(tmp_path / "store")), PICO)
        monkeypatch.undo()
        prepare(settings(films, tmp_path / "store"))
        assert same_rows(tmp_path / "store", store)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
    def test_a_disk_that_is_really_full(self, films: Path, store: Path, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=False).returncode:
            pytest.skip("a small file system cannot be mounted here")
        try:
            with pytest.raises(StoreError, match="the disk is full"):
                prepare(settings(films, disk / "store"))
            ClipStore.open(disk / "store")
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            prepare(settings(films, disk / "store"))
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
    tables = [
        lance.dataset(str(folder / "clips.lance")).to_table(scan_in_order=True, blob_handling="all_binary")
        for folder in (one, other)
    ]
    return bool(tables[0].equals(tables[1]))


class TestKill:
    def test_killed_at_any_moment_and_run_again_it_is_as_if_never_killed(
        self, mixed_films: Path, films: Path, tmp_path: Path
    ) -> None:
        for path in films.rglob("*.mp4"):
            shutil.copy(path, mixed_films)
        prepare(settings(mixed_films, tmp_path / "whole"))
        rows = []
        for moment in (0, 3, 6):  # commits, the empty table is one; 0: as soon as the folder is there
            start_and_kill(mixed_films, tmp_path / "store", commits=moment)
            rows.append(len(ClipStore.open(tmp_path / "store")) if moment else 0)
        assert rows == sorted(rows)
        assert 0 < rows[1] < rows[-1]  # it was stopped on its way, and each run went on
        prepare(settings(mixed_films, tmp_path / "store"))
        assert same_rows(tmp_path / "store", tmp_path / "whole")
        assert (tmp_path / "store/skipped.json").read_text() == (tmp_path / "whole/skipped.json").read_text()
        assert len(list((tmp_path / "store/clips.lance/data").iterdir())) <= 40

    def test_a_torn_line_of_the_journal_is_cut_off(self, mixed_films: Path, tmp_path: Path) -> None:
        first = prepare(settings(mixed_films, tmp_path / "store"))
        journal = tmp_path / "store/journal.jsonl"
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-20])
        again = prepare(settings(mixed_films, tmp_path / "store"))
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


def test_decoder_processes_load_neither_torch_nor_lance() -> None:
    # They start many times, and Lance keeps threads that a forked process would lack.
    code = (
        "import sys, cmmixer.data.clip_encoding; print([m for m in ('torch', 'lance', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
