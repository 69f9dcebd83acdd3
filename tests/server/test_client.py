"""The Python client: the requests it sends, the responses it parses, its errors; and the whole interface over a real service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cmmixer.server import schemas
from cmmixer.server.client import Client, ServiceError
from cmmixer.server.schemas.library import ITEM_EXAMPLE
from cmmixer.server.schemas.search import QUERY_EXAMPLE
from tests.support.service import NO_ID

ITEM_ID = str(ITEM_EXAMPLE["id"])
JOB = {
    "id": "1" * 24,
    "folder": "2" * 24,
    "folder_name": "more/new",
    "state": "running",
    "phase": "embedding videos",
    "done": 1,
    "total": 3,
    "seconds": 0.5,
    "seconds_left": 1.0,
    "report": None,
    "skipped": [],
    "skipped_total": 0,
    "problem": None,
}
PAGE = {
    "for": "audio",
    "by": "video",
    "rerank": "none",
    "hits": [],
    "offset": 0,
    "next_offset": None,
    "moments_searched": 44,
    "took_seconds": 0.01,
    "timeline": None,
}
LISTING = {"parent": None, "folders": [{"id": "2" * 24, "name": "more", "items": 0}]}


class Recorder:
    """A service that answers every request alike, and remembers the requests."""

    def __init__(self, body: Any, status: int = 200) -> None:
        self.body = body
        self.status = status
        self.requests: list[httpx2.Request] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(request.read())
        self.requests.append(request)
        if isinstance(self.body, (bytes, str)):
            return httpx2.Response(self.status, content=self.body)
        return httpx2.Response(self.status, json=self.body)

    def client(self, **options: Any) -> Client:
        return Client("http://service", transport=httpx2.MockTransport(self), **options)

    @property
    def target(self) -> str:
        """Method and path of the last request."""
        return f"{self.requests[-1].method} {self.requests[-1].url.path}"

    @property
    def parameters(self) -> dict[str, str | list[str]]:
        """Query parameters of the last request; a repeated one is a list."""
        found: dict[str, str | list[str]] = {}
        for name, value in self.requests[-1].url.params.multi_items():
            earlier = found.get(name)
            if earlier is None:
                found[name] = value
            else:
                found[name] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
        return found


DEFAULT_SEARCH = {"timeline": "false", "limit": "24", "offset": "0"}


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"query": NO_ID}, {"query": NO_ID}),
        ({"item": ITEM_ID, "start_seconds": 4.5}, {"item": ITEM_ID, "start_seconds": "4.5"}),
        ({"item": ITEM_ID, "start_seconds": 0.0}, {"item": ITEM_ID, "start_seconds": "0.0"}),
        ({"query": NO_ID, "target": "audio", "by": "video"}, {"query": NO_ID, "for": "audio", "by": "video"}),
        ({"query": NO_ID, "rerank": "sequence"}, {"query": NO_ID, "rerank": "sequence"}),
        ({"query": NO_ID, "rerank": "none"}, {"query": NO_ID, "rerank": "none"}),
        ({"query": NO_ID, "rerank": None}, {"query": NO_ID}),
        (
            {"query": NO_ID, "timeline": True, "limit": 3, "offset": 6},
            {"query": NO_ID, "timeline": "true", "limit": "3", "offset": "6"},
        ),
        (
            {"query": NO_ID, "label": ["warm", "cold"], "where": "camera:B", "folder": None},
            {"query": NO_ID, "label": ["warm", "cold"], "where": "camera:B"},
        ),
    ],
)
def test_search_sends_what_is_given(arguments: dict[str, Any], parameters: dict[str, Any]) -> None:
    service = Recorder(PAGE)
    with service.client() as client:
        page = client.search(**arguments)
    assert service.target == "GET /api/v1/search"
    assert service.parameters == {**DEFAULT_SEARCH, **parameters}
    assert (page.target, page.moments_searched, page.next_offset) == ("audio", 44, None)


PEAKS = {"start_seconds": 0.0, "end_seconds": 1.0, "low": [-1], "high": [1]}
PLAYBACK = {"media": "/api/v1/items/x/media", "start_seconds": 0.0, "converted": False}


@pytest.mark.parametrize(
    ("call", "body", "target", "parameters"),
    [
        (lambda client: client.item(ITEM_ID), None, f"GET /api/v1/items/{ITEM_ID}", {}),
        (lambda client: client.peaks(ITEM_ID), PEAKS, f"GET /api/v1/items/{ITEM_ID}/peaks", {"bins": "240"}),
        (lambda client: client.peaks(ITEM_ID, 9), PEAKS, f"GET /api/v1/items/{ITEM_ID}/peaks", {"bins": "9"}),
        (lambda client: client.thumbnail(ITEM_ID), b"jpeg", f"GET /api/v1/items/{ITEM_ID}/thumbnail", {}),
        (
            lambda client: client.thumbnail(ITEM_ID, 2.5),
            b"jpeg",
            f"GET /api/v1/items/{ITEM_ID}/thumbnail",
            {"seconds": "2.5"},
        ),
        (
            lambda client: client.playback(ITEM_ID),
            PLAYBACK,
            f"GET /api/v1/items/{ITEM_ID}/playback",
            {"modality": "video", "seconds": "0.0", "convert": "false"},
        ),
        (
            lambda client: client.playback(ITEM_ID, modality="audio", seconds=3.0, convert=True),
            PLAYBACK,
            f"GET /api/v1/items/{ITEM_ID}/playback",
            {"modality": "audio", "seconds": "3.0", "convert": "true"},
        ),
        (lambda client: client.folders(), LISTING, "GET /api/v1/folders", {}),
        (lambda client: client.folders("2" * 24), LISTING, "GET /api/v1/folders", {"parent": "2" * 24}),
        (lambda client: client.job("1" * 24), JOB, f"GET /api/v1/jobs/{'1' * 24}", {}),
        (lambda client: client.jobs(), {"jobs": [JOB]}, "GET /api/v1/jobs", {}),
        (lambda client: client.cancel_job("1" * 24), JOB, f"DELETE /api/v1/jobs/{'1' * 24}", {}),
        (lambda client: client.delete_query(NO_ID), b"", f"DELETE /api/v1/queries/{NO_ID}", {}),
    ],
)
def test_each_method_calls_its_endpoint(
    call: Callable[[Client], Any], body: Any, target: str, parameters: dict[str, str]
) -> None:
    detail = {**ITEM_EXAMPLE, "has_video": True, "has_audio": False, "spans": [], "columns": {}}
    service = Recorder(detail if body is None else body)
    with service.client() as client:
        call(client)
    assert (service.target, service.parameters) == (target, parameters)


def test_upload_sends_the_file_with_its_length(tmp_path: Path) -> None:
    path = tmp_path / "rough cut.mp4"
    path.write_bytes(bytes(range(256)) * 5000)  # more than one chunk
    service = Recorder(QUERY_EXAMPLE, 201)
    with service.client() as client:
        assert client.upload(path) == schemas.Query.model_validate(QUERY_EXAMPLE)
        assert service.parameters == {"name": "rough cut.mp4"}
        client.upload(str(path), name="another name.mp4")
    assert service.target == "POST /api/v1/queries"
    assert service.parameters == {"name": "another name.mp4"}
    assert service.requests[-1].headers["content-type"] == "application/octet-stream"
    assert service.requests[-1].headers["content-length"] == str(256 * 5000)
    assert service.bodies == [path.read_bytes()] * 2


def test_start_job_sends_the_folder() -> None:
    service = Recorder(JOB, 202)
    with service.client() as client:
        assert client.start_job("2" * 24).phase == "embedding videos"
        assert json.loads(service.bodies[-1]) == {"folder": "2" * 24, "remove_missing": False}
        client.start_job("2" * 24, remove_missing=True)
    assert service.target == "POST /api/v1/jobs"
    assert json.loads(service.bodies[-1]) == {"folder": "2" * 24, "remove_missing": True}


def test_items_are_requested_page_by_page() -> None:
    offsets = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        offset = int(request.url.params["offset"])
        offsets.append(offset)
        assert (request.url.params["sort"], request.url.params["limit"]) == ("-name", "200")
        item = {**ITEM_EXAMPLE, "name": f"{offset}.mp4"}
        next_offset = offset + 200 if offset < 400 else None
        return httpx2.Response(200, json={"items": [item], "total": 3, "offset": offset, "next_offset": next_offset})

    with Client("http://service", transport=httpx2.MockTransport(answer)) as client:
        items = client.items(sort="-name")
        assert next(items).name == "0.mp4"
        assert offsets == [0]  # a page is requested when it is needed
        assert [item.name for item in items] == ["200.mp4", "400.mp4"]
    assert offsets == [0, 200, 400]


def test_watch_job_yields_every_event() -> None:
    done = {**JOB, "state": "done"}
    events = f"event: progress\ndata: {json.dumps(JOB)}\n\n: a comment\n\nevent: end\ndata: {json.dumps(done)}\n\n"
    service = Recorder(events)
    with service.client() as client:
        states = [job.state for job in client.watch_job("1" * 24)]
    assert states == ["running", "done"]
    assert service.target == f"GET /api/v1/jobs/{'1' * 24}/events"


def test_downloads_are_written_to_disk(tmp_path: Path) -> None:
    service = Recorder(b"content")
    with service.client() as client:
        client.download(ITEM_ID, tmp_path / "copy.wav", modality="audio")
    assert (tmp_path / "copy.wav").read_bytes() == b"content"
    assert service.target == f"GET /api/v1/items/{ITEM_ID}/media"
    assert service.parameters == {"modality": "audio"}


def test_cut_list_sends_the_moments() -> None:
    service = Recorder("TITLE: CMMixer\n")
    moment = schemas.CutMoment(item=ITEM_ID, start_seconds=1.0, end_seconds=2.0)
    with service.client() as client:
        assert client.cut_list(schemas.CutListRequest(moments=[moment], format="csv")) == "TITLE: CMMixer\n"
    assert service.target == "POST /api/v1/cutlists"
    sent = json.loads(service.bodies[0])
    assert (sent["format"], sent["target"], sent["frames_per_second"]) == ("csv", "audio", 25.0)
    assert sent["moments"] == [
        {
            "item": ITEM_ID,
            "start_seconds": 1.0,
            "end_seconds": 2.0,
            "score": 0.0,
            "query_start_seconds": 0.0,
            "query_end_seconds": 0.0,
        }
    ]


def test_the_token_is_sent_with_every_request() -> None:
    service = Recorder({"jobs": []})
    with service.client(token="a-token-of-more-than-16-characters") as client:
        client.jobs()
    assert service.requests[0].headers["authorization"] == "Bearer a-token-of-more-than-16-characters"
    with service.client() as client:
        client.jobs()
    assert "authorization" not in service.requests[1].headers


PROBLEM = {"type": "/problems/not-found", "title": "Not found", "status": 404, "detail": f"no job has the id {NO_ID}"}


@pytest.mark.parametrize(
    "call",
    [
        lambda client, folder: client.job(NO_ID),
        lambda client, folder: list(client.watch_job(NO_ID)),
        lambda client, folder: client.download(NO_ID, folder / "file"),
        lambda client, folder: list(client.items()),
    ],
    ids=["request", "events", "download", "pages"],
)
def test_problems_become_service_errors(call: Callable[[Client, Path], Any], tmp_path: Path) -> None:
    with Recorder(PROBLEM, 404).client() as client, pytest.raises(ServiceError) as error:
        call(client, tmp_path)
    assert str(error.value) == f"Not found: no job has the id {NO_ID}"
    assert error.value.problem == schemas.Problem.model_validate(PROBLEM)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_something_else_name_the_status() -> None:
    with Recorder(b"<html>Bad gateway</html>", 502).client() as client, pytest.raises(ServiceError) as error:
        client.library()
    assert str(error.value) == "http://service/api/v1/library: got status 502"
    assert error.value.problem is None


def test_a_service_that_does_not_answer() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("Connection refused", request=request)

    with (
        Client("http://127.0.0.1:9", transport=httpx2.MockTransport(refuse)) as client,
        pytest.raises(ServiceError) as error,
    ):
        client.health()
    expected = "http://127.0.0.1:9: does not answer (Connection refused); is the service running?"
    assert str(error.value).replace(":9/:", ":9:") == expected
