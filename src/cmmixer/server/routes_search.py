"""Endpoints of uploads and searches."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from cmmixer.server import schemas
from cmmixer.server.files import BYTES, FILE_RESPONSES, THUMBNAIL_RESPONSES, file_response
from cmmixer.server.problems import responses
from cmmixer.server.search import search
from cmmixer.server.service import PREFIX, Service
from cmmixer.server.uploads import display_name

QueryId = Annotated[schemas.Id, Path(description="id of an uploaded file")]
_BODY = {
    "requestBody": {
        "required": True,
        "description": "the file itself, video or audio",
        "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def search_router(service: Service) -> APIRouter:
    """Returns the endpoints `/queries` and `/search`."""
    routes = APIRouter(tags=["search"])
    queries = service.queries

    @routes.post(
        "/queries",
        status_code=201,
        summary="Upload a video or audio file to search with",
        openapi_extra=_BODY,
        responses=responses("too-large", "too-long", "too-slow", "unusable-media", "busy", "disk-full"),
    )
    async def upload(
        request: Request,
        name: Annotated[
            schemas.Text | None, Query(description="what to call the file", examples=["rough cut.mp4"])
        ] = None,
    ) -> schemas.Query:
        shown_name = display_name(name)
        path = await queries.receive(shown_name, request.stream())
        # In threads of their own: uploads may wait long, and must not hold up other requests.
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(service.embedders, queries.add, shown_name, path)).to_schema()

    @routes.get("/queries/{query}", summary="An uploaded file", responses=responses("not-found"))
    def get_query(query: QueryId) -> schemas.Query:
        return queries.get(query).to_schema()

    @routes.delete(
        "/queries/{query}", status_code=204, summary="Delete an uploaded file", responses=responses("not-found")
    )
    def delete_query(query: QueryId) -> None:
        queries.remove(query)

    @routes.get(
        "/queries/{query}/media",
        summary="The content of an uploaded file",
        responses=FILE_RESPONSES,
        response_class=Response,
    )
    def media(query: QueryId) -> Response:
        upload = queries.get(query)
        return file_response(str(upload.path), upload.name)

    @routes.get(
        "/queries/{query}/peaks",
        summary="The waveform of an uploaded file",
        responses=responses("not-found", "out-of-range", "missing-modality", "unusable-media"),
    )
    def peaks(query: QueryId, bins: Annotated[int, Query(ge=1, le=4000)] = 400) -> schemas.Peaks:
        upload = queries.get(query)
        end_seconds = upload.info.duration_seconds
        return service.previews.peaks(str(upload.path), upload.id, 0.0, end_seconds, bins, upload.name)

    @routes.get(
        "/queries/{query}/thumbnail",
        summary="A frame of an uploaded video, as JPEG",
        responses=THUMBNAIL_RESPONSES,
        response_class=Response,
    )
    def thumbnail(query: QueryId, seconds: Annotated[schemas.Seconds, Query()] = 0.0) -> Response:
        upload = queries.get(query)
        jpeg = service.previews.thumbnail(str(upload.path), upload.id, seconds, upload.name)
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @routes.get(
        "/search",
        summary="Find moments that match an upload, a file of the library, or one of its moments",
        responses=responses("not-found", "missing-modality"),
    )
    async def get_search(request: Annotated[schemas.SearchRequest, Query()]) -> schemas.SearchPage:
        return await run_in_threadpool(search, service.library.snapshot(), queries, request, PREFIX)

    return routes
