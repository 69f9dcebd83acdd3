"""The library over HTTP: what is in it, its files, their previews.

Indexing folders over HTTP.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import PurePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from cmmixer.server import schemas
from cmmixer.server.entry import Entry
from cmmixer.server.files import RESPONSES, THUMBNAIL_RESPONSES, file_response
from cmmixer.server.jobs import ENDED, Job
from cmmixer.server.problems import responses
from cmmixer.server.service import Service

ItemId = Annotated[schemas.Id, Path(description="id of a file of the library")]

_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name.casefold(),
    "folder": lambda entry: entry.folder.casefold(),
    "label": lambda entry: (entry.row.label is None, (entry.row.label or "").casefold()),
    "duration": lambda entry: entry.duration_seconds,
    "moments": lambda entry: entry.row.moments,
}


def library_router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["library"])

    @routes.get("/library", summary="What the library holds, and what it can be filtered by", responses=responses())
    def library() -> schemas.Library:
        snapshot = service.library.now()
        entries = snapshot.entries.values()
        films = sum(entry.kind == "film" for entry in entries)
        card = snapshot.index.card
        return schemas.Library(
            items=len(entries),
            films=films,
            sounds=len(entries) - films,
            moments=snapshot.index.count(),
            seconds=round(sum(entry.duration_seconds for entry in entries), 1),
            longest_seconds=max((entry.duration_seconds for entry in entries), default=0.0),
            clip_seconds=card.clip.clip_seconds,
            stride_seconds=card.stride_seconds,
            model_id=card.model_id,
            folders=snapshot.folders,
            labels=snapshot.labels,
            columns=snapshot.columns,
            metadata=snapshot.metadata,
        )

    @routes.get("/items", summary="Files of the library, filtered and sorted", responses=responses())
    def items(wanted: Annotated[schemas.ListQuery, Query()]) -> schemas.ItemPage:
        filters = schemas.Filters(**{name: getattr(wanted, name) for name in schemas.Filters.model_fields})
        found = sorted(service.library.now().filtered(filters), key=lambda entry: (entry.name.casefold(), entry.id))
        found.sort(key=_ORDERS[wanted.sort.lstrip("-")], reverse=wanted.sort.startswith("-"))
        last = wanted.offset + wanted.limit
        return schemas.ItemPage(
            items=[entry.item() for entry in found[wanted.offset : last]],
            total=len(found),
            offset=wanted.offset,
            next_offset=last if last < len(found) else None,
        )

    @routes.get("/items/{item}", summary="A file of the library, with its moments", responses=responses("not-found"))
    def item(item: ItemId) -> schemas.ItemDetail:
        snapshot = service.library.now()
        entry = snapshot.entry(item)
        return entry.detail(snapshot.index.moments_of(entry.batch))

    @routes.get(
        "/items/{item}/media",
        summary="The file itself, whole or in ranges",
        responses=RESPONSES,
        response_class=Response,
    )
    def media(
        item: ItemId,
        sense: Annotated[
            Literal["audio", "video"],
            Query(description="`audio` gives the file of its sound, where it has one of its own"),
        ] = "video",
        download: Annotated[bool, Query(description="whether a browser is to save it")] = False,
    ) -> Response:
        entry = service.library.now().entry(item)
        path = service.file(entry, sense)
        return file_response(path, os.fsdecode(path), download=download)

    @routes.get(
        "/items/{item}/thumbnail", summary="A picture of a film", responses=THUMBNAIL_RESPONSES, response_class=Response
    )
    def thumbnail(
        item: ItemId,
        seconds: Annotated[
            schemas.Seconds | None, Query(description="at which second; default: a little after its beginning")
        ] = None,
    ) -> Response:
        entry = service.library.now().entry(item)
        instant = entry.start_seconds + 0.2 * min(entry.duration_seconds, 20.0) if seconds is None else seconds
        made = service.previews.thumbnail(service.file(entry, "video"), entry.content, instant, entry.name)
        return Response(made, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @routes.get(
        "/items/{item}/peaks",
        summary="The waveform of a file or a stretch of it",
        responses=responses("not-found", "gone", "outside", "range", "missing-sense", "unusable-media"),
    )
    def peaks(
        item: ItemId,
        start_seconds: Annotated[schemas.Seconds | None, Query()] = None,
        end_seconds: Annotated[schemas.Seconds | None, Query()] = None,
        bins: Annotated[int, Query(ge=1, le=4000)] = 240,
    ) -> schemas.Peaks:
        entry = service.library.now().entry(item)
        start = entry.start_seconds if start_seconds is None else start_seconds
        end = entry.end_seconds if end_seconds is None else min(end_seconds, entry.end_seconds)
        return service.previews.peaks(service.file(entry, "audio"), entry.content, start, end, bins, entry.name)

    return routes


JobId = Annotated[schemas.Id, Path(description="id of a job")]

_LOOK_SECONDS = 0.15


def job_router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["indexing"])

    def found(job: JobId) -> Job:
        """Before the answer begins: once events flow, no problem can be told any more."""
        return service.jobs.get(job)

    known = Depends(found)

    @routes.get("/folders", summary="Folders that may be indexed", responses=responses("not-found", "gone", "outside"))
    def folders(
        parent: Annotated[
            schemas.Id | None, Query(description="list what is inside this folder; default: the allowed ones")
        ] = None,
    ) -> schemas.FolderListing:
        rows = [entry.row for entry in service.library.now().entries.values()]
        counts = Counter(str(PurePath(row.path).parent) for row in rows)
        return service.folders.listing(parent, counts)

    @routes.post(
        "/jobs",
        status_code=202,
        summary="Index a folder in the background",
        responses=responses("not-found", "gone", "outside", "conflict", "busy"),
    )
    def start(order: schemas.JobOrder) -> schemas.Job:
        folder = service.folders.find(order.folder)
        return service.jobs.start(order.folder, folder.name, folder.path, order.remove_gone).shown()

    @routes.get("/jobs", summary="Jobs since the service started", responses=responses())
    def jobs() -> schemas.JobList:
        return schemas.JobList(jobs=[job.shown() for job in service.jobs.all()])

    @routes.get("/jobs/{job}", summary="How a job stands, and what it left out", responses=responses("not-found"))
    def job(job: JobId) -> schemas.Job:
        return service.jobs.get(job).shown()

    @routes.delete(
        "/jobs/{job}",
        summary="Cancel a job; what was indexed until then stays",
        responses=responses("not-found", "conflict"),
    )
    def cancel(job: JobId) -> schemas.Job:
        return service.jobs.cancel(job).shown()

    @routes.get(
        "/jobs/{job}/events",
        summary="How a job goes on, as server-sent events `progress` and at last `end`",
        response_class=EventSourceResponse,
        responses=responses("not-found"),
    )
    async def events(watched: Job = known) -> AsyncIterator[ServerSentEvent]:
        seen = -1
        while True:
            state, version = watched.state, watched.version
            if version != seen or state in ENDED:
                seen = version
                name = "end" if state in ENDED else "progress"
                yield ServerSentEvent(data=watched.shown(), event=name, id=str(version))
            if state in ENDED:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    return routes
