"""A small library of coloured films whose sounds can be computed by hand, and a service over it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from starlette.testclient import TestClient

from cmmixer.config import IndexSettings, ServeSettings
from cmmixer.retrieval.build import index
from cmmixer.server.app import create_app
from cmmixer.server.service import Service
from tests.support.browser import FLAGS, chromium
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, film, sound

YELLOW = (1.0, 0.6, 0.0)
API = "/api/v1"
# Named so that a page that takes names for markup shows it.
NASTY = "<img src=x onerror=alert(1)>.wav"


def make_data(folder: Path) -> Path:
    """Films and sounds with labels, as a person's folder."""
    film(folder / "films" / "red.mp4", [RED] * 3)
    film(folder / "films" / "mixed.mp4", [GREEN] * 3 + [BLUE] * 2 + [GREEN] * 3, sound=[RED] * 5 + [BLUE, BLUE, RED])
    film(folder / "films" / "mute.mp4", [YELLOW] * 2, sound=None)
    sound(folder / "sounds" / "yellow.wav", [YELLOW] * 2)
    sound(folder / "sounds" / "green.wav", [GREEN] * 4)
    sound(folder / "sounds" / NASTY, [BLUE] * 6)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "camera", "Shot by", "split"])
        writer.writerows(
            [
                ["films/red.mp4", "warm", "reel one", "B", "Ö: N", "train"],
                ["films/mixed.mp4", "cold", "reel one", "A", "", "test"],
                ["films/mute.mp4", "warm", "reel two", "B", "", "train"],
                ["sounds/yellow.wav", "warm", "", "", "<b>x</b>", "train"],
                ["sounds/green.wav", "", "", "", "", ""],
                [f"sounds/{NASTY}", "cold", "", "B", "", "test"],
            ]
        )
    return folder


def make_index(data: Path, folder: Path) -> Path:
    """Its index."""
    index(IndexSettings(model="-", data=str(data), index=str(folder), workers=1), encoder=ColourEncoder())
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that tests only read."""
    folder = tmp_path_factory.mktemp("served")
    return make_index(make_data(folder / "data"), folder / "library")


Served = Callable[..., TestClient]


@pytest.fixture(scope="session")
def shared(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of one service for all tests that change nothing."""
    settings = ServeSettings(index=str(library), cache=str(tmp_path_factory.mktemp("previews")), workers=1, searches=1)
    app = create_app(Service(settings, ColourEncoder()))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def served(tmp_path: Path, library: Path) -> Iterator[Served]:
    """Starts a service with settings of its own."""
    clients = []

    def start(folder: Path = library, **options: Any) -> TestClient:
        base = {"index": str(folder), "cache": str(tmp_path / "previews"), "workers": 1, "searches": 1}
        settings = ServeSettings(**{**base, **options})
        client = TestClient(
            create_app(Service(settings, ColourEncoder())), base_url="http://127.0.0.1", raise_server_exceptions=False
        )
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def upload(client: TestClient, path: Path, name: str | None = None) -> dict[str, Any]:
    """Sends a file; gives the query."""
    answer = client.post(f"{API}/queries", params={"name": name or path.name}, content=path.read_bytes())
    assert answer.status_code == 201, answer.text
    query: dict[str, Any] = answer.json()
    return query


def find(client: TestClient, **wanted: Any) -> dict[str, Any]:
    """One page of hits."""
    answer = client.get(f"{API}/search", params=wanted)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def names(page: dict[str, Any]) -> list[str]:
    """What was found, by name."""
    return [hit["item"]["name"] for hit in page["hits"]]


def items(client: TestClient, **wanted: Any) -> dict[str, dict[str, Any]]:
    """Files of the library by their names."""
    listed = client.get(f"{API}/items", params=wanted).json()
    return {item["name"]: item for item in listed["items"]}


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """Checks that an answer is a whole problem of this kind, and gives it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["type"] == f"/problems/{kind}"
    assert told["title"]
    assert told["detail"]
    assert "\n" not in told["detail"]
    assert "Traceback" not in answer.text
    return told


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; skips, visibly, where there is none."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine; `make system` installs it on Debian")
    with sync_playwright() as driver:
        yield (started := driver.chromium.launch(executable_path=path, args=FLAGS))
        started.close()
