"""What a page plays, over HTTP: of the library's files and of uploads alike.

Taking finds along over HTTP.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Response

from cmmixer.retrieval.hits import Hit
from cmmixer.server import schemas
from cmmixer.server.exports import File, cut_list
from cmmixer.server.files import RESPONSES, file_response
from cmmixer.server.playback import Playable
from cmmixer.server.problems import ProblemError, responses
from cmmixer.server.service import PREFIX, Service

ItemId = Annotated[schemas.Id, Path(description="id of a file of the library")]

QueryId = Annotated[schemas.Id, Path(description="id of an uploaded file")]

Sense = Annotated[
    Literal["audio", "video"], Query(description="`video`: picture and sound; `audio`: only the sound is played")
]

Near = Annotated[
    schemas.Seconds, Query(description="what is to be played first; of a long file a stretch around it is converted")
]

Convert = Annotated[bool, Query(description="convert it though browsers usually play such a file: this one did not")]

Start = Annotated[schemas.Seconds, Query(description="second of the file where the version begins")]

Answer = TypeVar("Answer")

_PROBLEMS = responses("not-found", "gone", "outside", "missing-sense", "unusable-media", "busy", "disk-full")

_VERSIONS = {
    **RESPONSES,
    **responses("not-found", "gone", "outside", "range", "missing-sense", "unusable-media", "busy", "disk-full"),
}


def media_router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["playing"])

    def item_file(item: str, sense: str) -> Playable:
        entry = service.library.now().entry(item)
        return Playable(os.fsdecode(service.file(entry, sense)), f"{entry.content} {sense}", entry.name)

    def query_file(query: str) -> Playable:
        found = service.queries.get(query)
        return Playable(str(found.path), found.id, found.name, found.info)

    def playback(file: Playable, place: str, sense: str, seconds: float, convert: bool) -> schemas.Playback:
        start = service.playbacks.start_of(file, sense, seconds, convert)
        if start is None:
            return schemas.Playback(media=f"{PREFIX}/{place}/media?sense={sense}", starts_seconds=0.0, converted=False)
        service.playbacks.version(file, sense, start)
        media = f"{PREFIX}/{place}/version?sense={sense}&start_seconds={start:g}"
        return schemas.Playback(media=media, starts_seconds=start, converted=True)

    def version(file: Playable, sense: str, start: float) -> Response:
        path = str(service.playbacks.version(file, sense, start))
        return file_response(path, path)

    async def apart(work: Callable[..., Answer], *arguments: object) -> Answer:
        """Not one of the threads that answer everything else: converting may take long."""
        return await asyncio.get_running_loop().run_in_executor(service.embedders, work, *arguments)

    @routes.get(
        "/items/{item}/playback",
        summary="What a browser can play of a file of the library, converted where it needs to be",
        responses=_PROBLEMS,
    )
    async def of_item(
        item: ItemId, sense: Sense = "video", seconds: Near = 0.0, convert: Convert = False
    ) -> schemas.Playback:
        return await apart(playback, item_file(item, sense), f"items/{item}", sense, seconds, convert)

    @routes.get(
        "/queries/{query}/playback",
        summary="What a browser can play of an uploaded file, converted where it needs to be",
        responses=_PROBLEMS,
    )
    async def of_query(
        query: QueryId, sense: Sense = "video", seconds: Near = 0.0, convert: Convert = False
    ) -> schemas.Playback:
        return await apart(playback, query_file(query), f"queries/{query}", sense, seconds, convert)

    @routes.get(
        "/items/{item}/version",
        summary="The converted version of a file of the library, whole or in ranges",
        responses=_VERSIONS,
        response_class=Response,
    )
    async def item_version(item: ItemId, sense: Sense = "video", start_seconds: Start = 0.0) -> Response:
        return await apart(version, item_file(item, sense), sense, start_seconds)

    @routes.get(
        "/queries/{query}/version",
        summary="The converted version of an uploaded file, whole or in ranges",
        responses=_VERSIONS,
        response_class=Response,
    )
    async def query_version(query: QueryId, sense: Sense = "video", start_seconds: Start = 0.0) -> Response:
        return await apart(version, query_file(query), sense, start_seconds)

    return routes


DubId = Annotated[schemas.Id, Path(description="id of a film that was written")]

_TYPES = {"edl": "text/plain; charset=utf-8", "csv": "text/csv; charset=utf-8"}

_LISTS = {
    200: {
        "description": "The list",
        "content": {"text/plain": {"schema": {"type": "string"}}, "text/csv": {"schema": {"type": "string"}}},
    },
    **responses("not-found", "gone", "outside"),
}


def export_router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["taking along"])

    @routes.post(
        "/dubs",
        status_code=201,
        summary="Write a film with another sound: pictures copied, loudness matched",
        responses=responses("not-found", "gone", "outside", "missing-sense", "unusable-media", "busy", "disk-full"),
    )
    async def write(order: schemas.DubOrder) -> schemas.Dub:
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
    def listed(order: schemas.CutListOrder) -> Response:
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


def _file(service: Service, source: schemas.Source, sense: str) -> File:
    if (source.query is None) == (source.item is None):
        raise ProblemError("bad-request", "film and sound: each needs a query or an item, and not both")
    if source.query is not None:
        query = service.queries.get(source.query)
        return File(query.name, str(query.path))
    assert source.item is not None
    entry = service.library.now().entry(source.item)
    return File(entry.name, os.fsdecode(service.file(entry, sense)))
