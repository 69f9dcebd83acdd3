"""Uploads and searches over HTTP."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from cmmixer.server import schemas
from cmmixer.server.files import RESPONSES, THUMBNAIL_RESPONSES, UNKNOWN, file_response
from cmmixer.server.problems import ProblemError, responses
from cmmixer.server.search import find
from cmmixer.server.service import PREFIX, Service
from cmmixer.server.uploads import shown_name

QueryId = Annotated[schemas.Id, Path(description="id of an uploaded file")]
_BODY = {
    "requestBody": {
        "required": True,
        "description": "the file itself, a film or a sound",
        "content": {UNKNOWN: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["search"])
    queries = service.queries

    @routes.post(
        "/queries",
        status_code=201,
        summary="Upload a film or a sound to search with",
        openapi_extra=_BODY,
        responses=responses("too-large", "too-long", "too-slow", "unusable-media", "busy", "disk-full"),
    )
    async def upload(
        request: Request,
        name: Annotated[schemas.Text | None, Query(description="what to call it", examples=["rough cut.mp4"])] = None,
    ) -> schemas.Query:
        told = shown_name(name)
        path = await queries.receive(told, request.stream())
        # Not one of the threads that answer everything else: these may wait long.
        return (await asyncio.get_running_loop().run_in_executor(service.embedders, queries.add, told, path)).shown()

    @routes.get("/queries/{query}", summary="What an uploaded file holds", responses=responses("not-found"))
    def query(query: QueryId) -> schemas.Query:
        return queries.get(query).shown()

    @routes.delete(
        "/queries/{query}", status_code=204, summary="Forget an uploaded file", responses=responses("not-found")
    )
    def forget(query: QueryId) -> None:
        queries.remove(query)

    @routes.get(
        "/queries/{query}/media", summary="An uploaded file itself", responses=RESPONSES, response_class=Response
    )
    def media(query: QueryId) -> Response:
        found = queries.get(query)
        return file_response(str(found.path), found.name)

    @routes.get(
        "/queries/{query}/peaks",
        summary="The waveform of an uploaded file",
        responses=responses("not-found", "range", "missing-sense", "unusable-media"),
    )
    def peaks(query: QueryId, bins: Annotated[int, Query(ge=1, le=4000)] = 400) -> schemas.Peaks:
        found = queries.get(query)
        return service.previews.peaks(str(found.path), found.id, 0.0, found.info.duration_seconds, bins, found.name)

    @routes.get(
        "/queries/{query}/thumbnail",
        summary="A picture of an uploaded film",
        responses=THUMBNAIL_RESPONSES,
        response_class=Response,
    )
    def thumbnail(query: QueryId, seconds: Annotated[schemas.Seconds, Query()] = 0.0) -> Response:
        found = queries.get(query)
        made = service.previews.thumbnail(str(found.path), found.id, seconds, found.name)
        return Response(made, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @routes.get(
        "/search",
        summary="Find moments that go with an upload, a file of the library, or one of its moments",
        responses=responses("not-found", "missing-sense"),
    )
    async def search(wanted: Annotated[schemas.SearchQuery, Query()]) -> schemas.SearchPage:
        if wanted.query is None and wanted.item is None:
            raise ProblemError("bad-request", "got neither query nor item, expected one of them")
        return await run_in_threadpool(find, service.library.now(), queries, wanted, PREFIX)

    return routes
