"""What a page plays, over HTTP: of the library's files and of uploads alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Response

from cmmixer.serving import schema
from cmmixer.serving.media import RESPONSES, file_response
from cmmixer.serving.playback import Playable
from cmmixer.serving.problems import responses
from cmmixer.serving.service import PREFIX, Service

ItemId = Annotated[schema.Id, Path(description="id of a file of the library")]
QueryId = Annotated[schema.Id, Path(description="id of an uploaded file")]
Sense = Annotated[
    Literal["audio", "video"], Query(description="`video`: picture and sound; `audio`: only the sound is played")
]
Near = Annotated[
    schema.Seconds, Query(description="what is to be played first; of a long file a stretch around it is converted")
]
Convert = Annotated[bool, Query(description="convert it though browsers usually play such a file: this one did not")]
Start = Annotated[schema.Seconds, Query(description="second of the file where the version begins")]
Answer = TypeVar("Answer")
_PROBLEMS = responses("not-found", "gone", "outside", "missing-sense", "unusable-media", "busy", "disk-full")
_VERSIONS = {
    **RESPONSES,
    **responses("not-found", "gone", "outside", "range", "missing-sense", "unusable-media", "busy", "disk-full"),
}


def router(service: Service) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["playing"])

    def item_file(item: str, sense: str) -> Playable:
        entry = service.library.now().entry(item)
        return Playable(os.fsdecode(service.file(entry, sense)), f"{entry.content} {sense}", entry.name)

    def query_file(query: str) -> Playable:
        found = service.queries.get(query)
        return Playable(str(found.path), found.id, found.name, found.info)

    def playback(file: Playable, place: str, sense: str, seconds: float, convert: bool) -> schema.Playback:
        start = service.playbacks.start_of(file, sense, seconds, convert)
        if start is None:
            return schema.Playback(media=f"{PREFIX}/{place}/media?sense={sense}", starts_seconds=0.0, converted=False)
        service.playbacks.version(file, sense, start)
        media = f"{PREFIX}/{place}/version?sense={sense}&start_seconds={start:g}"
        return schema.Playback(media=media, starts_seconds=start, converted=True)

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
    ) -> schema.Playback:
        return await apart(playback, item_file(item, sense), f"items/{item}", sense, seconds, convert)

    @routes.get(
        "/queries/{query}/playback",
        summary="What a browser can play of an uploaded file, converted where it needs to be",
        responses=_PROBLEMS,
    )
    async def of_query(
        query: QueryId, sense: Sense = "video", seconds: Near = 0.0, convert: Convert = False
    ) -> schema.Playback:
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
