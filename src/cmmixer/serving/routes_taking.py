"""Taking finds along over HTTP."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

from fastapi import APIRouter, Path, Response

from cmmixer.searching import Hit
from cmmixer.serving import schema
from cmmixer.serving.media import RESPONSES, file_response
from cmmixer.serving.problems import ProblemError, responses
from cmmixer.serving.service import PREFIX, Service
from cmmixer.serving.taking import File, cut_list

DubId = Annotated[schema.Id, Path(description="id of a film that was written")]
_TYPES = {"edl": "text/plain; charset=utf-8", "csv": "text/csv; charset=utf-8"}
_LISTS = {
    200: {
        "description": "The list",
        "content": {"text/plain": {"schema": {"type": "string"}}, "text/csv": {"schema": {"type": "string"}}},
    },
    **responses("not-found", "gone", "outside"),
}


def router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["taking along"])

    @routes.post(
        "/dubs",
        status_code=201,
        summary="Write a film with another sound: pictures copied, loudness matched",
        responses=responses("not-found", "gone", "outside", "missing-sense", "unusable-media", "busy", "disk-full"),
    )
    async def write(order: schema.DubOrder) -> schema.Dub:
        film, sound = _file(service, order.film, "video"), _file(service, order.sound, "audio")
        work = asyncio.get_running_loop().run_in_executor(service.embedders, service.dubs.write, film, sound, order)
        return (await work).shown(PREFIX)

    @routes.get("/dubs/{dub}/media", summary="A film that was written", responses=RESPONSES, response_class=Response)
    def media(dub: DubId) -> Response:
        found = service.dubs.get(dub)
        return file_response(str(found.path), found.name, download=True)

    @routes.post(
        "/cutlists",
        summary="Chosen moments for an editing program, as CMX 3600 or CSV",
        responses=_LISTS,
        response_class=Response,
    )
    def listed(order: schema.CutListOrder) -> Response:
        library = service.library.now()
        moments, files = [], {}
        for rank, chosen in enumerate(order.moments, start=1):
            entry = library.entry(chosen.item)
            if chosen.end_seconds <= chosen.start_seconds:
                raise ProblemError("bad-request", f"{entry.name}: its moment must end after it begins")
            files[entry.name] = service.file(entry, "audio" if order.target == "audio" else "video")
            row, values = entry.row, chosen.model_dump(exclude={"item"})
            moments.append(Hit(rank=rank, path=entry.name, source=row.source, label=row.label, missing=False, **values))
        named = {"content-disposition": f'attachment; filename="moments.{order.format}"'}
        return Response(cut_list(order, moments, files), media_type=_TYPES[order.format], headers=named)

    return routes


def _file(service: Service, source: schema.Source, sense: str) -> File:
    if (source.query is None) == (source.item is None):
        raise ProblemError("bad-request", "film and sound: each needs a query or an item, and not both")
    if source.query is not None:
        query = service.queries.get(source.query)
        return File(query.name, str(query.path))
    assert source.item is not None
    entry = service.library.now().entry(source.item)
    return File(entry.name, os.fsdecode(service.file(entry, sense)))
