"""Cuts are found where they are, and moments never cross one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmmixer.data import chunks as chunks_module
from cmmixer.data.chunks import Chunk, decode_chunk
from cmmixer.data.segments import SegmentSpec
from cmmixer.embedding.pipeline import file_entry
from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile
from cmmixer.media.encode import write_video
from cmmixer.media.shots import MIN_SHOT_SECONDS, detect_cuts
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, sound, video

COLOURS = [RED, GREEN, BLUE]


def cuts(path: Path, start: float = 0.0, end: float = 100.0) -> list[float]:
    with MediaFile.open(path) as opened:
        return detect_cuts(opened, start, end)


def test_cuts_are_found_where_they_are(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", [RED, GREEN, BLUE, RED], seconds_each=2.5)
    assert cuts(path) == pytest.approx([2.5, 5.0, 7.5])
    assert cuts(path, 2.5, 7.5) == pytest.approx([5.0])  # neither the cut it starts at nor the one it ends at
    assert cuts(path, 3.1, 6.0) == pytest.approx([5.0])


def test_slow_changes_and_flashes_are_not_cuts(tmp_path: Path) -> None:
    ramp = np.linspace(30, 220, 80).astype(np.uint8)
    slow = np.broadcast_to(ramp[:, None, None, None], (80, 32, 32, 3)).copy()
    write_video(tmp_path / "slow.mp4", slow, 8.0, None, 16000)
    assert cuts(tmp_path / "slow.mp4") == []
    flash = np.full((80, 32, 32, 3), 40, np.uint8)
    flash[40:42] = 220
    write_video(tmp_path / "flash.mp4", flash, 8.0, None, 16000)
    assert cuts(tmp_path / "flash.mp4") == pytest.approx([5.0])  # its end, a quarter of a second later, does not count


def test_audio_has_no_shots(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="has no video stream, only audio"):
        cuts(sound(tmp_path / "a.wav", [RED]))


def moments(path: Path, number: int = 0) -> list[tuple[float, float]]:
    cut = SegmentSpec(CLIP, 0.5, shots=True)
    return [
        (round(span.start_seconds, 3), round(span.end_seconds, 3))
        for span in decode_chunk(Chunk(0, file_entry(path), number), cut).spans
    ]


def test_moments_stay_within_a_shot(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", [RED, GREEN, BLUE], seconds_each=1.25)
    shot = [(0.0, 1.0), (0.25, 1.25)]
    assert moments(path) == [
        (round(start + begin, 3), round(end + begin, 3)) for begin in (0.0, 1.25, 2.5) for start, end in shot
    ]
    short = video(tmp_path / "b.mp4", [RED, GREEN], seconds_each=0.625)  # shots shorter than a clip
    assert moments(short) == [(0.0, 0.625), (0.625, 1.25)]
    assert moments(sound(tmp_path / "c.wav", [RED, GREEN])) == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]


@pytest.mark.parametrize("stretch", [1.0, 1.7, 2.0, 3.3])
def test_moments_cover_a_video_and_cross_no_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: float
) -> None:
    path = video(tmp_path / "a.mp4", [COLOURS[place % 3] for place in range(9)], seconds_each=1.125)
    edges = [1.125 * place for place in range(10)]
    monkeypatch.setattr(chunks_module, "_SHOT_STRETCH_SECONDS", stretch)
    first = decode_chunk(Chunk(0, file_entry(path)), SegmentSpec(CLIP, 0.5, shots=True))
    assert first.remaining == list(range(1, len(first.remaining) + 1))
    spans = sorted({span for number in (0, *first.remaining) for span in moments(path, number)})
    for start, end in spans:
        shot = int(np.searchsorted(edges, start + 1e-3)) - 1
        assert edges[shot] - 1e-3 <= start < end <= edges[shot + 1] + 1e-3
        assert end - start >= MIN_SHOT_SECONDS
    # Every instant of the video lies in a moment.
    for instant in np.arange(0.05, edges[-1] - 0.05, 0.05):
        assert any(start <= instant <= end for start, end in spans), instant


def test_cuts_of_real_videos(real_media: Path) -> None:
    edited, take = (
        real_media / "films" / "MichaelFerrari_7d92bb61_00.mp4",
        real_media / "films" / "auzxb_a9686df8_00.mp4",
    )
    assert len(cuts(edited)) >= 5
    assert cuts(take) == []
