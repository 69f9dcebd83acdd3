"""Playback: the file itself, or a conversion that every browser plays, cached and in sync with the file."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from cmmixer.media.decode import AudioStreamInfo, MediaFile, MediaInfo, VideoStreamInfo
from cmmixer.media.thumbnails import InfoTask
from cmmixer.server.client import Client
from cmmixer.server.playback import PlayableFile, Playbacks, plays_in_browsers
from tests.support.coloured_videos import BLUE, GREEN, RED
from tests.support.exotic_formats import SOUNDS, VIDEOS, exotic_sound, exotic_video, heard_tones, seen_colors
from tests.support.service import API, NO_ID, StartService, items, make_index, problem, service_of, upload

STRIPES = [RED, GREEN, BLUE, GREEN]
ORDER = [0, 1, 2, 1]


def _playback(client: TestClient, address: str, **parameters: Any) -> dict[str, Any]:
    response = client.get(f"{API}/{address}/playback", params=parameters)
    assert response.status_code == 200, response.text
    playback: dict[str, Any] = response.json()
    return playback


def _saved(client: TestClient, media: str, path: Path) -> Path:
    response = client.get(media)
    assert response.status_code == 200
    path.write_bytes(response.content)
    return path


@pytest.mark.parametrize("kind", VIDEOS)
def test_exotic_video_is_converted_in_sync(shared_client: TestClient, tmp_path: Path, kind: str) -> None:
    """Uploaded without an ending, because the name of a file says nothing about its format."""
    path = exotic_video(tmp_path / "raw", STRIPES, kind)
    query = upload(shared_client, path)["id"]
    playback = _playback(shared_client, f"queries/{query}", modality="video")
    assert (playback["converted"], playback["start_seconds"]) == (True, 0.0)
    response = shared_client.get(playback["media"])
    assert response.headers["content-type"] == "video/mp4"
    converted = _saved(shared_client, playback["media"], tmp_path / "converted.mp4")
    with MediaFile.open(converted) as written:
        assert written.info.video is not None
        assert written.info.audio is not None
        assert (written.info.video.codec, written.info.video.pixel_format, written.info.audio.codec) == (
            "h264",
            "yuv420p",
            "aac",
        )
        assert written.info.duration_seconds == pytest.approx(4.0, abs=0.15)
        assert plays_in_browsers(written.info, "video")
    near_edges = [0.1, 0.9, 1.1, 1.9, 2.1, 2.9, 3.1]
    assert seen_colors(converted, near_edges) == seen_colors(path, near_edges) == [0, 0, 1, 1, 2, 2, 1]
    inside = [0.5, 1.5, 2.5, 3.5]
    assert heard_tones(converted, inside) == heard_tones(path, inside) == ORDER
    only = _playback(shared_client, f"queries/{query}", modality="audio", convert=True)
    heard = _saved(shared_client, only["media"], tmp_path / "heard.mp4")
    with MediaFile.open(heard) as written:
        assert written.info.video is None
    assert heard_tones(heard, inside) == ORDER


@pytest.mark.parametrize("kind", SOUNDS)
def test_exotic_audio_is_converted(shared_client: TestClient, tmp_path: Path, kind: str) -> None:
    query = upload(shared_client, exotic_sound(tmp_path / f"odd.{kind}", STRIPES, kind))["id"]
    playback = _playback(shared_client, f"queries/{query}", modality="audio", seconds=3.0)
    assert (playback["converted"], playback["start_seconds"]) == (True, 0.0)
    assert (
        heard_tones(_saved(shared_client, playback["media"], tmp_path / "converted.mp4"), [0.5, 1.5, 2.5, 3.5]) == ORDER
    )
    problem(shared_client.get(f"{API}/queries/{query}/playback", params={"modality": "video"}), 422, "missing-modality")


def test_playable_files_are_not_converted(shared_client: TestClient, tmp_path: Path) -> None:
    listed = items(shared_client)
    for name, modality in (("videos/mixed.mp4", "video"), ("videos/mixed.mp4", "audio"), ("sounds/green.wav", "audio")):
        playback = _playback(shared_client, f"items/{listed[name]['id']}", modality=modality, seconds=2.0)
        assert (playback["converted"], playback["start_seconds"]) == (False, 0.0)
        assert playback["media"] == f"{API}/items/{listed[name]['id']}/media?modality={modality}"
        assert shared_client.get(playback["media"]).status_code == 200
    # Unless the browser has tried and failed.
    forced = _playback(shared_client, f"items/{listed['videos/mixed.mp4']['id']}", modality="video", convert=True)
    assert forced["converted"]
    converted = _saved(shared_client, forced["media"], tmp_path / "converted.mp4")
    assert seen_colors(converted, [1.0, 4.0, 7.0]) == [1, 2, 1]


@pytest.mark.parametrize(
    ("container", "video_codec", "pixel_format", "audio_codec", "modality", "plays"),
    [
        ("mov,mp4,m4a,3gp,3g2,mj2", "h264", "yuv420p", "aac", "video", True),
        ("mov,mp4,m4a,3gp,3g2,mj2", "h264", "yuv420p", None, "video", True),
        ("mov,mp4,m4a,3gp,3g2,mj2", "h264", "yuv422p10le", "aac", "video", False),
        ("mov,mp4,m4a,3gp,3g2,mj2", "h264", "yuv420p", "ac3", "video", False),
        ("mov,mp4,m4a,3gp,3g2,mj2", "hevc", "yuv420p", "aac", "video", False),
        ("mov,mp4,m4a,3gp,3g2,mj2", "hevc", "yuv420p", "aac", "audio", True),
        ("matroska,webm", "vp9", "yuv420p", "opus", "video", True),
        ("matroska,webm", "ffv1", "yuv420p", "flac", "video", False),
        ("flac", None, "", "flac", "audio", True),
        ("wav", None, "", "pcm_s16le", "audio", True),
        ("wav", None, "", "pcm_s32le", "audio", False),
        ("avi", "mjpeg", "yuvj420p", "pcm_s16le", "video", False),
    ],
)
def test_plays_in_browsers(
    container: str, video_codec: str | None, pixel_format: str, audio_codec: str | None, modality: str, plays: bool
) -> None:
    video = None if video_codec is None else VideoStreamInfo(64, 64, 1.0, 25.0, video_codec, pixel_format)
    audio = None if audio_codec is None else AudioStreamInfo(48000, 2, audio_codec)
    assert plays_in_browsers(MediaInfo("x", 1.0, video, audio, container), modality) is plays


AVI = MediaInfo(
    "x", 0.0, VideoStreamInfo(64, 64, 1.0, 25.0, "mpeg4", "yuv420p"), AudioStreamInfo(48000, 2, "mp2"), "avi"
)
MP4 = MediaInfo("x", 0.0, VideoStreamInfo(64, 64, 1.0, 25.0, "h264", "yuv420p"), None, "mov,mp4")


@pytest.mark.parametrize(
    ("info", "duration", "modality", "seconds", "always", "start"),
    [
        (MP4, 5000.0, "video", 42.0, False, None),
        (MP4, 50.0, "video", 42.0, True, 0.0),
        (AVI, 60.0, "video", 59.0, False, 0.0),
        (AVI, 60.1, "video", 59.0, False, 40.0),
        (AVI, 5000.0, "video", 0.0, False, 0.0),
        (AVI, 5000.0, "video", 19.9, False, 0.0),
        (AVI, 5000.0, "video", 20.0, False, 10.0),
        (AVI, 5000.0, "video", 42.0, False, 30.0),
        (AVI, 5000.0, "video", 9000.0, False, 4990.0),
        (AVI, 1800.0, "audio", 1700.0, False, 0.0),
        (AVI, 1800.1, "audio", 1700.0, False, 1690.0),
    ],
)
def test_conversion_start_is_on_a_grid(
    info: MediaInfo, duration: float, modality: str, seconds: float, always: bool, start: float | None
) -> None:
    playbacks = Playbacks(None, None, None, 60.0)  # type: ignore[arg-type]
    file = PlayableFile("/x", "content", "x", dataclasses.replace(info, duration_seconds=duration))
    assert playbacks.conversion_start(file, modality, seconds, always) == start


def test_streams_of_a_file_are_read_once() -> None:
    calls = []

    def run(work: object, task: InfoTask, *, seconds: float) -> MediaInfo:
        calls.append((task, seconds))
        return dataclasses.replace(AVI, duration_seconds=5.0)

    playbacks = Playbacks(None, SimpleNamespace(run=run), None, 60.0)  # type: ignore[arg-type]
    for content_key in ("one", "one", "two"):
        assert playbacks.conversion_start(PlayableFile("/x", content_key, "x"), "video", 0.0, False) == 0.0
    assert calls == [(InfoTask("/x", 60.0), 60.0)] * 2


def test_conversion_is_cached_and_served_in_ranges(start_service: StartService, tmp_path: Path) -> None:
    data = tmp_path / "data"
    exotic_video(data / "a.avi", STRIPES, "avi")
    client = start_service(make_index(data, tmp_path / "index"))
    item = items(client)["a.avi"]["id"]
    playback = _playback(client, f"items/{item}", modality="video")
    whole = client.get(playback["media"])
    part = client.get(playback["media"], headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    (cached,) = (tmp_path / "previews").rglob("*.mp4")
    assert cached.read_bytes() == whole.content
    # Another service reads the cache: the file cannot be decoded any more.
    (data / "a.avi").write_bytes(bytes(1000))
    again = start_service(tmp_path / "index")
    assert again.get(playback["media"]).content == whole.content
    # A start that is not on the grid means the part that contains it.
    assert again.get(playback["media"].replace("start_seconds=0", "start_seconds=3")).content == whole.content
    (data / "a.avi").unlink()
    problem(again.get(playback["media"]), 410, "gone")
    problem(again.get(f"{API}/items/{item}/playback"), 410, "gone")


def test_long_video_is_converted_around_the_moment(
    start_service: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmmixer.server.playback._WHOLE_SECONDS", {"video": 20.0, "audio": 1800.0})
    colours = [RED] * 20 + [BLUE] * 5 + [GREEN] * 8
    query_video = exotic_video(tmp_path / "long.avi", colours, "avi")
    client = start_service()
    query = upload(client, query_video)["id"]
    playback = _playback(client, f"queries/{query}", modality="video", seconds=22.0)
    assert (playback["converted"], playback["start_seconds"]) == (True, 10.0)
    converted = _saved(client, playback["media"], tmp_path / "converted.mp4")
    assert seen_colors(converted, [1.0, 9.8, 10.2, 14.8, 15.2, 22.0]) == [0, 0, 2, 2, 1, 1]
    assert heard_tones(converted, [1.0, 9.5, 10.5, 14.5, 15.5, 22.0]) == [0, 0, 2, 2, 1, 1]
    assert _playback(client, f"queries/{query}", modality="video", seconds=5.0)["start_seconds"] == 0.0
    assert _playback(client, f"queries/{query}", modality="video", seconds=9000.0)["start_seconds"] == 20.0


def test_unplayable_files_are_reported(shared_client: TestClient, start_service: StartService, tmp_path: Path) -> None:
    problem(shared_client.get(f"{API}/items/{NO_ID}/playback"), 404, "not-found")
    problem(shared_client.get(f"{API}/queries/{NO_ID}/converted"), 404, "not-found")
    data = tmp_path / "data"
    exotic_video(data / "a.avi", STRIPES, "avi")
    client = start_service(make_index(data, tmp_path / "index"))
    item = items(client)["a.avi"]["id"]
    (data / "a.avi").write_bytes(b"RIFF, but not for long")
    body = problem(client.get(f"{API}/items/{item}/playback"), 422, "unusable-media")
    assert body["detail"].startswith("a.avi: cannot be decoded")
    assert not list((tmp_path / "previews").rglob("*.mp4"))


def test_too_many_waiting_conversions_are_refused(start_service: StartService, tmp_path: Path) -> None:
    client = start_service()
    query = upload(client, exotic_sound(tmp_path / "a.aiff", [RED], "aiff"))["id"]
    waiting = service_of(client).playbacks._waiting
    held = 0
    while waiting.acquire(blocking=False):
        held += 1
    response = client.get(f"{API}/queries/{query}/playback", params={"modality": "audio"})
    problem(response, 503, "busy")
    assert response.headers["retry-after"] == "10"
    for _ in range(held):
        waiting.release()
    assert _playback(client, f"queries/{query}", modality="audio")["converted"]


def test_client_asks_for_playback(shared_client: TestClient) -> None:
    with Client("http://127.0.0.1", transport=shared_client._transport) as client:
        item = next(item for item in client.items() if item.name == "videos/red.mp4")
        assert not client.playback(item.id).converted
        assert client.playback(item.id, modality="audio", convert=True).converted


@pytest.mark.data
def test_hostile_files_are_converted_or_refused(start_service: StartService, real_media: Path) -> None:
    """Every file that is accepted as a query can be converted, or is refused with a reason."""
    client = start_service(convert_seconds=20.0)
    began, seen = time.monotonic(), {"converted": 0, "refused": 0}
    for path in sorted((real_media / "hostile").glob("*/*"))[::8]:
        if not path.is_file() or not path.stat().st_size:
            continue
        response = client.post(f"{API}/queries", params={"name": path.name}, content=path.read_bytes())
        if response.status_code != 201:
            continue
        query = response.json()
        modality = "video" if query["has_video"] else "audio"
        response = client.get(f"{API}/queries/{query['id']}/playback", params={"modality": modality, "convert": True})
        if response.status_code == 200:
            part = client.get(response.json()["media"], headers={"range": "bytes=0-99"})
            assert (part.status_code, len(part.content)) == (206, 100)
            seen["converted"] += 1
        else:
            body = problem(response, 422, "unusable-media")
            assert "/tmp" not in body["detail"]
            seen["refused"] += 1
    assert seen["converted"] >= 15
    assert seen["refused"] <= 2, seen
    assert time.monotonic() - began < 300
