"""Endpoints that play files (of the library and uploads) and export them: dubbed videos and cut lists."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Response

from cmmixer.retrieval.hits import Hit
from cmmixer.server import schemas
from cmmixer.server.exports import NamedFile, cut_list
from cmmixer.server.files import FILE_RESPONSES, file_response
from cmmixer.server.playback import PlayableFile
from cmmixer.server.problems import ProblemError, responses
from cmmixer.server.service import PREFIX, Service

ItemId = Annotated[schemas.Id, Path(description="id of a file of the library")]
QueryId = Annotated[schemas.Id, Path(description="id of an uploaded file")]
DubId = Annotated[schemas.Id, Path(description="id of a written video")]
PlayedModality = Annotated[
    Literal["audio", "video"], Query(description="`video` plays video and audio, `audio` the audio alone")
]
PlayedSecond = Annotated[
    schemas.Seconds, Query(description="time to play first; of a long file only a part around it is converted")
]
ForceConversion = Annotated[
    bool, Query(description="convert a format that browsers usually play, but this one did not")
]
ConversionStart = Annotated[schemas.Seconds, Query(description="time in the file at which the converted part begins")]
Result = TypeVar("Result")

_MEDIA_PROBLEMS = ("not-found", "gone", "outside-library", "missing-modality", "unusable-media", "busy", "disk-full")
_CONVERTED_RESPONSES = {**FILE_RESPONSES, **responses(*_MEDIA_PROBLEMS, "out-of-range")}
_LIST_TYPES = {"edl": "text/plain; charset=utf-8", "csv": "text/csv; charset=utf-8"}
_LIST_RESPONSES = {
    200: {
        "description": "The list",
        "content": {"text/plain": {"schema": {"type": "string"}}, "text/csv": {"schema": {"type": "string"}}},
    },
    **responses("not-found", "gone", "outside-library"),
}


def media_router(service: Service) -> APIRouter:
    """Returns the endpoints `/items/{item}/playback`, `/items/{item}/converted`, and the same of `/queries`."""
    routes = APIRouter(tags=["playback"])

    def item_file(item: str, modality: str) -> PlayableFile:
        entry = service.library.snapshot().entry(item)
        return PlayableFile(os.fsdecode(service.file(entry, modality)), f"{entry.content_key} {modality}", entry.name)

    def query_file(query: str) -> PlayableFile:
        upload = service.queries.get(query)
        return PlayableFile(str(upload.path), upload.id, upload.name, upload.info)

    def playback(file: PlayableFile, address: str, modality: str, seconds: float, convert: bool) -> schemas.Playback:
        start = service.playbacks.conversion_start(file, modality, seconds, convert)
        if start is None:
            media = f"{PREFIX}/{address}/media?modality={modality}"
            return schemas.Playback(media=media, start_seconds=0.0, converted=False)
        service.playbacks.converted(file, modality, start)
        media = f"{PREFIX}/{address}/converted?modality={modality}&start_seconds={start:g}"
        return schemas.Playback(media=media, start_seconds=start, converted=True)

    def converted(file: PlayableFile, modality: str, start: float) -> Response:
        path = service.playbacks.converted(file, modality, start)
        return file_response(str(path), path.name)

    async def in_thread(work: Callable[..., Result], *arguments: object) -> Result:
        """Runs in the threads for long work: converting must not hold up other requests."""
        return await asyncio.get_running_loop().run_in_executor(service.embedders, work, *arguments)

    @routes.get(
        "/items/{item}/playback",
        summary="An address that a browser can play, for a file of the library; converted where necessary",
        responses=responses(*_MEDIA_PROBLEMS),
    )
    async def get_item_playback(
        item: ItemId,
        modality: PlayedModality = "video",
        seconds: PlayedSecond = 0.0,
        convert: ForceConversion = False,
    ) -> schemas.Playback:
        return await in_thread(playback, item_file(item, modality), f"items/{item}", modality, seconds, convert)

    @routes.get(
        "/queries/{query}/playback",
        summary="An address that a browser can play, for an uploaded file; converted where necessary",
        responses=responses(*_MEDIA_PROBLEMS),
    )
    async def get_query_playback(
        query: QueryId,
        modality: PlayedModality = "video",
        seconds: PlayedSecond = 0.0,
        convert: ForceConversion = False,
    ) -> schemas.Playback:
        return await in_thread(playback, query_file(query), f"queries/{query}", modality, seconds, convert)

    @routes.get(
        "/items/{item}/converted",
        summary="The converted part of a file of the library, whole or in ranges",
        responses=_CONVERTED_RESPONSES,
        response_class=Response,
    )
    async def get_converted_item(
        item: ItemId, modality: PlayedModality = "video", start_seconds: ConversionStart = 0.0
    ) -> Response:
        return await in_thread(converted, item_file(item, modality), modality, start_seconds)

    @routes.get(
        "/queries/{query}/converted",
        summary="The converted part of an uploaded file, whole or in ranges",
        responses=_CONVERTED_RESPONSES,
        response_class=Response,
    )
    async def get_converted_query(
        query: QueryId, modality: PlayedModality = "video", start_seconds: ConversionStart = 0.0
    ) -> Response:
        return await in_thread(converted, query_file(query), modality, start_seconds)

    return routes


def export_router(service: Service) -> APIRouter:
    """Returns the endpoints `/dubs` and `/cutlists`."""
    routes = APIRouter(tags=["exports"])

    @routes.post(
        "/dubs",
        status_code=201,
        summary="Write a video with new audio: video stream copied, loudness matched",
        responses=responses(*_MEDIA_PROBLEMS),
    )
    async def write_dub(request: schemas.DubRequest) -> schemas.Dub:
        video, audio = _source_file(service, request.video, "video"), _source_file(service, request.audio, "audio")
        loop = asyncio.get_running_loop()
        dubbed = await loop.run_in_executor(service.embedders, service.dubs.write, video, audio, request)
        return dubbed.to_schema(PREFIX)

    @routes.get(
        "/dubs/{dub}/media",
        summary="The content of a written video",
        responses=FILE_RESPONSES,
        response_class=Response,
    )
    def media(dub: DubId) -> Response:
        dubbed = service.dubs.get(dub)
        return file_response(str(dubbed.path), dubbed.name, download=True)

    @routes.post(
        "/cutlists",
        summary="Chosen moments for an editing program, as CMX 3600 or CSV",
        responses=_LIST_RESPONSES,
        response_class=Response,
    )
    def write_cut_list(request: schemas.CutListRequest) -> Response:
        snapshot = service.library.snapshot()
        hits, paths = [], {}
        for rank, moment in enumerate(request.moments, start=1):
            entry = snapshot.entry(moment.item)
            if moment.end_seconds <= moment.start_seconds:
                raise ProblemError(
                    "bad-request",
                    f"{entry.name}: got a moment of {moment.start_seconds:g} .. {moment.end_seconds:g} s, "
                    "expected one that ends after it begins",
                )
            paths[entry.name] = service.file(entry, "audio" if request.target == "audio" else "video")
            row, values = entry.row, moment.model_dump(exclude={"item"})
            hits.append(Hit(rank=rank, path=entry.name, source=row.source, label=row.label, missing=False, **values))
        headers = {"content-disposition": f'attachment; filename="moments.{request.format}"'}
        return Response(cut_list(request, hits, paths), media_type=_LIST_TYPES[request.format], headers=headers)

    return routes


def _source_file(service: Service, source: schemas.MediaSource, modality: str) -> NamedFile:
    if (source.query is None) == (source.item is None):
        raise ProblemError("bad-request", f"{modality}: got neither or both of query and item, expected one of them")
    if source.query is not None:
        upload = service.queries.get(source.query)
        return NamedFile(upload.name, str(upload.path))
    assert source.item is not None
    entry = service.library.snapshot().entry(source.item)
    return NamedFile(entry.name, os.fsdecode(service.file(entry, modality)))
