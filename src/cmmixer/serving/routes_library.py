"""The library over HTTP: what is in it, its files, their previews."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

from cmmixer.serving import schema
from cmmixer.serving.entry import Entry
from cmmixer.serving.media import RESPONSES, THUMBNAIL_RESPONSES, file_response
from cmmixer.serving.problems import responses
from cmmixer.serving.service import Service

ItemId = Annotated[schema.Id, Path(description="id of a file of the library")]
_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name.casefold(),
    "folder": lambda entry: entry.folder.casefold(),
    "label": lambda entry: (entry.row.label is None, (entry.row.label or "").casefold()),
    "duration": lambda entry: entry.duration_seconds,
    "moments": lambda entry: entry.row.moments,
}


def router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["library"])

    @routes.get("/library", summary="What the library holds, and what it can be filtered by", responses=responses())
    def library() -> schema.Library:
        snapshot = service.library.now()
        entries = snapshot.entries.values()
        films = sum(entry.kind == "film" for entry in entries)
        card = snapshot.index.card
        return schema.Library(
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
    def items(wanted: Annotated[schema.ListQuery, Query()]) -> schema.ItemPage:
        filters = schema.Filters(**{name: getattr(wanted, name) for name in schema.Filters.model_fields})
        found = sorted(service.library.now().filtered(filters), key=lambda entry: (entry.name.casefold(), entry.id))
        found.sort(key=_ORDERS[wanted.sort.lstrip("-")], reverse=wanted.sort.startswith("-"))
        last = wanted.offset + wanted.limit
        return schema.ItemPage(
            items=[entry.item() for entry in found[wanted.offset : last]],
            total=len(found),
            offset=wanted.offset,
            next_offset=last if last < len(found) else None,
        )

    @routes.get("/items/{item}", summary="A file of the library, with its moments", responses=responses("not-found"))
    def item(item: ItemId) -> schema.ItemDetail:
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
            schema.Seconds | None, Query(description="at which second; default: a little after its beginning")
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
        start_seconds: Annotated[schema.Seconds | None, Query()] = None,
        end_seconds: Annotated[schema.Seconds | None, Query()] = None,
        bins: Annotated[int, Query(ge=1, le=4000)] = 240,
    ) -> schema.Peaks:
        entry = service.library.now().entry(item)
        start = entry.start_seconds if start_seconds is None else start_seconds
        end = entry.end_seconds if end_seconds is None else min(end_seconds, entry.end_seconds)
        return service.previews.peaks(service.file(entry, "audio"), entry.content, start, end, bins, entry.name)

    return routes
