"""Uploads from strangers: too large, too long, too slow, no films at all, play lists, crashes; the service answers on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from starlette.testclient import TestClient

from tests.server.conftest import API, Served, find, names, problem, upload
from tests.support.coloured_videos import BLUE, RED, film, sound
from tests.support.counting_videos import long_film


def _answers(client: TestClient, tmp_path: Path) -> None:
    """The service still does what it is for."""
    query = upload(client, film(tmp_path / "again.mp4", [BLUE], sound=None))
    assert find(client, query=query["id"])["hits"][0]["score"] > 0.95


def test_a_file_larger_than_the_limit_is_refused_whether_or_not_it_says_so(served: Served, tmp_path: Path) -> None:
    client = served(max_upload_mb=1)
    honest = client.post(f"{API}/queries", content=bytes((1 << 20) + 1))
    problem(honest, 413, "too-large")

    def unending() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 16)

    problem(client.post(f"{API}/queries", content=unending()), 413, "too-large")
    assert list(client.app.state.service.queries._folder.iterdir()) == []  # type: ignore[attr-defined]
    _answers(client, tmp_path)


def test_other_bodies_are_small(shared: TestClient) -> None:
    problem(shared.post(f"{API}/jobs", content=b"[" + bytes(1 << 17)), 413, "too-large")


def test_a_small_file_that_lasts_hours_is_refused(served: Served, tmp_path: Path) -> None:
    client = served(query_seconds=600.0)
    path = long_film(tmp_path / "hours.mp4", 7200)
    assert path.stat().st_size < 20_000
    told = problem(
        client.post(f"{API}/queries", params={"name": "hours.mp4"}, content=path.read_bytes()), 413, "too-long"
    )
    assert told["detail"].startswith("hours.mp4: lasts 7")
    assert told["detail"].endswith("expected at most 600 s")


def test_an_upload_that_takes_too_long_is_given_up(served: Served, tmp_path: Path) -> None:
    client = served(upload_seconds=0.3)

    def slowly() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x"
            time.sleep(0.1)

    answer = client.post(f"{API}/queries", params={"name": "slow.mp4"}, content=slowly())
    # The in-memory transport hands the body over at once; then it is only no film.
    assert answer.status_code in (408, 422)
    _answers(client, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '{secret}'\n",
        b"ffconcat version 1.0\nfile 'secret.mp4'\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT3S" type="static">'
        b'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>file://{secret}</BaseURL>'
        b"</Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["hls", "concat", "concat-relative", "dash"],
)
def test_a_play_list_opens_no_other_file(shared: TestClient, tmp_path: Path, content: bytes) -> None:
    secret = film(tmp_path / "secret.mp4", [RED] * 3)
    body = content.replace(b"{secret}", os.fsencode(secret))
    answer = shared.post(f"{API}/queries", params={"name": "list.mp4"}, content=body)
    told = problem(answer, 422, "unusable-media")
    assert told["reason"] == "unreadable"
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\cut.mp4", "cut.mp4"),
        ("<b>bold</b>.mp4", "b>.mp4"),
        ("line\nbreak\u202e.mp4", "linebreak.mp4"),
        ("", "upload"),
        ("…", "…"),
        ("x" * 390, "x" * 200),
    ],
)
def test_what_an_upload_is_called(shared: TestClient, tmp_path: Path, name: str, shown: str) -> None:
    path = sound(tmp_path / "a.wav", [RED])
    answer = shared.post(f"{API}/queries", params={"name": name}, content=path.read_bytes())
    assert answer.status_code == 201
    assert answer.json()["name"] == shown


def test_uploads_are_forgotten_on_request_and_when_there_are_too_many(served: Served, tmp_path: Path) -> None:
    client = served(queries=2)
    path = sound(tmp_path / "a.wav", [RED])
    first, second = (upload(client, path)["id"] for _ in range(2))
    client.get(f"{API}/queries/{first}")  # used last, so it stays
    third = upload(client, path)["id"]
    assert [client.get(f"{API}/queries/{one}").status_code for one in (first, second, third)] == [200, 404, 200]
    assert client.delete(f"{API}/queries/{first}").status_code == 204
    problem(client.delete(f"{API}/queries/{first}"), 404, "not-found")
    assert len(list(client.app.state.service.queries._folder.iterdir())) == 1  # type: ignore[attr-defined]


def test_uploads_expire(served: Served, tmp_path: Path) -> None:
    client = served(query_minutes=0.002)
    query = upload(client, sound(tmp_path / "a.wav", [RED]))["id"]
    time.sleep(0.2)
    problem(client.get(f"{API}/search", params={"query": query}), 404, "not-found")


def test_more_uploads_than_may_wait_are_told_to_come_back(served: Served, tmp_path: Path) -> None:
    client = served(waiting=0)
    queries = client.app.state.service.queries  # type: ignore[attr-defined]
    with queries._slot():
        answer = client.post(f"{API}/queries", content=sound(tmp_path / "a.wav", [RED]).read_bytes())
    problem(answer, 503, "busy")
    assert answer.headers["retry-after"] == "5"
    _answers(client, tmp_path)


def test_decoders_that_die_are_replaced(served: Served, tmp_path: Path) -> None:
    client = served()
    _answers(client, tmp_path)
    for process in psutil.Process().children(recursive=True):
        if "resource_tracker" not in " ".join(process.cmdline()) and process.parent() != psutil.Process():
            os.kill(process.pid, signal.SIGKILL)
    for _ in range(20):
        answer = client.post(f"{API}/queries", content=film(tmp_path / "a.mp4", [BLUE], sound=None).read_bytes())
        if answer.status_code == 201:
            break
        assert problem(answer, 422, "unusable-media")["reason"] == "crashed"
    _answers(client, tmp_path)


def test_a_full_disk_is_said(shared: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sound(tmp_path / "a.wav", [RED]).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    problem(shared.post(f"{API}/queries", content=content), 507, "disk-full")


@pytest.mark.data
def test_every_hostile_file_is_answered_or_refused_clearly(
    shared: TestClient, real_media: Path, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()
    queries = sorted((real_media / "hostile").glob("*/*"))
    # A sixth of them, evenly: all are asked in tests/end_to_end/test_hostile_queries.py through the same decoder.
    chosen = sorted({*queries[::6], *(path for path in queries if path.stat().st_size == 0 or path.is_dir())})
    for path in chosen:
        content = path.read_bytes() if path.is_file() else b""
        answer = shared.post(f"{API}/queries", params={"name": path.name}, content=content)
        if answer.status_code == 201:
            query = answer.json()
            target = "audio" if query["has_picture"] else "video"
            assert names(find(shared, **{"query": query["id"], "for": target, "limit": 2}))
            shared.delete(f"{API}/queries/{query['id']}")
            seen["answered"] += 1
        else:
            told = problem(answer, answer.status_code, answer.json()["type"].rpartition("/")[2])
            assert answer.status_code in (413, 422)
            assert "/tmp" not in told["detail"]
            seen[told.get("reason", told["title"])] += 1
    assert seen.total() == len(chosen) >= 56
    assert seen["answered"] >= 30
    assert {"empty", "unreadable"} <= set(seen)
    _answers(shared, tmp_path)
