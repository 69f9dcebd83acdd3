"""Errors as problem JSON (RFC 9457): `type`, `title`, `status` and `detail`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cmmixer.errors import InputError, MediaError, SearchIndexError
from cmmixer.server.schemas import Problem

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20
_log = logging.getLogger("cmmixer.server")


@dataclass(frozen=True)
class ProblemType:
    """A kind of error.

    Attributes:
        status: HTTP status of the response.
        title: what went wrong, in a few words.
        advice: what a person can do about it.
    """

    status: int
    title: str
    advice: str


PROBLEM_TYPES = {
    "not-found": ProblemType(404, "Not found", "Check the id; it may have been removed or have expired."),
    "bad-request": ProblemType(422, "The request is not valid", "Correct what the detail names."),
    "method-not-allowed": ProblemType(
        405, "This method is not allowed here", "See the OpenAPI description for the methods of this address."
    ),
    "unauthorized": ProblemType(
        401, "A token is required", "Send `Authorization: Bearer TOKEN`, or enter the token on the page."
    ),
    "forbidden": ProblemType(
        403, "Not allowed from there", "Call the service from its own page, or by the address it listens on."
    ),
    "too-large": ProblemType(413, "The file is too large", "Send a shorter or smaller file, or raise --max_upload_mb."),
    "too-long": ProblemType(413, "The file is too long to search with", "Cut it shorter, or raise --query_seconds."),
    "too-slow": ProblemType(
        408, "The upload took too long", "Try again over a faster connection, or raise --upload_seconds."
    ),
    "unusable-media": ProblemType(
        422, "This file cannot be used", "Play it in another program to see whether it is intact, or convert it."
    ),
    "missing-modality": ProblemType(
        422, "The file lacks the video or audio that this needs", "Choose another file, or another modality."
    ),
    "gone": ProblemType(410, "The file is not where it was indexed", "Put it back, or index its folder again."),
    "outside-library": ProblemType(
        403, "The file lies outside the library", "It is a link to another folder; allow that folder with --roots."
    ),
    "out-of-range": ProblemType(416, "The file has no such range", "Ask for bytes or seconds that are in the file."),
    "conflict": ProblemType(409, "This cannot be done now", "Wait until the work in progress is done."),
    "busy": ProblemType(503, "The service is busy", "Try again in a few seconds."),
    "index-unavailable": ProblemType(
        503, "The index cannot be read", "See the detail; the service continues as soon as the index can be read again."
    ),
    "disk-full": ProblemType(507, "The disk is full", "Free some space and try again."),
    "internal-error": ProblemType(500, "Internal error", "This is a bug; the details are in the service's log."),
}
_TYPE_OF_STATUS = {problem.status: name for name, problem in reversed(PROBLEM_TYPES.items())}


class ProblemError(Exception):
    """An error anywhere in a request, to be answered as problem JSON."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        """Makes the error.

        Args:
            kind: a key of `PROBLEM_TYPES`.
            detail: what was got, what was expected, what to do.
            headers: of the response.
            **more: further fields of the JSON.
        """
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.more = more


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Has errors about a media file name it as clients know it.

    Raises:
        ProblemError: `missing-modality` or `unusable-media`, for a `MediaError`.
    """
    try:
        yield
    except MediaError as error:
        raise media_problem(error.reason, name, error.message) from error


def media_problem(reason: str, name: str, message: str) -> ProblemError:
    """Returns the problem for a media file that cannot be used.

    Args:
        reason: of the `MediaError`.
        name: of the file, as clients know it.
        message: of the `MediaError`, without paths of this machine.
    """
    kind = "missing-modality" if reason in ("no-video", "no-audio") else "unusable-media"
    return ProblemError(kind, f"{name}: {message}", reason=reason)


def problem_response(kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """Returns a problem as a response."""
    problem = PROBLEM_TYPES[kind]
    values = {"type": f"/problems/{kind}", "title": problem.title, "status": problem.status, "detail": detail}
    return JSONResponse({**values, **more}, problem.status, dict(headers or {}), MEDIA_TYPE)


def responses(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Describes the errors of an endpoint for OpenAPI, with those that every endpoint can have.

    Two problem types with the same status share an entry.
    """
    described: dict[int | str, dict[str, Any]] = {}
    for name in dict.fromkeys((*kinds, "unauthorized", "forbidden", "bad-request", "too-large", "index-unavailable")):
        problem = PROBLEM_TYPES[name]
        entry = described.setdefault(problem.status, {"model": Problem, "description": problem.title, "content": {}})
        if problem.title not in entry["description"]:
            entry["description"] += f"; or: {problem.title[0].lower()}{problem.title[1:]}"
        examples = entry["content"].setdefault(MEDIA_TYPE, {"examples": {}})["examples"]
        values = {"type": f"/problems/{name}", "title": problem.title, "status": problem.status}
        examples[name] = {"value": {**values, "detail": problem.advice}}
    return described


def problem_of(error: Exception) -> ProblemError:
    """Returns the problem for an exception. Anything unexpected is an internal error and is logged."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, MediaError):
        return ProblemError("unusable-media", f"{error.path}: {error.message}", reason=error.reason)
    if isinstance(error, SearchIndexError):
        kind = "disk-full" if "disk is full" in str(error) else "index-unavailable"
        return ProblemError(kind, str(error), {"Retry-After": "5"})
    if isinstance(error, InputError):
        return ProblemError("bad-request", str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ProblemError("disk-full", "no space is left for what this request has to write; nothing was written")
    _log.error("internal error", exc_info=error)
    return ProblemError("internal-error", f"{type(error).__name__}; the details are in the service's log")


def install(app: FastAPI) -> None:
    """Has the application answer every exception with problem JSON."""

    async def answer_error(_: Request, error: Exception) -> JSONResponse:
        problem = problem_of(error)
        return problem_response(problem.kind, problem.detail, problem.headers, **problem.more)

    async def answer_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"where": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()[:_MOST_ERRORS]
        ]
        detail = "; ".join(f"{each['where']}: {each['message']}" for each in errors)
        return problem_response("bad-request", detail, errors=errors)

    async def answer_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = _TYPE_OF_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal-error")
        detail = "nothing is at this address" if error.status_code == 404 else str(error.detail)
        return problem_response(kind, detail, error.headers)

    for error_type in (ProblemError, InputError, OSError):
        app.add_exception_handler(error_type, answer_error)
    app.add_exception_handler(Exception, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
