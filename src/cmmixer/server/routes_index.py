"""Endpoints of the library (its files and their previews) and of the jobs that index folders."""

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
from cmmixer.server.files import FILE_RESPONSES, THUMBNAIL_RESPONSES, file_response
from cmmixer.server.jobs import ENDED, Job
from cmmixer.server.problems import responses
from cmmixer.server.service import Service

ItemId = Annotated[schemas.Id, Path(description="id of a file of the library")]
JobId = Annotated[schemas.Id, Path(description="id of a job")]

_POLL_SECONDS = 0.15
_SORT_KEYS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name.casefold(),
    "folder": lambda entry: entry.folder.casefold(),
    "label": lambda entry: (entry.row.label is None, (entry.row.label or "").casefold()),
    "duration": lambda entry: entry.duration_seconds,
    "moments": lambda entry: entry.row.moments,
}


def library_router(service: Service) -> APIRouter:
    """Returns the endpoints `/library` and `/items`."""
    routes = APIRouter(tags=["library"])

    @routes.get(
        "/library", summary="Contents of the library, and the values it can be filtered by", responses=responses()
    )
    def get_library() -> schemas.Library:
        snapshot = service.library.snapshot()
        entries = snapshot.entries.values()
        videos = sum(entry.kind == "video" for entry in entries)
        segments = snapshot.index.metadata.segmentation.complete(snapshot.index.metadata.clip)
        assert segments.moment_seconds is not None
        assert segments.stride_seconds is not None
        return schemas.Library(
            items=len(entries),
            videos=videos,
            audio_files=len(entries) - videos,
            moments=snapshot.index.count(),
            seconds=round(sum(entry.duration_seconds for entry in entries), 1),
            longest_seconds=max((entry.duration_seconds for entry in entries), default=0.0),
            moment_seconds=segments.moment_seconds,
            stride_seconds=segments.stride_seconds,
            model_id=snapshot.index.metadata.model_id,
            folders=snapshot.folders,
            labels=snapshot.labels,
            columns=snapshot.columns,
            metadata=snapshot.metadata,
        )

    @routes.get("/items", summary="List the files of the library, filtered and sorted", responses=responses())
    def list_items(request: Annotated[schemas.ListRequest, Query()]) -> schemas.ItemPage:
        filters = schemas.Filters(**{name: getattr(request, name) for name in schemas.Filters.model_fields})
        entries = service.library.snapshot().filtered(filters)
        # The second sort is stable, so entries with equal keys stay in the order of their names.
        entries.sort(key=lambda entry: (entry.name.casefold(), entry.id))
        entries.sort(key=_SORT_KEYS[request.sort.lstrip("-")], reverse=request.sort.startswith("-"))
        last = request.offset + request.limit
        return schemas.ItemPage(
            items=[entry.item() for entry in entries[request.offset : last]],
            total=len(entries),
            offset=request.offset,
            next_offset=last if last < len(entries) else None,
        )

    @routes.get("/items/{item}", summary="A file of the library, with its moments", responses=responses("not-found"))
    def get_item(item: ItemId) -> schemas.ItemDetail:
        snapshot = service.library.snapshot()
        entry = snapshot.entry(item)
        return entry.detail(snapshot.index.moments_of(entry.batch))

    @routes.get(
        "/items/{item}/media",
        summary="The content of a file, whole or in ranges",
        responses=FILE_RESPONSES,
        response_class=Response,
    )
    def media(
        item: ItemId,
        modality: Annotated[
            Literal["audio", "video"],
            Query(description="`audio` gives the separate audio file, where there is one"),
        ] = "video",
        download: Annotated[
            bool, Query(description="whether a browser should save the file instead of showing it")
        ] = False,
    ) -> Response:
        path = service.file(service.library.snapshot().entry(item), modality)
        return file_response(path, PurePath(os.fsdecode(path)).name, download=download)

    @routes.get(
        "/items/{item}/thumbnail",
        summary="A frame of a video, as JPEG",
        responses=THUMBNAIL_RESPONSES,
        response_class=Response,
    )
    def thumbnail(
        item: ItemId,
        seconds: Annotated[
            schemas.Seconds | None, Query(description="time of the frame; default: a little after the beginning")
        ] = None,
    ) -> Response:
        entry = service.library.snapshot().entry(item)
        if seconds is None:
            seconds = entry.start_seconds + 0.2 * min(entry.duration_seconds, 20.0)
        jpeg = service.previews.thumbnail(service.file(entry, "video"), entry.content_key, seconds, entry.name)
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @routes.get(
        "/items/{item}/peaks",
        summary="The waveform of a file or of a span of it",
        responses=responses(
            "not-found", "gone", "outside-library", "out-of-range", "missing-modality", "unusable-media"
        ),
    )
    def peaks(
        item: ItemId,
        start_seconds: Annotated[schemas.Seconds | None, Query()] = None,
        end_seconds: Annotated[schemas.Seconds | None, Query()] = None,
        bins: Annotated[int, Query(ge=1, le=4000)] = 240,
    ) -> schemas.Peaks:
        entry = service.library.snapshot().entry(item)
        start = entry.start_seconds if start_seconds is None else start_seconds
        end = entry.end_seconds if end_seconds is None else min(end_seconds, entry.end_seconds)
        return service.previews.peaks(service.file(entry, "audio"), entry.content_key, start, end, bins, entry.name)

    return routes


def job_router(service: Service) -> APIRouter:
    """Returns the endpoints `/folders` and `/jobs`."""
    routes = APIRouter(tags=["indexing"])

    def find_job(job: JobId) -> Job:
        """Looks the job up before the response begins: once events are sent, the status can no longer be 404."""
        return service.jobs.get(job)

    watched_job = Depends(find_job)

    @routes.get(
        "/folders",
        summary="List the folders that may be indexed",
        responses=responses("not-found", "gone", "outside-library"),
    )
    def list_folders(
        parent: Annotated[
            schemas.Id | None, Query(description="list the subfolders of this folder; default: the allowed folders")
        ] = None,
    ) -> schemas.FolderListing:
        rows = [entry.row for entry in service.library.snapshot().entries.values()]
        counts = Counter(str(PurePath(row.path).parent) for row in rows)
        return service.folders.listing(parent, counts)

    @routes.post(
        "/jobs",
        status_code=202,
        summary="Index a folder in the background",
        responses=responses("not-found", "gone", "outside-library", "conflict", "busy"),
    )
    def start_job(request: schemas.JobRequest) -> schemas.Job:
        folder = service.folders.find(request.folder)
        return service.jobs.start(request.folder, folder.name, folder.path, request.remove_missing).to_schema()

    @routes.get("/jobs", summary="Jobs since the service started", responses=responses())
    def list_jobs() -> schemas.JobList:
        return schemas.JobList(jobs=[job.to_schema() for job in service.jobs.all()])

    @routes.get(
        "/jobs/{job}", summary="The state of a job, and the files that it skipped", responses=responses("not-found")
    )
    def get_job(job: JobId) -> schemas.Job:
        return service.jobs.get(job).to_schema()

    @routes.delete(
        "/jobs/{job}",
        summary="Cancel a job; files indexed until then stay in the index",
        responses=responses("not-found", "conflict"),
    )
    def cancel_job(job: JobId) -> schemas.Job:
        return service.jobs.cancel(job).to_schema()

    @routes.get(
        "/jobs/{job}/events",
        summary="Progress of a job, as server-sent events `progress` and finally `end`",
        response_class=EventSourceResponse,
        responses=responses("not-found"),
    )
    async def watch_job(job: Job = watched_job) -> AsyncIterator[ServerSentEvent]:
        sent_version = -1
        while True:
            state, version = job.state, job.version
            if version != sent_version or state in ENDED:
                sent_version = version
                name = "end" if state in ENDED else "progress"
                yield ServerSentEvent(data=job.to_schema(), event=name, id=str(version))
            if state in ENDED:
                return
            await asyncio.sleep(_POLL_SECONDS)

    return routes
