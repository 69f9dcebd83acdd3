"""What a page plays: the file itself, or a version that any browser plays, made once, in time with the file."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from cmmixer.errors import MediaError
from cmmixer.media.decode import Film, FilmInfo, PictureInfo, SoundInfo
from cmmixer.server import transcode
from cmmixer.server.client import Client
from cmmixer.server.playback import plays_as_it_is
from cmmixer.server.transcode import FORMATS, ConversionTask, convert, format_here
from tests.server.conftest import API, Served, items, make_index, problem, upload
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder
from tests.support.counting_videos import write
from tests.support.exotic_formats import FILMS, SOUNDS, exotic_film, exotic_sound

STRIPES = [RED, GREEN, BLUE, GREEN]
ORDER = [0, 1, 2, 1]


def _seen(path: Path, instants: list[float]) -> list[int]:
    """Which of red, green, blue is strongest at each instant."""
    with Film.open(path) as shown:
        return shown.frames(instants, 8, 8).pixels_THWC.mean((1, 2)).argmax(1).tolist()  # type: ignore[no-any-return]


def _heard(path: Path, instants: list[float]) -> list[int]:
    """Which of the three tones is strongest around each instant."""
    with Film.open(path) as played:
        windows = played.sound_windows(instants, 0.4, 8000).samples_TN
    tones = ColourEncoder().embed_audio(torch.from_numpy(windows.reshape(-1, 2, windows.shape[1]))).frames_BTE
    return tones.reshape(len(instants), 4)[:, :3].argmax(1).tolist()  # type: ignore[no-any-return]


def _playback(client: TestClient, place: str, **wanted: Any) -> dict[str, Any]:
    answer = client.get(f"{API}/{place}/playback", params=wanted)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def _saved(client: TestClient, media: str, path: Path) -> Path:
    answer = client.get(media)
    assert answer.status_code == 200
    path.write_bytes(answer.content)
    return path


@pytest.mark.parametrize("kind", FILMS)
def test_a_film_that_browsers_do_not_play_is_converted_in_time(shared: TestClient, tmp_path: Path, kind: str) -> None:
    """Uploaded without an ending: what a file is called says nothing."""
    path = exotic_film(tmp_path / "raw", STRIPES, kind)
    query = upload(shared, path)["id"]
    told = _playback(shared, f"queries/{query}", sense="video")
    assert (told["converted"], told["starts_seconds"]) == (True, 0.0)
    answer = shared.get(told["media"])
    assert answer.headers["content-type"] == "video/mp4"
    version = _saved(shared, told["media"], tmp_path / "version.mp4")
    with Film.open(version) as made:
        assert made.info.picture is not None
        assert made.info.sound is not None
        assert (made.info.picture.codec, made.info.picture.pixel_format, made.info.sound.codec) == (
            "h264",
            "yuv420p",
            "aac",
        )
        assert made.info.duration_seconds == pytest.approx(4.0, abs=0.15)
        assert plays_as_it_is(made.info, "video")
    near_the_edges = [0.1, 0.9, 1.1, 1.9, 2.1, 2.9, 3.1]
    assert _seen(version, near_the_edges) == _seen(path, near_the_edges) == [0, 0, 1, 1, 2, 2, 1]
    inside = [0.5, 1.5, 2.5, 3.5]
    assert _heard(version, inside) == _heard(path, inside) == ORDER
    only = _playback(shared, f"queries/{query}", sense="audio", convert=True)
    heard = _saved(shared, only["media"], tmp_path / "heard.mp4")
    with Film.open(heard) as made:
        assert made.info.picture is None
    assert _heard(heard, inside) == ORDER


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_that_browsers_do_not_play_is_converted(shared: TestClient, tmp_path: Path, kind: str) -> None:
    query = upload(shared, exotic_sound(tmp_path / f"odd.{kind}", STRIPES, kind))["id"]
    told = _playback(shared, f"queries/{query}", sense="audio", seconds=3.0)
    assert (told["converted"], told["starts_seconds"]) == (True, 0.0)
    assert _heard(_saved(shared, told["media"], tmp_path / "version.mp4"), [0.5, 1.5, 2.5, 3.5]) == ORDER
    problem(shared.get(f"{API}/queries/{query}/playback", params={"sense": "video"}), 422, "missing-sense")


def test_sound_and_picture_of_a_version_change_at_the_same_instant(tmp_path: Path) -> None:
    """The sound's change is found to the millisecond, so a codec's delay would show."""
    path = exotic_film(tmp_path / "two.mkv", [RED, BLUE], "mkv")
    for form in FORMATS:
        out = tmp_path / f"out.{form.ending}"
        convert(ConversionTask(str(path), str(out), "video", 0.0, 60.0, 60.0, form))
        assert _seen(out, [0.95, 1.05]) == [0, 2]
        with Film.open(out) as made:
            heard = made.sound_windows([1.0], 1.0, 48000).samples_TN[0].astype(float)
        time_N = np.arange(480) / 48000
        waves = np.exp(2j * np.pi * np.array([[400.0], [2500.0]]) * time_N)
        strength = np.abs(np.lib.stride_tricks.sliding_window_view(heard, 480) @ waves.T)
        change = 0.5 + (np.argmax(strength[:, 1] > strength[:, 0]) + 240) / 48000
        assert change == pytest.approx(1.0, abs=0.01), form.ending


def test_what_browsers_play_is_left_alone(shared: TestClient, tmp_path: Path) -> None:
    listed = items(shared)
    for name, sense in (("films/mixed.mp4", "video"), ("films/mixed.mp4", "audio"), ("sounds/green.wav", "audio")):
        told = _playback(shared, f"items/{listed[name]['id']}", sense=sense, seconds=2.0)
        assert (told["converted"], told["starts_seconds"]) == (False, 0.0)
        assert told["media"] == f"{API}/items/{listed[name]['id']}/media?sense={sense}"
        assert shared.get(told["media"]).status_code == 200
    # Unless a browser has tried and failed.
    forced = _playback(shared, f"items/{listed['films/mixed.mp4']['id']}", sense="video", convert=True)
    assert forced["converted"]
    version = _saved(shared, forced["media"], tmp_path / "version.mp4")
    assert _seen(version, [1.0, 4.0, 7.0]) == [1, 2, 1]


@pytest.mark.parametrize(
    ("container", "picture", "pixel_format", "sound_codec", "sense", "plays"),
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
def test_what_browsers_have_in_common(
    container: str, picture: str | None, pixel_format: str, sound_codec: str | None, sense: str, plays: bool
) -> None:
    shown = None if picture is None else PictureInfo(64, 64, 1.0, 25.0, picture, pixel_format)
    heard = None if sound_codec is None else SoundInfo(48000, 2, sound_codec)
    assert plays_as_it_is(FilmInfo("x", 1.0, shown, heard, container), sense) is plays


def test_a_version_is_made_once_and_given_in_ranges(served: Served, tmp_path: Path) -> None:
    data = tmp_path / "data"
    exotic_film(data / "a.avi", STRIPES, "avi")
    client = served(make_index(data, tmp_path / "index"))
    item = items(client)["a.avi"]["id"]
    told = _playback(client, f"items/{item}", sense="video")
    whole = client.get(told["media"])
    part = client.get(told["media"], headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    (kept,) = (tmp_path / "previews").rglob("*.mp4")
    assert kept.read_bytes() == whole.content
    # Nothing is decoded any more: even with what made it gone, another service gives it.
    (data / "a.avi").write_bytes(bytes(1000))
    again = served(tmp_path / "index")
    assert again.get(told["media"]).content == whole.content
    # An address that does not lie on the grid means the stretch that holds it.
    assert again.get(told["media"].replace("start_seconds=0", "start_seconds=3")).content == whole.content
    (data / "a.avi").unlink()
    problem(again.get(told["media"]), 410, "gone")
    problem(again.get(f"{API}/items/{item}/playback"), 410, "gone")


def test_of_a_long_film_a_stretch_around_the_moment_is_made(served: Served, tmp_path: Path) -> None:
    colours = [RED] * 40 + [BLUE] * 5 + [GREEN] * 25
    query_film = exotic_film(tmp_path / "long.avi", colours, "avi")
    client = served()
    query = upload(client, query_film)["id"]
    told = _playback(client, f"queries/{query}", sense="video", seconds=42.0)
    assert (told["converted"], told["starts_seconds"]) == (True, 30.0)
    version = _saved(client, told["media"], tmp_path / "version.mp4")
    assert _seen(version, [1.0, 9.8, 10.2, 14.8, 15.2, 39.0]) == [0, 0, 2, 2, 1, 1]
    assert _heard(version, [1.0, 9.5, 10.5, 14.5, 15.5, 39.0]) == [0, 0, 2, 2, 1, 1]
    assert _playback(client, f"queries/{query}", sense="video", seconds=5.0)["starts_seconds"] == 0.0
    assert _playback(client, f"queries/{query}", sense="video", seconds=9000.0)["starts_seconds"] == 60.0


def test_a_version_is_small_however_large_the_film_is(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    noise = chance.integers(0, 255, (20, 720, 1280, 3), dtype=np.uint8)
    path, out = write(tmp_path / "noise.mkv", pixels=noise, fps=60, codecs=("ffv1", "flac")), tmp_path / "out.mp4"
    convert(ConversionTask(str(path), str(out), "video", 0.0, 60.0, 60.0, FORMATS[0]))
    with Film.open(out) as made:
        assert made.info.picture is not None
        assert made.info.picture.width * made.info.picture.height <= 854 * 480
        assert made.info.picture.width / made.info.picture.height == pytest.approx(16 / 9, abs=0.02)
        assert len(list(made.pictures_from(0.0))) <= 11  # 30 a second of 60
    # The encoder's buffer bounds what a second may take, in noise too.
    assert out.stat().st_size < 1_000_000 < path.stat().st_size


def test_when_time_is_up_what_was_made_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = exotic_film(tmp_path / "slow.avi", [RED] * 20, "avi"), tmp_path / "out.mp4"
    clock = itertools.count()
    monkeypatch.setattr(transcode.time, "monotonic", lambda: next(clock) * 0.1)
    convert(ConversionTask(str(path), str(out), "video", 0.0, 180.0, 40.0, FORMATS[0]))
    with Film.open(out) as made:
        assert 1.0 < made.info.duration_seconds < 15.0


def test_without_an_encoder_for_h264_it_is_webm(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format_here.cache_clear()
    monkeypatch.setattr(transcode, "FORMATS", FORMATS[1:])
    try:
        client = served()
        query = upload(client, exotic_film(tmp_path / "a.avi", STRIPES, "avi"))["id"]
        answer = client.get(_playback(client, f"queries/{query}")["media"])
        assert answer.headers["content-type"] == "video/webm"
        (tmp_path / "a.webm").write_bytes(answer.content)
        with Film.open(tmp_path / "a.webm") as made:
            assert plays_as_it_is(made.info, "video")
        assert _seen(tmp_path / "a.webm", [0.5, 1.5, 2.5]) == [0, 1, 2]
        format_here.cache_clear()
        monkeypatch.setattr(transcode, "FORMATS", ())
        with pytest.raises(MediaError, match="has no encoder of a format that browsers play"):
            format_here()
    finally:
        format_here.cache_clear()


def test_what_cannot_be_played_is_said(shared: TestClient, served: Served, tmp_path: Path) -> None:
    problem(shared.get(f"{API}/items/{'0' * 24}/playback"), 404, "not-found")
    problem(shared.get(f"{API}/queries/{'0' * 24}/version"), 404, "not-found")
    data = tmp_path / "data"
    exotic_film(data / "a.avi", STRIPES, "avi")
    client = served(make_index(data, tmp_path / "index"))
    item = items(client)["a.avi"]["id"]
    (data / "a.avi").write_bytes(b"RIFF, but not for long")
    told = problem(client.get(f"{API}/items/{item}/playback"), 422, "unusable-media")
    assert told["detail"].startswith("a.avi: cannot be decoded")
    assert not list((tmp_path / "previews").rglob("*.mp4"))


def test_too_many_that_wait_are_told_to_come_back(served: Served, tmp_path: Path) -> None:
    client = served()
    query = upload(client, exotic_sound(tmp_path / "a.aiff", [RED], "aiff"))["id"]
    waiting = client.app.state.service.playbacks._waiting  # type: ignore[attr-defined]
    held = 0
    while waiting.acquire(blocking=False):
        held += 1
    answer = client.get(f"{API}/queries/{query}/playback", params={"sense": "audio"})
    problem(answer, 503, "busy")
    assert answer.headers["retry-after"] == "10"
    for _ in range(held):
        waiting.release()
    assert _playback(client, f"queries/{query}", sense="audio")["converted"]


def test_the_python_client_knows_it(shared: TestClient) -> None:
    with Client("http://127.0.0.1", transport=shared._transport) as client:
        item = next(item for item in client.items() if item.name == "films/red.mp4")
        assert not client.playback(item.id).converted
        assert client.playback(item.id, sense="audio", convert=True).converted


@pytest.mark.data
def test_hostile_files_have_a_version_or_a_reason(served: Served, real_media: Path) -> None:
    """Of all that is taken as a query, what browsers are not given as it is."""
    client = served(convert_seconds=20.0)
    began, seen = time.monotonic(), {"version": 0, "itself": 0, "refused": 0}
    for path in sorted((real_media / "hostile").glob("*/*"))[::8]:
        if not path.is_file() or not path.stat().st_size:
            continue
        answer = client.post(f"{API}/queries", params={"name": path.name}, content=path.read_bytes())
        if answer.status_code != 201:
            continue
        query = answer.json()
        sense = "video" if query["has_picture"] else "audio"
        answer = client.get(f"{API}/queries/{query['id']}/playback", params={"sense": sense, "convert": True})
        if answer.status_code == 200:
            part = client.get(answer.json()["media"], headers={"range": "bytes=0-99"})
            assert (part.status_code, len(part.content)) == (206, 100)
            seen["version"] += 1
        else:
            told = problem(answer, 422, "unusable-media")
            assert "/tmp" not in told["detail"]
            seen["refused"] += 1
    assert seen["version"] >= 15
    assert seen["refused"] <= 2, seen
    assert time.monotonic() - began < 300
