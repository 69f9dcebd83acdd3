"""Indexing folders over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from cmmixer.serving import schema
from cmmixer.serving.jobs import ENDED, Job
from cmmixer.serving.problems import responses
from cmmixer.serving.service import Service

JobId = Annotated[schema.Id, Path(description="id of a job")]
_LOOK_SECONDS = 0.15


def router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["indexing"])

    def found(job: JobId) -> Job:
        """Before the answer begins: once events flow, no problem can be told any more."""
        return service.jobs.get(job)

    known = Depends(found)

    @routes.get("/folders", summary="Folders that may be indexed", responses=responses("not-found", "gone", "outside"))
    def folders(
        parent: Annotated[
            schema.Id | None, Query(description="list what is inside this folder; default: the allowed ones")
        ] = None,
    ) -> schema.FolderListing:
        rows = [entry.row for entry in service.library.now().entries.values()]
        counts = Counter(str(PurePath(row.path).parent) for row in rows)
        return service.folders.listing(parent, counts)

    @routes.post(
        "/jobs",
        status_code=202,
        summary="Index a folder in the background",
        responses=responses("not-found", "gone", "outside", "conflict", "busy"),
    )
    def start(order: schema.JobOrder) -> schema.Job:
        folder = service.folders.find(order.folder)
        return service.jobs.start(order.folder, folder.name, folder.path, order.remove_gone).shown()

    @routes.get("/jobs", summary="Jobs since the service started", responses=responses())
    def jobs() -> schema.JobList:
        return schema.JobList(jobs=[job.shown() for job in service.jobs.all()])

    @routes.get("/jobs/{job}", summary="How a job stands, and what it left out", responses=responses("not-found"))
    def job(job: JobId) -> schema.Job:
        return service.jobs.get(job).shown()

    @routes.delete(
        "/jobs/{job}",
        summary="Cancel a job; what was indexed until then stays",
        responses=responses("not-found", "conflict"),
    )
    def cancel(job: JobId) -> schema.Job:
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
