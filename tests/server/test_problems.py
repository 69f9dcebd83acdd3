"""Errors as problem JSON: every exception has a type, a status and a message for clients."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI, Query
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from cmmixer.errors import InputError, MediaError, SearchIndexError, SettingsError
from cmmixer.server import problems
from cmmixer.server.problems import PROBLEM_TYPES, ProblemError, media_problem, naming, problem_of, problem_response
from tests.support.service import problem


def _raising(error: Exception) -> Callable[[], None]:
    def endpoint() -> None:
        raise error

    return endpoint


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """An application whose endpoints fail."""
    app = FastAPI()
    problems.install(app)

    @app.get("/number")
    def number(value: int = Query(ge=0), other: int = Query(0)) -> int:
        return value + other

    errors: dict[str, Exception] = {
        "problem": ProblemError("busy", "8 videos are waiting", {"Retry-After": "10"}, waiting=8),
        "media": MediaError("cut.mp4", "unreadable", "cannot be decoded"),
        "index": SearchIndexError("INDEX: files.lance is damaged"),
        "settings": SettingsError("--start: got 90, but it lasts 3 s"),
        "disk": OSError(errno.ENOSPC, "No space left on device"),
        "os": OSError(errno.EACCES, "Permission denied", "/home/me/secret"),
        "bug": KeyError("/home/me/secret"),
        "http": HTTPException(418, "a teapot"),
        "gateway": HTTPException(502, "the other service failed"),
    }
    for name, error in errors.items():
        app.add_api_route(f"/{name}", _raising(error), methods=["GET"])
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "kind", "detail"),
    [
        ("problem", 503, "busy", "8 videos are waiting"),
        ("media", 422, "unusable-media", "cut.mp4: cannot be decoded"),
        ("index", 503, "index-unavailable", "INDEX: files.lance is damaged"),
        ("settings", 422, "bad-request", "--start: got 90, but it lasts 3 s"),
        ("disk", 507, "disk-full", "no space is left for what this request has to write; nothing was written"),
        ("os", 500, "internal-error", "PermissionError; the details are in the service's log"),
        ("bug", 500, "internal-error", "KeyError; the details are in the service's log"),
        ("nothing-there", 404, "not-found", "nothing is at this address"),
    ],
)
def test_every_error_is_problem_json(client: TestClient, path: str, status: int, kind: str, detail: str) -> None:
    body = problem(client.get(f"/{path}"), status, kind)
    assert (body["title"], body["detail"]) == (PROBLEM_TYPES[kind].title, detail)


def test_problems_keep_headers_and_further_fields(client: TestClient) -> None:
    response = client.get("/problem")
    assert response.headers["retry-after"] == "10"
    assert response.json()["waiting"] == 8
    assert client.get("/index").headers["retry-after"] == "5"
    assert client.get("/media").json()["reason"] == "unreadable"


def test_http_errors_without_a_type_of_their_own(client: TestClient) -> None:
    assert client.get("/http").json()["type"] == "/problems/bad-request"
    assert client.get("/http").json()["detail"] == "a teapot"
    assert client.get("/gateway").json()["type"] == "/problems/internal-error"
    body = problem(client.post("/number"), 405, "method-not-allowed")
    assert body["detail"] == "Method Not Allowed"


def test_invalid_parameters_are_named(client: TestClient) -> None:
    body = problem(client.get("/number", params={"value": -1, "other": "x"}), 422, "bad-request")
    assert body["errors"] == [
        {"where": "query.value", "message": "Input should be greater than or equal to 0"},
        {"where": "query.other", "message": "Input should be a valid integer, unable to parse string as an integer"},
    ]
    assert body["detail"] == "; ".join(f"{error['where']}: {error['message']}" for error in body["errors"])


@pytest.mark.parametrize(
    ("error", "kind", "detail"),
    [
        (ProblemError("gone", "a.mp4: no longer exists"), "gone", "a.mp4: no longer exists"),
        (SearchIndexError("INDEX: the disk is full"), "disk-full", "INDEX: the disk is full"),
        (InputError("--at: got -1"), "bad-request", "--at: got -1"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "disk-full",
            "no space is left for what this request has to write; nothing was written",
        ),
        (ZeroDivisionError(), "internal-error", "ZeroDivisionError; the details are in the service's log"),
    ],
)
def test_problem_of(error: Exception, kind: str, detail: str) -> None:
    found = problem_of(error)
    assert (found.kind, found.detail) == (kind, detail)


def test_only_bugs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "cmmixer.server"):
        problem_of(InputError("--at: got -1"))
        assert caplog.records == []
        problem_of(ZeroDivisionError("division by zero"))
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "internal error")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


@pytest.mark.parametrize("reason", MediaError.REASONS)
def test_media_problems_name_the_file(reason: str) -> None:
    kind = "missing-modality" if reason in ("no-video", "no-audio") else "unusable-media"
    expected = (kind, "my cut.mp4: the message", {"reason": reason})
    found = media_problem(reason, "my cut.mp4", "the message")
    assert (found.kind, found.detail, found.more) == expected
    with pytest.raises(ProblemError) as raised, naming("my cut.mp4"):
        raise MediaError("/tmp/cmmixer-queries-1/0f", reason, "the message")
    assert (raised.value.kind, raised.value.detail, raised.value.more) == expected


def test_naming_passes_other_errors() -> None:
    with pytest.raises(OSError, match=r"^disk$"), naming("my cut.mp4"):
        raise OSError("disk")


def test_responses_describe_each_status_once() -> None:
    described = problems.responses("too-large", "too-long", "gone", "gone")
    assert sorted(map(str, described)) == ["401", "403", "410", "413", "422", "503"]
    assert described[413]["description"] == "The file is too large; or: the file is too long to search with"
    examples = described[413]["content"]["application/problem+json"]["examples"]
    assert list(examples) == ["too-large", "too-long"]
    assert examples["too-long"]["value"] == {
        "type": "/problems/too-long",
        "title": "The file is too long to search with",
        "status": 413,
        "detail": "Cut it shorter, or raise --query_seconds.",
    }


def test_a_response_has_the_fields_of_rfc_9457() -> None:
    response = problem_response("conflict", "more/new: is already being indexed", {"X-Job": "1"}, job="2")
    assert response.status_code == 409
    assert response.media_type == "application/problem+json"
    assert response.headers["x-job"] == "1"
    assert response.body == (
        b'{"type":"/problems/conflict","title":"This cannot be done now","status":409,'
        b'"detail":"more/new: is already being indexed","job":"2"}'
    )


def test_every_problem_type_says_what_to_do() -> None:
    for name, problem_type in PROBLEM_TYPES.items():
        assert name == name.lower()
        assert " " not in name
        assert 400 <= problem_type.status < 600
        assert problem_type.title[0].isupper()
        assert not problem_type.title.endswith(".")
        assert problem_type.advice.endswith(".")
