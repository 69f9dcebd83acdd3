"""Data sets of clips: opened from media files or a store, cached in memory, and refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cmmixer.config.clip import ClipSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import CachedClips, MediaClips, StoreClips, open_clips
from cmmixer.data.loader import make_loader
from cmmixer.data.manifest import Entry
from cmmixer.data.prepare import prepare
from cmmixer.data.segments import Segment, training_spec
from cmmixer.data.store import ClipStore
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.storage.files import LOCK, lock_file
from cmmixer.types import Clip, Span
from tests.support.small_runs import PICO, FaultyClips, random_clips
from tests.support.small_stores import GEOMETRY, open_store, prepare_settings
from tests.support.small_videos import video


def open_videos(folder: Path) -> MediaClips:
    clips = open_clips(DataSettings(data=str(folder)), PICO, workers=1)
    assert isinstance(clips, MediaClips)
    return clips


class TestMediaClips:
    def test_a_folder_of_videos_is_opened_with_its_report(self, mixed_videos: Path) -> None:
        clips = open_videos(mixed_videos)
        assert len(clips) == len(clips.ids) == len(clips.sources) == len(clips.labels) == 8
        assert clips.skips.counts["not-media"] == 1
        clip = clips[0]
        assert clip.frames is not None
        assert clip.frames.pixels_THWC.shape == (2, 32, 32, 3)
        assert clip.frames.times_seconds_T.tolist() == [0.25, 0.75]
        assert clip.sound is not None
        assert clip.sound.samples_TN.shape == (2, 2000)

    def test_nothing_left_is_an_error_that_counts_the_reasons(self, tmp_path: Path) -> None:
        video(tmp_path / "videos/short.mp4", seconds=0.5)
        (tmp_path / "videos/notes.txt").write_text("x")
        with pytest.raises(DataError) as caught:
            open_videos(tmp_path / "videos")
        assert str(caught.value) == (
            f"{tmp_path}/videos: no video gives a clip of 1 s; 2 files left out: 1 too short, "
            "1 neither video nor audio by their ending"
        )

    def test_clips_that_cannot_be_decoded_are_returned_as_errors(self, tmp_path: Path) -> None:
        (tmp_path / "broken.mp4").write_bytes(b"not a video")
        good, broken = (
            Segment(Entry(str(path), path.name, path.stem, label="dog"), Span(0.0, 1.0))
            for path in (video(tmp_path / "good.mp4"), tmp_path / "broken.mp4")
        )
        clips = MediaClips([broken, good, broken], training_spec(PICO, None, 20.0))
        first, second, third = clips.read([0, 1, 2])
        assert isinstance(second, Clip)
        assert (second.id, second.label, clips.labels) == ("good.mp4#0.000-1.000", "dog", ["dog"] * 3)
        for error in (first, third):
            assert isinstance(error, MediaError)
            assert error.reason == "unreadable"
        with pytest.raises(MediaError, match=r"broken\.mp4: cannot be decoded"):
            clips[0]
        assert clips.skips.total == 0


class TestStoreClips:
    def test_a_split_has_its_own_rows(self, videos: Path, tmp_path: Path) -> None:
        rows = [f"{videos}/a/00.mp4,dog,train,one", f"{videos}/b/01.mp4,,gallery,two"]
        (tmp_path / "m.csv").write_text("\n".join(["path,label,split,source", *rows]))
        prepare(prepare_settings(tmp_path / "m.csv", tmp_path / "store"))
        store = ClipStore.open(tmp_path / "store")
        assert store.labels == ["dog", "dog", None, None, None]
        assert store.splits == ["train", "train", "gallery", "gallery", "gallery"]
        gallery = open_clips(DataSettings(data=str(tmp_path / "store"), split="gallery"), PICO)
        assert list(gallery.sources) == ["two", "two", "two"]
        assert gallery[0].id == store.ids[2]
        with pytest.raises(DataError) as caught:
            open_clips(DataSettings(data=str(tmp_path / "store"), split="test"), PICO)
        assert str(caught.value) == f"{tmp_path}/store: no clip of split 'test'; its splits: gallery, train"

    def test_a_store_without_splits_says_so(self, store: Path) -> None:
        with pytest.raises(DataError, match="no clip of split 'train'; its splits: none"):
            StoreClips(ClipStore.open(store), "train")

    def test_another_geometry_is_refused_by_name(self, store: Path) -> None:
        other = ClipSettings(**{**GEOMETRY, "frames": 4})
        with pytest.raises(StoreError) as caught:
            open_clips(DataSettings(data=str(store)), other)
        assert str(caught.value) == (
            f"{store}: the clip store was prepared differently: frames: got 4, holds 2; prepare another one"
        )
        with pytest.raises(StoreError, match=r"differently: stride_seconds: got 0\.25, holds 1"):
            open_clips(DataSettings(data=str(store), stride_seconds=0.25), PICO)
        assert len(open_clips(DataSettings(data=str(store), stride_seconds=1.0), PICO)) == 30

    def test_one_that_is_being_written_is_not_one_that_was_stopped(self, videos: Path, tmp_path: Path) -> None:
        prepare(prepare_settings(videos / "a", tmp_path / "store"))
        with lock_file(tmp_path / "store" / LOCK, StoreError("busy")):
            assert len(open_store(tmp_path / "store")) == 12  # complete, whatever is being added
            metadata = tmp_path / "store/store.json"
            metadata.write_text(metadata.read_text().replace('"complete": true', '"complete": false'))
            with pytest.raises(StoreError, match="a `prepare` is writing to it; wait until it has ended"):
                open_store(tmp_path / "store")
        with pytest.raises(StoreError, match="its `prepare` was stopped; run the same command again, it resumes"):
            open_store(tmp_path / "store")


def test_cached_clips_are_the_same_and_are_decoded_once() -> None:
    plain, dataset = random_clips(12), FaultyClips(12, broken={5})
    cached = CachedClips(dataset, max_bytes=10**9)
    for epoch in (0, 1, 2):
        got = list(make_loader(cached, batch_size=4, seed=1, epoch=epoch))
        want = list(make_loader(FaultyClips(12, broken={5}), batch_size=4, seed=1, epoch=epoch))
        assert [batch.ids for batch in got] == [batch.ids for batch in want]
        for mine, other in zip(got, want, strict=True):
            assert torch.equal(mine.video_BTCHW, other.video_BTCHW)
            assert torch.equal(mine.audio_BTN, other.audio_BTN)
    assert all(dataset.reads[index] == 1 for index in range(12) if index != 5)
    assert dataset.reads[5] == 3  # failures are not cached; each loader tries once
    clip = plain[0]
    assert clip.frames is not None
    assert clip.sound is not None
    size = clip.frames.pixels_THWC.nbytes + clip.sound.samples_TN.nbytes
    assert cached.cached_bytes == 11 * size
    assert cached.ids == plain.ids
    with pytest.raises(MediaError, match="damaged"):
        cached[5]


def test_the_cache_stays_within_its_limit() -> None:
    dataset = FaultyClips(10, broken=set())
    size = random_clips(1).video_NTCHW[0].nbytes + random_clips(1).audio_NTS[0].nbytes
    cached = CachedClips(dataset, max_bytes=3 * size + 1)
    for _ in range(2):
        assert [clip.id for clip in cached.read(range(10)) if isinstance(clip, Clip)] == [str(n) for n in range(10)]
    assert cached.cached_bytes == 3 * size
    assert sum(dataset.reads.values()) == 10 + 7
    # Twice the same clip in one request is decoded once.
    assert [clip.id for clip in cached.read([9, 9]) if isinstance(clip, Clip)] == ["9", "9"]
    assert dataset.reads[9] == 3
