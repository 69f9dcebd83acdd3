"""Places of clips in a video and of frames in a clip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmmixer.media.timeline import SLACK_SECONDS, clip_spans, even_spans, frame_instants
from cmmixer.types import Span

LENGTHS = st.floats(0.05, 500.0)


def test_instants_are_centers_of_equal_cells() -> None:
    np.testing.assert_allclose(frame_instants(Span(2.0, 6.0), 4), [2.5, 3.5, 4.5, 5.5])


@given(start=st.floats(0, 1e5), length=LENGTHS, frames=st.integers(1, 40))
def test_instants_are_inside_and_evenly_spaced(start: float, length: float, frames: int) -> None:
    instants = frame_instants(Span(start, start + length), frames)
    assert instants.shape == (frames,)
    assert (instants > start).all()
    assert (instants < start + length).all()
    np.testing.assert_allclose(np.diff(instants), length / frames, rtol=1e-6, atol=1e-9)
    assert instants.mean() == pytest.approx(start + length / 2)


def test_frame_instants_refuses_zero_frames() -> None:
    with pytest.raises(ValueError, match=r"^frames must be 1 or more; got 0$"):
        frame_instants(Span(0, 1), 0)


@pytest.mark.parametrize(
    ("duration", "options", "starts"),
    [
        (10.0, {}, [0.0, 4.0]),
        (10.0, {"cover_end": True}, [0.0, 4.0, 6.0]),
        (12.0, {"cover_end": True}, [0.0, 4.0, 8.0]),
        (3.98, {}, [0.0]),
        (3.9, {}, []),
        (0.0, {"keep_short": True}, []),
        (float("nan"), {}, []),
    ],
)
def test_clip_spans(duration: float, options: dict[str, bool], starts: list[float]) -> None:
    spans = clip_spans(duration, 4.0, 4.0, **options)
    assert [span.start_seconds for span in spans] == starts
    assert all(span.duration_seconds == pytest.approx(4.0) for span in spans)


def test_a_short_video_is_kept_on_request() -> None:
    assert clip_spans(1.5, 4.0, 4.0, keep_short=True) == [Span(0.0, 1.5)]


def test_clip_spans_may_overlap() -> None:
    assert [span.start_seconds for span in clip_spans(6.0, 4.0, 1.0)] == [0.0, 1.0, 2.0]


@given(duration=LENGTHS, clip=LENGTHS, stride=st.floats(0.5, 500.0), cover=st.booleans(), short=st.booleans())
def test_clips_lie_inside_the_video(duration: float, clip: float, stride: float, cover: bool, short: bool) -> None:
    spans = clip_spans(duration, clip, stride, cover_end=cover, keep_short=short)
    for number, span in enumerate(spans):
        assert span.start_seconds >= 0
        assert span.end_seconds <= max(duration, min(clip, duration + SLACK_SECONDS)) + SLACK_SECONDS + 1e-6
        if number + 1 < len(spans):
            assert spans[number + 1].start_seconds > span.start_seconds
    if cover and duration >= clip:
        assert spans[-1].end_seconds >= duration - SLACK_SECONDS - 1e-6
    if not cover and duration >= clip:
        assert spans[-1].start_seconds + stride + clip > duration - SLACK_SECONDS - 1e-6
    if short:
        assert spans


@pytest.mark.parametrize(("clip", "stride"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0)])
def test_clip_spans_refuses_lengths_that_are_not_positive(clip: float, stride: float) -> None:
    with pytest.raises(ValueError, match=r"^clip length and stride must be positive; got"):
        clip_spans(10.0, clip, stride)


def test_even_spans_reach_from_start_to_end() -> None:
    assert [span.start_seconds for span in even_spans(22.0, 4.0, 10)] == [
        0.0,
        2.0,
        4.0,
        6.0,
        8.0,
        10.0,
        12.0,
        14.0,
        16.0,
        18.0,
    ]
    spans = even_spans(5.0, 4.0, 3)  # they overlap where the video is short
    assert [(span.start_seconds, span.end_seconds) for span in spans] == [(0.0, 4.0), (0.5, 4.5), (1.0, 5.0)]
    assert even_spans(10.0, 4.0, 1) == [Span(3.0, 7.0)]  # one clip is the middle
    assert even_spans(4.0 - SLACK_SECONDS / 2, 4.0, 10) == [Span(0.0, 4.0)]
    assert even_spans(1.5, 4.0, 10) == [Span(0.0, 1.5)]
    assert even_spans(0.0, 4.0, 10) == []
    with pytest.raises(ValueError, match=r"^clip length must be positive and count 1 or more; got 0 clips of 4\.0 s$"):
        even_spans(10.0, 4.0, 0)
