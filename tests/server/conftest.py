"""Fixtures: an index that tests only read, services over it, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from starlette.testclient import TestClient

from tests.support.browser import FLAGS, TIMEOUT_MS, find_chromium
from tests.support.service import StartService, make_data, make_index, service_client


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that tests only read; its media are in `data` beside it."""
    folder = tmp_path_factory.mktemp("served")
    return make_index(make_data(folder / "data"), folder / "library")


@pytest.fixture(scope="session")
def shared_client(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of one service, for all tests that change nothing."""
    with service_client(index=str(library), cache=str(tmp_path_factory.mktemp("previews"))) as client:
        yield client


@pytest.fixture
def start_service(tmp_path: Path, library: Path) -> Iterator[StartService]:
    """Starts services with settings of their own, which end with the test."""
    with ExitStack() as clients:

        def start(folder: Path = library, **settings: Any) -> TestClient:
            options = {"index": str(folder), "cache": str(tmp_path / "previews"), **settings}
            return clients.enter_context(service_client(**options))

        yield start


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of the system; skips visibly where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine; `make system` installs it on Debian")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
