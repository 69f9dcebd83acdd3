"""A typed Python client of the service.

from cmmixer.server.client import Client

with Client("http://127.0.0.1:8765") as client:
    query = client.upload("silent.mp4")
    for hit in client.search(query=query.id, target="audio").hits:
        print(hit.score, hit.item.name, hit.moment.start_seconds)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx2
from pydantic import BaseModel

from cmmixer.errors import CMMixerError
from cmmixer.server import schemas

_PREFIX = "/api/v1"
_CHUNK_BYTES = 1 << 20
_PAGE_ITEMS = 200
Schema = TypeVar("Schema", bound=BaseModel)


class ServiceError(CMMixerError):
    """The service refused a request, or does not answer.

    Attributes:
        problem: the error as the service described it (RFC 9457); None where it did not answer.
    """

    def __init__(self, message: str, problem: schemas.Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class Client:
    """A connection to a service. Every method raises `ServiceError` with the error message of the service."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8765",
        *,
        token: str | None = None,
        timeout_seconds: float = 300.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Connects with the first request.

        Args:
            address: of the service.
            token: that the service was started with, if any.
            timeout_seconds: longest wait for a response.
            transport: replaces the network, for tests.
        """
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=timeout_seconds, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def health(self) -> schemas.Health:
        """Returns whether the service is ready."""
        return schemas.Health.model_validate_json(self._request("GET", "/health").content)

    def upload(self, path: str | Path, name: str | None = None) -> schemas.Query:
        """Uploads a video or audio file to search with. The file is read in chunks."""
        path = Path(path)
        headers = {"content-type": "application/octet-stream", "content-length": str(path.stat().st_size)}
        params = {"name": path.name if name is None else name}
        return self._call(schemas.Query, "POST", "/queries", params=params, content=_chunks(path), headers=headers)

    def delete_query(self, query: str) -> None:
        """Deletes an upload before it expires."""
        self._send("DELETE", f"/queries/{query}")

    def search(
        self,
        *,
        query: str | None = None,
        item: str | None = None,
        start_seconds: float | None = None,
        target: schemas.Modality | None = None,
        by: schemas.Modality | None = None,
        rerank: Literal["sequence", "none"] | None = None,
        timeline: bool = False,
        limit: int = 24,
        offset: int = 0,
        **filters: Any,
    ) -> schemas.SearchPage:
        """Returns moments that match an upload, a file of the library, or one of its moments.

        Args:
            query: id of an upload; or
            item: id of a file of the library.
            start_seconds: search with a single moment: the one that begins nearest to this second.
            target: what to find; default: the modality that the query lacks, or audio.
            by: modality of the query to compare; default: the other modality.
            rerank: `sequence` re-ranks the best hits frame by frame, `none` does not; default: re-rank where video
                searches for audio or audio for video.
            timeline: also return which segment of the query matches what.
            limit, offset: the page.
            **filters: fields of `schemas.Filters`.
        """
        request = {"query": query, "item": item, "start_seconds": start_seconds}
        request |= {"for": target, "by": by, "rerank": rerank}
        page = {"timeline": timeline, "limit": limit, "offset": offset}
        return self._call(schemas.SearchPage, "GET", "/search", params={**_given(request), **_given(filters), **page})

    def library(self) -> schemas.Library:
        """Returns the contents of the library and the values it can be filtered by."""
        return self._call(schemas.Library, "GET", "/library")

    def items(self, *, sort: schemas.SortOrder = "name", **filters: Any) -> Iterator[schemas.Item]:
        """Yields all files that pass the filters (fields of `schemas.Filters`), requesting them page by page."""
        offset: int | None = 0
        while offset is not None:
            params = {**_given(filters), "sort": sort, "limit": _PAGE_ITEMS, "offset": offset}
            page = self._call(schemas.ItemPage, "GET", "/items", params=params)
            yield from page.items
            offset = page.next_offset

    def item(self, item: str) -> schemas.ItemDetail:
        """Returns a file with its moments and columns."""
        return self._call(schemas.ItemDetail, "GET", f"/items/{item}")

    def peaks(self, item: str, bins: int = 240) -> schemas.Peaks:
        """Returns the waveform of a file."""
        return self._call(schemas.Peaks, "GET", f"/items/{item}/peaks", params={"bins": bins})

    def thumbnail(self, item: str, seconds: float | None = None) -> bytes:
        """Returns a frame of a video, as JPEG."""
        return self._send("GET", f"/items/{item}/thumbnail", params=_given({"seconds": seconds})).content

    def download(self, item: str, to: str | Path, *, modality: str = "video") -> None:
        """Saves a file of the library as a local file."""
        self._download(f"{_PREFIX}/items/{item}/media", {"modality": modality}, to)

    def playback(
        self, item: str, *, modality: str = "video", seconds: float = 0.0, convert: bool = False
    ) -> schemas.Playback:
        """Returns an address that a browser can play, around a second of a file; converted where necessary."""
        params = {"modality": modality, "seconds": seconds, "convert": convert}
        return self._call(schemas.Playback, "GET", f"/items/{item}/playback", params=params)

    def dub(self, request: schemas.DubRequest, to: str | Path) -> schemas.Dub:
        """Has the service write a video with new audio, and saves it as a local file."""
        dub = self._call(schemas.Dub, "POST", "/dubs", json=request.model_dump(exclude_none=True))
        self._download(dub.media, {}, to)
        return dub

    def cut_list(self, request: schemas.CutListRequest) -> str:
        """Returns moments as an edit decision list or as CSV."""
        return self._send("POST", "/cutlists", json=request.model_dump()).text

    def folders(self, parent: str | None = None) -> schemas.FolderListing:
        """Lists the folders that may be indexed, or the subfolders of one of them."""
        return self._call(schemas.FolderListing, "GET", "/folders", params=_given({"parent": parent}))

    def start_job(self, folder: str, *, remove_missing: bool = False) -> schemas.Job:
        """Starts indexing a folder."""
        request = schemas.JobRequest(folder=folder, remove_missing=remove_missing)
        return self._call(schemas.Job, "POST", "/jobs", json=request.model_dump())

    def jobs(self) -> list[schemas.Job]:
        """Lists the jobs since the service started, newest first."""
        return self._call(schemas.JobList, "GET", "/jobs").jobs

    def job(self, job: str) -> schemas.Job:
        """Returns the state of a job."""
        return self._call(schemas.Job, "GET", f"/jobs/{job}")

    def watch_job(self, job: str) -> Iterator[schemas.Job]:
        """Yields the state of a job with every change, until it has ended."""
        with self._http.stream("GET", f"{_PREFIX}/jobs/{job}/events") as response:
            _raise_for_problem(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield schemas.Job.model_validate_json(line.removeprefix("data:"))

    def cancel_job(self, job: str) -> schemas.Job:
        """Cancels a job; files indexed until then stay in the index."""
        return self._call(schemas.Job, "DELETE", f"/jobs/{job}")

    def _download(self, address: str, params: dict[str, str], to: str | Path) -> None:
        with self._http.stream("GET", address, params=params) as response:
            _raise_for_problem(response)
            with Path(to).open("wb") as file:
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    file.write(chunk)

    def _call(self, schema: type[Schema], method: str, path: str, **options: Any) -> Schema:
        return schema.model_validate_json(self._send(method, path, **options).content)

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self._request(method, _PREFIX + path, **options)

    def _request(self, method: str, address: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, address, **options)
        except httpx2.HTTPError as error:
            raise ServiceError(f"{self._http.base_url}: does not answer ({error}); is the service running?") from error
        _raise_for_problem(response)
        return response


def _raise_for_problem(response: httpx2.Response) -> None:
    if not response.is_error:
        return
    response.read()
    try:
        problem = schemas.Problem.model_validate_json(response.content)
    except ValueError:
        raise ServiceError(f"{response.url}: got status {response.status_code}") from None
    raise ServiceError(f"{problem.title}: {problem.detail}", problem)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


__all__ = ["Client", "ServiceError"]
