"""What goes wrong, as problem JSON (RFC 9457): `type`, `title`, `detail`, `status`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cmmixer.errors import InputError, MediaError, SearchIndexError
from cmmixer.server.schemas import Problem

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("cmmixer.server")


@dataclass(frozen=True)
class Kind:
    """A kind of problem: the status it is answered with, its title, and what a person can do about it."""

    status: int
    title: str
    advice: str


KINDS = {
    "not-found": Kind(404, "There is no such thing here", "Check the id; it may have been removed or have expired."),
    "bad-request": Kind(422, "The request cannot be understood", "Correct what the detail names."),
    "method-not-allowed": Kind(405, "This cannot be done here", "See the OpenAPI description for what can."),
    "unauthorised": Kind(
        401, "A token is needed", "Send `Authorization: Bearer TOKEN`, or enter the token on the page."
    ),
    "forbidden": Kind(
        403, "Not allowed from there", "Call the service from its own page, or by the address it listens at."
    ),
    "too-large": Kind(413, "The file is too large", "Send a shorter or smaller file, or raise --max_upload_mb."),
    "too-long": Kind(413, "The film is too long to search with", "Cut it shorter, or raise --query_seconds."),
    "too-slow": Kind(408, "The upload took too long", "Try again over a faster connection, or raise --upload_seconds."),
    "unusable-media": Kind(
        422, "This file cannot be used", "Play it elsewhere to see whether it is whole, or convert it."
    ),
    "missing-sense": Kind(422, "The query lacks what it is searched by", "Choose another sense to search by."),
    "gone": Kind(410, "The file is not where it was indexed", "Put it back, or index its folder again."),
    "outside": Kind(
        403, "The file lies outside the library", "It is a link to elsewhere; allow that folder with --roots."
    ),
    "range": Kind(416, "That stretch is not in the file", "Ask for bytes or seconds that are."),
    "conflict": Kind(409, "This cannot be done now", "Wait until what is going on is done."),
    "busy": Kind(503, "Too much is going on", "Try again in a few seconds."),
    "index": Kind(
        503, "The index cannot be read", "See the detail; the service goes on as soon as it can be read again."
    ),
    "disk-full": Kind(507, "The disk is full", "Free some space and try again."),
    "fault": Kind(500, "A fault of ours, sorry", "The details are in the service's log."),
}
_OF_STATUS = {kind.status: name for name, kind in reversed(KINDS.items())}


class ProblemError(Exception):
    """Raised anywhere in a request; answered as problem JSON."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.more = more


def answer(kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """A problem as a response."""
    values = {"type": f"/problems/{kind}", "title": KINDS[kind].title, "status": KINDS[kind].status, "detail": detail}
    return JSONResponse({**values, **more}, KINDS[kind].status, dict(headers or {}), MEDIA_TYPE)


def responses(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """These kinds for the OpenAPI description of an endpoint; two of the same status stand together."""
    described: dict[int | str, dict[str, Any]] = {}
    for name in dict.fromkeys((*kinds, "unauthorised", "forbidden", "bad-request", "too-large", "index")):
        kind = KINDS[name]
        entry = described.setdefault(kind.status, {"model": Problem, "description": kind.title, "content": {}})
        if kind.title not in entry["description"]:
            entry["description"] += f"; or: {kind.title[0].lower()}{kind.title[1:]}"
        shown = entry["content"].setdefault(MEDIA_TYPE, {"examples": {}})["examples"]
        example = {"type": f"/problems/{name}", "title": kind.title, "status": kind.status, "detail": kind.advice}
        shown[name] = {"value": example}
    return described


def problem_of(fault: Exception) -> ProblemError:
    """An error of this package or of the system as a problem; anything unknown is ours."""
    if isinstance(fault, ProblemError):
        return fault
    if isinstance(fault, MediaError):
        return ProblemError("unusable-media", f"{fault.path}: {fault.message}", reason=fault.reason)
    if isinstance(fault, SearchIndexError):
        return ProblemError("disk-full" if "disk is full" in str(fault) else "index", str(fault), {"Retry-After": "5"})
    if isinstance(fault, InputError):
        return ProblemError("bad-request", str(fault))
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return ProblemError("disk-full", "there is no space left for what this needs to write; nothing was kept")
    _log.error("a fault of ours", exc_info=fault)
    return ProblemError("fault", f"{type(fault).__name__}; the details are in the service's log")


def install(app: FastAPI) -> None:
    """Answers every error of the app as problem JSON."""

    async def told(_: Request, fault: Exception) -> JSONResponse:
        problem = problem_of(fault)
        return answer(problem.kind, problem.detail, problem.headers, **problem.more)

    async def invalid(_: Request, fault: Exception) -> JSONResponse:
        assert isinstance(fault, RequestValidationError)
        errors = [{"where": ".".join(map(str, error["loc"])), "message": error["msg"]} for error in fault.errors()[:20]]
        return answer(
            "bad-request", "; ".join(f"{error['where']}: {error['message']}" for error in errors), errors=errors
        )

    async def http(request: Request, fault: Exception) -> JSONResponse:
        assert isinstance(fault, HTTPException)
        kind = _OF_STATUS.get(fault.status_code, "bad-request" if fault.status_code < 500 else "fault")
        detail = "nothing is at this address" if fault.status_code == 404 else str(fault.detail)
        return answer(kind, detail, fault.headers)

    for kind in (ProblemError, InputError, OSError):
        app.add_exception_handler(kind, told)
    app.add_exception_handler(Exception, told)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
