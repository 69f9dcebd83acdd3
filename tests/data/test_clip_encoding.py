"""Encoding the clips of one file: JPEGs at full colour, a fingerprint of the content, and what a damaged clip costs."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cmmixer.data import clip_encoding
from cmmixer.data.clip_encoding import EncodedMedia, decode_jpeg, encode_entry, encode_jpeg
from cmmixer.data.manifest import Entry
from cmmixer.data.segments import Segment, SegmentSpec, decode_segment, training_spec
from cmmixer.errors import MediaError
from cmmixer.types import Clip, Span
from tests.support.small_runs import PICO
from tests.support.small_videos import sound, video

SPEC = training_spec(PICO, None, 20.0)


def encode(path: Path, **values: float) -> EncodedMedia:
    entry = Entry(str(path), path.name, path.stem, **values)  # type: ignore[arg-type]
    return encode_entry(entry, spec=SPEC, jpeg_quality=92)


def failing_at(start_seconds: float, reason: str) -> object:
    """A `decode_segment` that fails for the segment that starts there."""

    def decode(segment: Segment, spec: SegmentSpec) -> Clip:
        if segment.span.start_seconds == start_seconds:
            raise MediaError(segment.path, reason, "damaged")
        return decode_segment(segment, spec)

    return decode


class TestJpeg:
    def test_planes_are_what_pillow_decodes(self) -> None:
        pixels_HWC = np.random.default_rng(0).integers(0, 256, (24, 17, 3), np.uint8)
        jpeg = encode_jpeg(pixels_HWC, 90)
        planes = np.empty((3, 24, 17), np.uint8)
        decode_jpeg(jpeg, planes)
        assert np.array_equal(planes.transpose(1, 2, 0), np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")))

    def test_colour_keeps_its_full_resolution(self) -> None:
        # One red column on black: with halved colour it would bleed into its neighbours.
        pixels_HWC = np.zeros((16, 16, 3), np.uint8)
        pixels_HWC[:, 8] = (200, 0, 0)
        planes = np.empty((3, 16, 16), np.uint8)
        decode_jpeg(encode_jpeg(pixels_HWC, 98), planes)
        assert np.abs(planes.transpose(1, 2, 0).astype(int) - pixels_HWC).max() < 25
        assert len(encode_jpeg(pixels_HWC, 20)) < len(encode_jpeg(pixels_HWC, 98))

    @pytest.mark.parametrize("shape", [(3, 24, 16), (3, 23, 17), (2, 24, 17)])
    def test_a_frame_of_another_size_is_refused(self, shape: tuple[int, ...]) -> None:
        jpeg = encode_jpeg(np.zeros((24, 17, 3), np.uint8), 90)
        with pytest.raises(ValueError, match=r"could not broadcast|zip"):
            decode_jpeg(jpeg, np.empty(shape, np.uint8))

    def test_a_grey_or_damaged_jpeg_is_refused(self) -> None:
        planes: NDArray[np.uint8] = np.empty((3, 8, 8), np.uint8)
        grey = io.BytesIO()
        Image.new("L", (8, 8)).save(grey, format="JPEG")
        with pytest.raises(ValueError, match="got a JPEG of mode L, expected RGB"):
            decode_jpeg(grey.getvalue(), planes)
        with pytest.raises(OSError, match="cannot identify image file"):
            decode_jpeg(b"\x89PNG", planes)
        noise_HWC = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        with pytest.raises(OSError, match=r"[Tt]runcated"):
            decode_jpeg(encode_jpeg(noise_HWC, 90)[:700], np.empty((3, 64, 64), np.uint8))


class TestEncodeEntry:
    def test_clips_hold_what_training_from_the_file_decodes(self, tmp_path: Path) -> None:
        path = video(tmp_path / "a.mp4", seconds=2.0, seed=4)
        media = encode(path)
        assert [clip.id for clip in media.clips] == ["a.mp4#0.000-1.000", "a.mp4#1.000-2.000"]
        assert media.failure is None
        for clip in media.clips:
            direct = decode_segment(Segment(Entry(str(path), "a.mp4", "a"), clip.span), SPEC)
            assert direct.sound is not None
            assert direct.frames is not None
            assert clip.windows == direct.sound.samples_TN.astype("<i2").tobytes()
            assert clip.jpegs == [encode_jpeg(pixels_HWC, 92) for pixels_HWC in direct.frames.pixels_THWC]
            assert clip.times_seconds == direct.frames.times_seconds_T.tolist()
        jpeg_bytes = sum(len(jpeg) for clip in media.clips for jpeg in clip.jpegs)
        assert media.bytes == jpeg_bytes + 2 * 2 * 2 * PICO.window_samples

    def test_copies_have_one_fingerprint_in_any_container(self, tmp_path: Path) -> None:
        one = encode(video(tmp_path / "a.mp4", seed=1))
        (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
        assert encode(tmp_path / "b.mp4").fingerprint == one.fingerprint
        assert encode(video(tmp_path / "c.mp4", seed=2)).fingerprint != one.fingerprint
        assert encode(tmp_path / "a.mp4", end_seconds=1.0).fingerprint != one.fingerprint

    def test_loudness_is_that_of_the_loudest_window(self, tmp_path: Path) -> None:
        loud = encode(video(tmp_path / "a.mp4", amplitude=8000.0)).loudest_dbfs
        assert loud == pytest.approx(20 * math.log10(8000 / 32768 / math.sqrt(2)), abs=0.5)
        assert encode(video(tmp_path / "b.mp4", amplitude=0.0)).loudest_dbfs == -math.inf

    def test_a_damaged_clip_is_left_out_with_its_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = video(tmp_path / "a.mp4", seconds=3.0)
        monkeypatch.setattr(clip_encoding, "decode_segment", failing_at(1.0, "unreadable"))
        media = encode(path)
        assert [clip.span for clip in media.clips] == [Span(0.0, 1.0), Span(2.0, 3.0)]
        assert media.failure is not None
        assert str(media.failure) == f"{path}: damaged"

    @pytest.mark.parametrize("reason", ["time-limit", "no-video", "no-audio"])
    def test_some_errors_end_the_whole_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
    ) -> None:  # fmt: skip
        monkeypatch.setattr(clip_encoding, "decode_segment", failing_at(1.0, reason))
        with pytest.raises(MediaError) as caught:
            encode(video(tmp_path / "a.mp4", seconds=3.0))
        assert caught.value.reason == reason

    def test_a_file_whose_every_clip_is_damaged_raises_the_first_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = video(tmp_path / "a.mp4", seconds=1.0)
        monkeypatch.setattr(clip_encoding, "decode_segment", failing_at(0.0, "unreadable"))
        with pytest.raises(MediaError, match=r"a\.mp4: damaged"):
            encode(path)

    def test_files_without_both_modalities_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="has no audio stream, only video"):
            encode(video(tmp_path / "a.mp4", sound=False))
        with pytest.raises(MediaError, match="has no video stream, only audio"):
            encode(sound(tmp_path / "a.wav"))


def test_decoder_processes_load_neither_torch_nor_lance() -> None:
    # They start many times, and Lance keeps threads that a forked process would lack.
    modules = "cmmixer.data.clip_encoding, cmmixer.data.chunks"
    code = f"import sys, {modules}; print([m for m in ('torch', 'lance', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
