"""The path from a media file to segments: stretches, spans, missing modalities, and why an entry gives nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cmmixer.config.data import SILENCE_DBFS
from cmmixer.data.manifest import Entry, read_manifest
from cmmixer.data.segments import (
    Segment,
    SegmentSpec,
    decode_segment,
    is_silent,
    list_segments,
    open_entry,
    segments_of,
    spans_of,
    stretch_seconds,
    training_spec,
)
from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile, read_clip
from cmmixer.media.timeline import clip_spans, even_spans
from cmmixer.progress import NoProgress
from cmmixer.types import Span
from tests.support.small_runs import PICO
from tests.support.small_videos import sound, video

TRAINING = training_spec(PICO, None, 20.0)
EMBEDDING = SegmentSpec(PICO, 0.5)


class RecordedProgress:
    """Progress that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def start(self, total: int | None, what: str) -> None:
        self.calls.append((total, what))

    def advance(self, steps: int = 1) -> None:
        self.calls.append(steps)

    def message(self, text: str) -> None:
        self.calls.append(text)


def entry(path: Path, **values: float | str) -> Entry:
    return Entry(str(path), path.name, path.stem, **values)  # type: ignore[arg-type]


def bounds(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.span.start_seconds, segment.span.end_seconds) for segment in segments]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 3 s, one without audio, and audio files of 2 s and 1.5 s."""
    folder = tmp_path_factory.mktemp("media")
    video(folder / "both.mp4", seconds=3.0)
    video(folder / "silent.mp4", seconds=2.0, sound=False)
    sound(folder / "tone.wav", seconds=2.0)
    sound(folder / "short.wav", seconds=1.5)
    return folder


class TestSpans:
    STRETCH = Span(10.0, 13.25)

    def test_training_takes_full_clips_only(self) -> None:
        assert spans_of(self.STRETCH, TRAINING) == [Span(10.0, 11.0), Span(11.0, 12.0), Span(12.0, 13.0)]
        assert spans_of(Span(10.0, 10.5), TRAINING) == []

    def test_embedding_covers_the_end_and_keeps_what_is_short(self) -> None:
        spans = spans_of(self.STRETCH, EMBEDDING)
        assert [span.start_seconds for span in spans] == [10.0, 10.5, 11.0, 11.5, 12.0, 12.25]
        assert spans[-1].end_seconds == 13.25
        assert spans_of(Span(10.0, 10.5), EMBEDDING) == [Span(10.0, 10.5)]

    def test_spans_are_those_of_the_timeline_moved_to_the_stretch(self) -> None:
        for start, duration in ((0.0, 3.3), (1.7, 2.9), (7.1, 0.6)):
            stretch = Span(start, start + duration)
            for spec, expected in (
                (TRAINING, clip_spans(stretch.duration_seconds, 1.0, 1.0)),
                (EMBEDDING, clip_spans(stretch.duration_seconds, 1.0, 0.5, cover_end=True, keep_short=True)),
                (SegmentSpec(PICO, 1.0, even=4), even_spans(stretch.duration_seconds, 1.0, 4)),
            ):
                moved = [Span(start + span.start_seconds, start + span.end_seconds) for span in expected]
                assert spans_of(stretch, spec) == moved

    def test_a_training_spec_without_stride_puts_clips_end_to_end(self) -> None:
        assert TRAINING.stride_seconds == PICO.clip_seconds
        assert training_spec(PICO, 0.25, 20.0) == SegmentSpec(PICO, 0.25, file_seconds=20.0, full=True)

    def test_shots_and_even_spans_exclude_one_another(self) -> None:
        with pytest.raises(ValueError, match=r"cut at shots or spread evenly, not both; got shots=True, even=3"):
            SegmentSpec(PICO, 1.0, even=3, shots=True)


class TestStretch:
    def test_it_is_what_the_entry_names_within_the_file(self, media: Path) -> None:
        for values, expected in (
            ({}, (0.0, 3.0)),
            ({"start_seconds": 1.0}, (1.0, 3.0)),
            ({"end_seconds": 2.0}, (0.0, 2.0)),
            ({"start_seconds": 0.5, "end_seconds": 99.0}, (0.5, 3.0)),
        ):
            with open_entry(entry(media / "both.mp4", **values), 20.0) as opened:
                stretch = opened.stretch()
            assert (stretch.start_seconds, stretch.end_seconds) == pytest.approx(expected, abs=0.03)

    def test_it_ends_with_the_shorter_of_video_and_audio_file(self, media: Path) -> None:
        separate = entry(media / "both.mp4", audio_path=str(media / "short.wav"))
        with open_entry(separate, 20.0) as opened:
            assert opened.audio is not opened.video
            assert opened.stretch().end_seconds == pytest.approx(1.5, abs=0.03)
        with open_entry(entry(media / "both.mp4"), 20.0) as opened:
            assert opened.audio is opened.video

    def test_one_that_begins_after_the_end_is_too_short(self, media: Path) -> None:
        with (
            open_entry(entry(media / "tone.wav", start_seconds=9.0), 20.0) as opened,
            pytest.raises(MediaError, match=r"it lasts 2\.00 s, its stretch begins at 9\.00 s") as caught,
        ):
            opened.stretch()
        assert caught.value.reason == "too-short"

    def test_lengths_are_measured_without_decoding(self, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("frames", "audio_windows"):
            monkeypatch.setattr(MediaFile, name, lambda *_: pytest.fail("something was decoded"))
        entries = [
            entry(media / "both.mp4"),
            entry(media / "both.mp4", start_seconds=1.0, end_seconds=2.5),
            entry(media / "both.mp4", audio_path=str(media / "short.wav")),
            entry(media / "missing.mp4"),
            entry(media / "tone.wav", start_seconds=5.0),
        ]
        progress = RecordedProgress()
        seconds = stretch_seconds(entries, workers=1, file_seconds=20.0, progress=progress)
        assert seconds[:3] == pytest.approx([3.0, 1.5, 1.5], abs=0.03)
        assert seconds[3:] == [None, None]
        assert progress.calls == [1] * 5


class TestMissingModality:
    @pytest.mark.parametrize(
        ("name", "values", "reason"),
        [
            ("both.mp4", {"full": True}, None),
            ("silent.mp4", {"full": True}, "no-audio"),
            ("tone.wav", {"full": True}, "no-video"),
            ("silent.mp4", {"full": True, "audio": False}, None),
            ("tone.wav", {"full": True, "video": False}, None),
            ("silent.mp4", {}, None),
            ("tone.wav", {}, None),
            ("silent.mp4", {"video": False}, "no-audio"),
            ("tone.wav", {"audio": False}, "no-video"),
        ],
    )
    def test_training_needs_every_modality_and_embedding_any(
        self, media: Path, name: str, values: dict[str, bool], reason: str | None
    ) -> None:
        with open_entry(entry(media / name), 20.0) as opened:
            error = opened.missing_modality(SegmentSpec(PICO, 1.0, **values))  # type: ignore[arg-type]
        assert (error and error.reason) == reason

    def test_the_error_names_the_file_that_lacks_the_stream(self, media: Path) -> None:
        swapped = entry(media / "tone.wav", audio_path=str(media / "silent.mp4"))
        with open_entry(swapped, 20.0) as opened:
            training, embedding = opened.missing_modality(TRAINING), opened.missing_modality(EMBEDDING)
        assert str(training) == f"{media / 'tone.wav'}: has no video stream, only audio"
        assert str(embedding) == f"{media / 'silent.mp4'}: has no audio stream, only video"


class TestSegmentsOf:
    def opened(self, path: Path, spec: SegmentSpec, **values: float | str) -> list[Segment]:
        with open_entry(entry(path, **values), 20.0) as media:
            return segments_of(media, spec)

    def test_each_is_an_entry_with_a_span(self, media: Path) -> None:
        segments = self.opened(media / "both.mp4", TRAINING)
        assert bounds(segments) == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
        assert {segment.path for segment in segments} == {str(media / "both.mp4")}
        assert [segment.id for segment in segments][1] == "both.mp4#1.000-2.000"
        assert pickle.loads(pickle.dumps(segments)) == segments

    def test_a_stretch_shorter_than_a_clip_is_refused(self, media: Path) -> None:
        with pytest.raises(MediaError) as caught:
            self.opened(media / "both.mp4", TRAINING, start_seconds=2.5)
        assert caught.value.reason == "too-short"
        message = caught.value.message
        assert message.startswith("got 0.")
        assert message.endswith(" s in the stretch that is used, a clip takes 1 s")

    def test_a_file_that_is_too_short_and_silent_is_too_short(self, tmp_path: Path) -> None:
        path = video(tmp_path / "a.mp4", seconds=0.5, sound=False)
        with pytest.raises(MediaError, match=r"got 0\.50 s, a clip takes 1 s"):
            self.opened(path, TRAINING)

    def test_both_files_are_closed_even_if_the_second_cannot_be_opened(
        self, media: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[str] = []
        close = MediaFile.close
        monkeypatch.setattr(MediaFile, "close", lambda self: (closed.append(Path(self.info.path).name), close(self)))
        with pytest.raises(MediaError, match=r"gone\.wav: no such file"):
            self.opened(media / "both.mp4", TRAINING, audio_path=str(media / "gone.wav"))
        assert closed == ["both.mp4"]
        self.opened(media / "both.mp4", TRAINING, audio_path=str(media / "tone.wav"))
        assert closed == ["both.mp4", "tone.wav", "both.mp4"]


class TestDecodeSegment:
    def test_it_is_read_clip_with_the_fields_of_the_entry(self, media: Path) -> None:
        source = entry(media / "both.mp4", label="dog", audio_path=str(media / "tone.wav"), audio_name="tone.wav")
        segment = Segment(source, Span(0.5, 1.5))
        clip = decode_segment(segment, TRAINING)
        expected = read_clip(
            media / "both.mp4", Span(0.5, 1.5), PICO, id="-", source="-", audio_path=media / "tone.wav"
        )  # fmt: skip
        assert (clip.id, clip.source, clip.label) == ("both.mp4+tone.wav#0.500-1.500", "both", "dog")
        assert clip.frames is not None
        assert clip.sound is not None
        assert expected.frames is not None
        assert expected.sound is not None
        assert np.array_equal(clip.frames.pixels_THWC, expected.frames.pixels_THWC)
        assert np.array_equal(clip.sound.samples_TN, expected.sound.samples_TN)
        assert clip.frames.times_seconds_T.tolist() == [0.75, 1.25]

    def test_a_segment_is_the_same_in_any_order(self, media: Path) -> None:
        segments = [Segment(entry(media / "both.mp4"), Span(start, start + 1.0)) for start in (0.0, 1.0, 2.0)]
        forwards = [decode_segment(segment, TRAINING) for segment in segments]
        backwards = [decode_segment(segment, TRAINING) for segment in reversed(segments)][::-1]
        for one, other in zip(forwards, backwards, strict=True):
            assert np.array_equal(one.sound.samples_TN, other.sound.samples_TN)  # type: ignore[union-attr]
            assert np.array_equal(one.frames.pixels_THWC, other.frames.pixels_THWC)  # type: ignore[union-attr]

    def test_only_the_modalities_of_the_spec_are_decoded(self, media: Path) -> None:
        segment = Segment(entry(media / "silent.mp4"), Span(0.0, 1.0))
        assert decode_segment(segment, SegmentSpec(PICO, 1.0, audio=False)).sound is None
        with pytest.raises(MediaError, match="has no audio stream"):
            decode_segment(segment, TRAINING)


class TestListSegments:
    def test_videos_are_cut_into_full_clips(self, videos: Path) -> None:
        progress = RecordedProgress()
        segments, skips = list_segments(read_manifest(videos), TRAINING, workers=1, progress=progress)
        assert len(segments) == 6 * 2 + 6 * 3
        assert [segment.id for segment in segments[:3]] == [
            "a/00.mp4#0.000-1.000",
            "a/00.mp4#1.000-2.000",
            "a/02.mp4#0.000-1.000",
        ]
        assert segments[0].entry.source == "a/00"
        assert skips.total == 0
        assert progress.calls == [(12, "opening videos"), *[1] * 12]

    def test_every_reason_is_reported(self, mixed_videos: Path) -> None:
        os.mkfifo(mixed_videos / "pipe.mp4")
        sound(mixed_videos / "only sound.wav")
        segments, skips = list_segments(read_manifest(mixed_videos), TRAINING, workers=1)
        assert {Path(segment.path).name for segment in segments} == {
            "copy.mp4",
            "good one.mp4",
            "good two.mp4",
            "still.mp4",
        }
        assert {Path(skip.path).name: skip.reason for skip in skips} == {
            "folder.mp4": "not-a-file",
            "gone.mp4": "not-a-file",
            "no sound.mp4": "no-audio",
            "nothing.mp4": "empty",
            "only sound.wav": "no-video",
            "pipe.mp4": "not-a-file",
            "short.mp4": "too-short",
            "text.mp4": "unreadable",
        }

    @pytest.mark.parametrize(("modality", "source"), [("audio", "silent"), ("video", "tone")])
    def test_a_file_with_one_modality_suffices_for_that_one(self, media: Path, modality: str, source: str) -> None:
        spec = SegmentSpec(PICO, 1.0, full=True, **{modality: False})  # type: ignore[arg-type]
        entries = [entry(media / "silent.mp4"), entry(media / "tone.wav")]
        segments, skips = list_segments(entries, spec, workers=1)
        assert [segment.entry.source for segment in segments] == [source, source]
        assert [skip.reason for skip in skips] == [f"no-{'video' if modality == 'audio' else 'audio'}"]

    def test_stretches_strides_and_separate_audio_files(self, tmp_path: Path) -> None:
        video(tmp_path / "f.mp4", seconds=5.0)
        sound(tmp_path / "short.wav", seconds=2.0)
        rows = ["f.mp4,1.5,4,", "f.mp4,4.5,9,", "f.mp4,,,short.wav", "f.mp4,,,gone.wav", "f.mp4,1.5,4,"]
        (tmp_path / "m.csv").write_text("\n".join(["path,start_seconds,end_seconds,audio_path", *rows]))
        entries = read_manifest(tmp_path / "m.csv")
        segments, skips = list_segments(entries, training_spec(PICO, 0.5, 20.0), workers=2)
        own_audio = [segment for segment in segments if segment.entry.audio_path is None]
        assert bounds(own_audio) == [(1.5, 2.5), (2.0, 3.0), (2.5, 3.5), (3.0, 4.0)]
        # An audio file that ends early ends the clips: later ones would be paired with padding.
        separate = [segment for segment in segments if segment.entry.audio_path is not None]
        assert [segment.span.start_seconds for segment in separate] == [0.0, 0.5, 1.0]
        assert [(Path(skip.path).name, skip.reason) for skip in skips] == [
            ("f.mp4", "too-short"),
            ("gone.wav", "missing"),
            ("f.mp4", "duplicate"),
        ]

    def test_overlapping_stretches_share_their_segments(self, media: Path) -> None:
        both = media / "both.mp4"
        entries = [entry(both, end_seconds=2.0), entry(both, start_seconds=1.0)]
        segments, skips = list_segments(entries, TRAINING, workers=1)
        assert bounds(segments) == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
        assert skips.total == 0

    def test_no_entries_give_no_segments(self) -> None:
        assert list_segments([], TRAINING, workers=1, progress=NoProgress())[0] == []


def test_silence_is_below_the_threshold() -> None:
    assert SILENCE_DBFS == -60.0
    assert [is_silent(loudness) for loudness in (-np.inf, -60.1, -60.0, -59.9, 0.0)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert is_silent(-20.0, threshold_dbfs=-10.0)
    assert not is_silent(-np.inf, threshold_dbfs=-np.inf)  # everything is loud enough


def test_entries_travel_to_decoder_processes() -> None:
    original = Entry("a.mp4", "a.mp4", source="a", extra={"licence": "CC BY"})
    assert pickle.loads(pickle.dumps(original)) == original
    assert pickle.loads(pickle.dumps(EMBEDDING)) == EMBEDDING
