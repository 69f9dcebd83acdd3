"""A real S3-compatible server and a real Ray on this machine, each started once; and an actor that is killed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cmmixer.config.data import ClusterSettings
from cmmixer.ray_cluster import connected
from tests.data.conftest import mixed_videos, videos  # noqa: F401
from tests.support.object_storage import BUCKET, environment, object_storage
from tests.support.small_runs import PICO, untrained_run


@pytest.fixture(scope="package")
def endpoint() -> Iterator[str]:
    with object_storage() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty address on a server that the environment names."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="package")
def ray_here() -> Iterator[Any]:
    """Ray on this machine; `connected` uses one that is running already.

    It ends with these tests: Ray ends a driver, without a message, once its raylet is gone.
    """
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with connected(ClusterSettings(engine="ray")):
        yield ray


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("model") / "run", PICO)


def actors() -> list[psutil.Process]:
    """Returns the actors that do the work, of the Ray that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::MapWorker"):
                found.append(process)
        except psutil.Error:
            pass
    return found


@contextmanager
def one_actor_killed(when: Callable[[], bool]) -> Iterator[list[int]]:
    """Kills one actor as soon as `when()` is true; yields the list of killed process ids."""
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set() and not killed:
            for process in actors() if when() else []:
                process.kill()
                killed.append(process.pid)
                break
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()
