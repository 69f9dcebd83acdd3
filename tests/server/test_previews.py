"""Thumbnails and waveforms: of the requested time, cached by content, within the size of the cache."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from cmmixer.errors import MediaError
from cmmixer.media.thumbnails import PeaksTask, ThumbnailTask, envelope
from cmmixer.server.cache import Cache
from cmmixer.server.previews import Previews
from cmmixer.server.problems import ProblemError
from tests.support.coloured_videos import BLUE, RED, sound, video
from tests.support.service import API, StartService, items, make_data, make_index, problem, service_of, upload


def test_thumbnail_shows_the_requested_second(shared_client: TestClient) -> None:
    mixed = items(shared_client)["videos/mixed.mp4"]["id"]
    for seconds, strongest in ((1.0, 1), (4.0, 2), (7.0, 1)):
        response = shared_client.get(f"{API}/items/{mixed}/thumbnail", params={"seconds": seconds})
        assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
        pixels = np.asarray(Image.open(io.BytesIO(response.content)))
        assert pixels.shape == (270, 480, 3)
        assert pixels.mean((0, 1)).argmax() == strongest
    sounds = items(shared_client)["sounds/green.wav"]["id"]
    problem(shared_client.get(f"{API}/items/{sounds}/thumbnail"), 422, "missing-modality")


def test_peaks_match_the_samples(shared_client: TestClient, tmp_path: Path) -> None:
    half = upload(shared_client, sound(tmp_path / "half.wav", [RED, (0.0, 0.0, 0.0)]))
    peaks = shared_client.get(f"{API}/queries/{half['id']}/peaks", params={"bins": 4}).json()
    assert peaks["high"] == pytest.approx([31, 31, 0, 0], abs=1)  # the tone's amplitude is 8000 of 32768: 31 of 127
    assert peaks["low"] == pytest.approx([-31, -31, 0, 0], abs=1)
    mixed = items(shared_client)["videos/mixed.mp4"]["id"]
    part = shared_client.get(
        f"{API}/items/{mixed}/peaks", params={"start_seconds": 2, "end_seconds": 4, "bins": 50}
    ).json()
    assert (part["start_seconds"], part["end_seconds"], len(part["low"])) == (2.0, 4.0, 50)
    assert min(part["high"]) > 20
    mute = items(shared_client)["videos/mute.mp4"]["id"]
    problem(shared_client.get(f"{API}/items/{mute}/peaks"), 422, "missing-modality")
    problem(shared_client.get(f"{API}/items/{mixed}/peaks", params={"start_seconds": 90}), 416, "out-of-range")


def test_previews_are_cached_by_content(
    tmp_path: Path, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "data")
    make_index(data, tmp_path / "library")
    client = start_service(tmp_path / "library")
    red = items(client)["videos/red.mp4"]["id"]
    first = client.get(f"{API}/items/{red}/thumbnail").content
    cached = [path for path in (tmp_path / "previews").rglob("*") if path.is_file()]
    assert len(cached) == 1
    assert cached[0].read_bytes() == first
    # Another service reads it from there without opening the video, which cannot be decoded any more.
    (data / "videos" / "red.mp4").write_bytes(b"nothing that can be decoded")
    assert start_service(tmp_path / "library").get(f"{API}/items/{red}/thumbnail").content == first
    video(data / "videos" / "red.mp4", [BLUE] * 3)
    make_index(data, tmp_path / "library")
    changed = start_service(tmp_path / "library").get(f"{API}/items/{red}/thumbnail").content
    assert np.asarray(Image.open(io.BytesIO(changed))).mean((0, 1)).argmax() == 2


def test_prune_removes_the_oldest_files(start_service: StartService, tmp_path: Path) -> None:
    client = start_service(cache_mb=1)
    folder = tmp_path / "previews" / "00"
    folder.mkdir(parents=True)
    for number in range(30):
        path = folder / f"{number:02d}.jpg"
        path.write_bytes(bytes(100_000))
        os.utime(path, (number, number))
    service_of(client).cache.prune()
    left = sorted(path.name for path in folder.iterdir())
    assert left == [f"{number:02d}.jpg" for number in range(20, 30)]


@pytest.mark.parametrize(("count", "bins"), [(1000, 7), (1000, 1000), (5, 12), (1, 3), (16, 4)])
def test_envelope_is_the_extremes_of_equal_parts(count: int, bins: int) -> None:
    samples = np.random.default_rng(count).integers(-32768, 32767, count).astype(np.int16)
    low, high = envelope(samples, bins)
    for bin_number in range(bins):
        first = min(int(bin_number * (count / bins)), count - 1)
        last = max(first + 1, int((bin_number + 1) * (count / bins))) if bin_number < bins - 1 else count
        part = samples[first:last].astype(float)
        assert low[bin_number] == round(part.min() * 127 / 32768)
        assert high[bin_number] == round(part.max() * 127 / 32768)


class CountingPool:
    """Stands in for the decoder processes: calls a function here, and remembers the tasks."""

    def __init__(self, result: Callable[[Any], Any]) -> None:
        self.result = result
        self.tasks: list[Any] = []

    def run(self, work: object, task: Any, *, seconds: float) -> Any:
        assert seconds == 7.0
        self.tasks.append(task)
        return self.result(task)


def _previews(folder: Path, result: Callable[[Any], Any]) -> tuple[Previews, CountingPool]:
    pool = CountingPool(result)
    return Previews(Cache(folder, 1), pool, 7.0), pool  # type: ignore[arg-type]


def test_close_times_share_a_thumbnail(tmp_path: Path) -> None:
    previews, pool = _previews(tmp_path, lambda task: f"frame at {task.seconds:.1f}".encode())
    frames = [previews.thumbnail("cut.mp4", "content", seconds, "cut.mp4") for seconds in (1.0, 1.04, 0.96, 1.06)]
    assert frames == [b"frame at 1.0"] * 3 + [b"frame at 1.1"]
    assert [task.seconds for task in pool.tasks] == pytest.approx([1.0, 1.1])
    assert pool.tasks[0] == ThumbnailTask("cut.mp4", 1.0, 270, 480, 7.0)
    # Another content is another thumbnail, whatever the path is.
    previews.thumbnail("cut.mp4", "other content", 1.0, "cut.mp4")
    previews.thumbnail("moved.mp4", "content", 1.0, "moved.mp4")
    assert len(pool.tasks) == 3


def test_peaks_are_cached_by_span_and_bins(tmp_path: Path) -> None:
    previews, pool = _previews(tmp_path, lambda task: ([-task.bins], [task.bins]))
    first = previews.peaks("a.wav", "content", 1.0, 3.0, 5, "a.wav")
    assert (first.start_seconds, first.end_seconds, first.low, first.high) == (1.0, 3.0, [-5], [5])
    assert previews.peaks("a.wav", "content", 1.0, 3.0, 5, "a.wav") == first
    assert pool.tasks == [PeaksTask("a.wav", 1.0, 3.0, 5, 7.0)]
    previews.peaks("a.wav", "content", 1.0, 3.0, 6, "a.wav")
    previews.peaks("a.wav", "content", 1.0, 3.001, 5, "a.wav")
    assert len(pool.tasks) == 3


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.0), (3.0, 2.0), (0.0, 0.009), (0.0, 1800.1)])
def test_peaks_of_an_impossible_span_are_refused(tmp_path: Path, start: float, end: float) -> None:
    previews, pool = _previews(tmp_path, lambda task: ([0], [0]))
    with pytest.raises(ProblemError) as error:
        previews.peaks("a.wav", "content", start, end, 5, "a.wav")
    assert error.value.kind == "out-of-range"
    assert error.value.detail == (
        f"a.wav: got {start:g} .. {end:g} s, expected a span of 0.01 to 1800 s inside the file"
    )
    assert pool.tasks == []


@pytest.mark.parametrize(("reason", "kind"), [("no-video", "missing-modality"), ("crashed", "unusable-media")])
def test_previews_that_cannot_be_made_are_not_cached(tmp_path: Path, reason: str, kind: str) -> None:
    def fail(task: ThumbnailTask) -> bytes:
        raise MediaError(task.path, reason, "the message")

    previews, pool = _previews(tmp_path, fail)
    for _ in range(2):
        with pytest.raises(ProblemError) as error:
            previews.thumbnail("/private/cut.mp4", "content", 0.0, "cut.mp4")
        assert (error.value.kind, error.value.detail) == (kind, "cut.mp4: the message")
    assert len(pool.tasks) == 2
