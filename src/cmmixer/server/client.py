"""The service from Python, typed.

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
Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(CMMixerError):
    """The service refused, or does not answer.

    Attributes:
        problem: what it said, as RFC 9457 describes it; None where nothing came back.
    """

    def __init__(self, message: str, problem: schemas.Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class Client:
    """A connection to a service. Every method raises `ServiceError` with the service's own words."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8765",
        *,
        token: str | None = None,
        timeout_seconds: float = 300.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Connects with the first call.

        Args:
            address: of the service.
            token: what it was started with, if anything.
            timeout_seconds: longest wait for an answer.
            transport: another way to reach it than the network.
        """
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=timeout_seconds, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._http.close()

    # -------------------------------------------------------------------------------------------------- searching

    def upload(self, path: str | Path, name: str | None = None) -> schemas.Query:
        """Sends a film or a sound to search with; it is read piece by piece."""
        path = Path(path)
        shown = path.name if name is None else name
        headers = {"content-type": "application/octet-stream", "content-length": str(path.stat().st_size)}
        return self._ask(
            schemas.Query, "POST", "/queries", params={"name": shown}, content=_pieces(path), headers=headers
        )

    def forget(self, query: str) -> None:
        """Removes an upload before its time."""
        self._send("DELETE", f"/queries/{query}")

    def search(
        self,
        *,
        query: str | None = None,
        item: str | None = None,
        start_seconds: float | None = None,
        target: schemas.Sense | None = None,
        by: schemas.Sense | None = None,
        rerank: Literal["sequence", "none"] | None = None,
        timeline: bool = False,
        limit: int = 24,
        offset: int = 0,
        **filters: Any,
    ) -> schemas.SearchPage:
        """Moments that go with an upload, with a file of the library, or with one of its moments.

        Args:
            query: id of an upload; or
            item: id of a file of the library.
            start_seconds: only the moment that begins nearest to this second.
            target: what to find; default: the sense that the query lacks, or audio.
            by: what of the query to find it by.
            rerank: whether the best are ordered anew by what happens when; default: where one sense asks for the other.
            timeline: also tell which stretch of the query goes with what.
            limit, offset: which page.
            **filters: fields of `schemas.Filters`.
        """
        wanted = {"query": query, "item": item, "start_seconds": start_seconds}
        wanted |= {"for": target, "by": by, "rerank": rerank}
        return self._ask(
            schemas.SearchPage,
            "GET",
            "/search",
            params={**_given(wanted), **_given(filters), "timeline": timeline, "limit": limit, "offset": offset},
        )

    # ---------------------------------------------------------------------------------------------------- library

    def library(self) -> schemas.Library:
        """What the library holds."""
        return self._ask(schemas.Library, "GET", "/library")

    def items(self, *, sort: schemas.Order = "name", **filters: Any) -> Iterator[schemas.Item]:
        """All files that the filters leave, page by page."""
        offset: int | None = 0
        while offset is not None:
            params = {**_given(filters), "sort": sort, "limit": 200, "offset": offset}
            page = self._ask(schemas.ItemPage, "GET", "/items", params=params)
            yield from page.items
            offset = page.next_offset

    def item(self, item: str) -> schemas.ItemDetail:
        """A file with its moments and columns."""
        return self._ask(schemas.ItemDetail, "GET", f"/items/{item}")

    def peaks(self, item: str, bins: int = 240) -> schemas.Peaks:
        """The waveform of a file."""
        return self._ask(schemas.Peaks, "GET", f"/items/{item}/peaks", params={"bins": bins})

    def thumbnail(self, item: str, seconds: float | None = None) -> bytes:
        """A picture of a film, as JPEG."""
        return self._send("GET", f"/items/{item}/thumbnail", params=_given({"seconds": seconds})).content

    def download(self, item: str, to: str | Path, *, sense: str = "video") -> None:
        """Writes a file of the library to a local one."""
        self._fetch(f"{_PREFIX}/items/{item}/media", {"sense": sense}, to)

    def playback(
        self, item: str, *, sense: str = "video", seconds: float = 0.0, convert: bool = False
    ) -> schemas.Playback:
        """What a browser can play of a file around a second; converted where it needs to be."""
        params = {"sense": sense, "seconds": seconds, "convert": convert}
        return self._ask(schemas.Playback, "GET", f"/items/{item}/playback", params=params)

    def dub(self, order: schemas.DubOrder, to: str | Path) -> schemas.Dub:
        """Has a film written with another sound, and fetches it."""
        made = self._ask(schemas.Dub, "POST", "/dubs", json=order.model_dump(exclude_none=True))
        self._fetch(made.media, {}, to)
        return made

    def cut_list(self, order: schemas.CutListOrder) -> str:
        """Moments as an edit decision list or a table."""
        return self._send("POST", "/cutlists", json=order.model_dump()).text

    # --------------------------------------------------------------------------------------------------- indexing

    def folders(self, parent: str | None = None) -> schemas.FolderListing:
        """Folders that may be indexed, or those inside one."""
        return self._ask(schemas.FolderListing, "GET", "/folders", params=_given({"parent": parent}))

    def index(self, folder: str, *, remove_gone: bool = False) -> schemas.Job:
        """Begins to index a folder."""
        order = {"folder": folder, "remove_gone": remove_gone}
        return self._ask(schemas.Job, "POST", "/jobs", json=order)

    def job(self, job: str) -> schemas.Job:
        """How a job stands."""
        return self._ask(schemas.Job, "GET", f"/jobs/{job}")

    def cancel(self, job: str) -> schemas.Job:
        """Stops a job; what it has indexed stays."""
        return self._ask(schemas.Job, "DELETE", f"/jobs/{job}")

    def watch(self, job: str) -> Iterator[schemas.Job]:
        """How a job goes on, until it has ended."""
        with self._http.stream("GET", f"{_PREFIX}/jobs/{job}/events") as answer:
            if answer.is_error:
                answer.read()
                raise _refused(answer)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield schemas.Job.model_validate_json(line.removeprefix("data:"))

    def health(self) -> schemas.Health:
        """Whether the service is ready."""
        return schemas.Health.model_validate_json(self._request("GET", "/health").content)

    # ------------------------------------------------------------------------------------------------------ inside

    def _fetch(self, address: str, params: dict[str, str], to: str | Path) -> None:
        with self._http.stream("GET", address, params=params) as answer:
            if answer.is_error:
                answer.read()
                raise _refused(answer)
            with Path(to).open("wb") as file:
                for piece in answer.iter_bytes(_CHUNK_BYTES):
                    file.write(piece)

    def _ask(self, kind: type[Answer], method: str, path: str, **options: Any) -> Answer:
        return kind.model_validate_json(self._send(method, path, **options).content)

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self._request(method, _PREFIX + path, **options)

    def _request(self, method: str, address: str, **options: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, address, **options)
        except httpx2.HTTPError as fault:
            raise ServiceError(f"{self._http.base_url}: does not answer ({fault}); is the service running?") from fault
        if answer.is_error:
            raise _refused(answer)
        return answer


def _refused(answer: httpx2.Response) -> ServiceError:
    try:
        problem = schemas.Problem.model_validate_json(answer.content)
    except ValueError:
        return ServiceError(f"{answer.url}: got status {answer.status_code}")
    return ServiceError(f"{problem.title}: {problem.detail}", problem)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece


__all__ = ["Client", "ServiceError"]
