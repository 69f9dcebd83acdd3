"""A small library of colored videos whose audio can be computed by hand, and plain functions that call a service over it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from cmmixer.config import IndexSettings, ServeSettings
from cmmixer.retrieval.build import index
from cmmixer.retrieval.schema import FileRow
from cmmixer.server.app import create_app
from cmmixer.server.entry import Entry, id_of, shown_path
from cmmixer.server.service import Service
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video

YELLOW = (1.0, 0.6, 0.0)
API = "/api/v1"
NO_ID = "0" * 24
# A page that takes names for markup would run this.
NASTY = "<img src=x onerror=alert(1)>.wav"
StartService = Callable[..., TestClient]


def make_data(folder: Path) -> Path:
    """Writes videos, sounds and a manifest with labels, like the folder of a person."""
    video(folder / "videos" / "red.mp4", [RED] * 3)
    video(folder / "videos" / "mixed.mp4", [GREEN] * 3 + [BLUE] * 2 + [GREEN] * 3, sound=[RED] * 5 + [BLUE, BLUE, RED])
    video(folder / "videos" / "mute.mp4", [YELLOW] * 2, sound=None)
    sound(folder / "sounds" / "yellow.wav", [YELLOW] * 2)
    sound(folder / "sounds" / "green.wav", [GREEN] * 4)
    sound(folder / "sounds" / NASTY, [BLUE] * 6)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "camera", "Shot by", "split"])
        writer.writerows(
            [
                ["videos/red.mp4", "warm", "reel one", "B", "Ö: N", "train"],
                ["videos/mixed.mp4", "cold", "reel one", "A", "", "test"],
                ["videos/mute.mp4", "warm", "reel two", "B", "", "train"],
                ["sounds/yellow.wav", "warm", "", "", "<b>x</b>", "train"],
                ["sounds/green.wav", "", "", "", "", ""],
                [f"sounds/{NASTY}", "cold", "", "B", "", "test"],
            ]
        )
    return folder


def make_index(data: Path, folder: Path) -> Path:
    """Indexes a folder of media."""
    index(IndexSettings(model="-", data=str(data), index=str(folder), workers=1), encoder=ColourEncoder())
    return folder


def make_entry(start_seconds: float = 0.0, end_seconds: float = 9.6, **values: Any) -> Entry:
    """Returns a file of a library, `/media/harbour/gulls.mp4` unless `values` of its row say otherwise."""
    row: dict[str, Any] = {
        "name": "/media/harbour/gulls.mp4",
        "path": "/media/harbour/gulls.mp4",
        "audio_path": None,
        "root": "/media",
        "source": "harbour/gulls",
        "label": "gull",
        "sizes": [1000],
        "mtimes_ns": [1],
        "sha256": "ab" * 32,
        "status": "used",
        "reason": None,
        "message": None,
        "limit_seconds": 60.0,
        "moments": 4,
        "batch": "b1",
    }
    file = FileRow(**{**row, **values})
    return Entry(file, id_of("item", file.name), shown_path(file), start_seconds, end_seconds)


@contextmanager
def service_client(**settings: Any) -> Iterator[TestClient]:
    """Starts a service in this process; yields a client of it."""
    service = Service(ServeSettings(**{"workers": 1, "searches": 1, **settings}), ColourEncoder())
    with TestClient(create_app(service), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def service_of(client: TestClient) -> Service:
    """Returns the service behind a client."""
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    return service


def upload(client: TestClient, path: Path, name: str | None = None) -> dict[str, Any]:
    """Uploads a file; returns the query."""
    response = client.post(f"{API}/queries", params={"name": name or path.name}, content=path.read_bytes())
    assert response.status_code == 201, response.text
    query: dict[str, Any] = response.json()
    return query


def find(client: TestClient, **parameters: Any) -> dict[str, Any]:
    """Searches; returns one page of hits."""
    response = client.get(f"{API}/search", params=parameters)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def names(page: dict[str, Any]) -> list[str]:
    """Returns the names of the files of the hits."""
    return [hit["item"]["name"] for hit in page["hits"]]


def items(client: TestClient, **parameters: Any) -> dict[str, dict[str, Any]]:
    """Returns files of the library by name."""
    listed = client.get(f"{API}/items", params=parameters).json()
    return {item["name"]: item for item in listed["items"]}


def problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """Checks that a response is a complete problem of a type; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"] == f"/problems/{kind}"
    assert body["title"]
    assert body["detail"]
    assert "\n" not in body["detail"]
    assert "Traceback" not in response.text
    return body
