"""The command itself, in a real process: it starts, answers over a real socket, and ends when asked."""

from __future__ import annotations

import contextlib
import json
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.service_process import running_service
from cmmixer.config import IndexSettings, ModelSettings, ServeSettings
from cmmixer.errors import CheckpointError, SearchIndexError, SettingsError
from cmmixer.retrieval.build import index
from cmmixer.server.client import Client
from cmmixer.server.serve import serve
from tests.server.conftest import make_data
from tests.support.coloured_videos import BLUE, CLIP, RED, film
from tests.support.commands import ENVIRONMENT, cmmixer
from tests.support.counting_videos import long_film
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run and an index of it."""
    folder = tmp_path_factory.mktemp("process")
    torch.manual_seed(0)
    untrained_run(folder / "run", CLIP, model=SMALL, embed_dim=12)
    untrained_run(folder / "other", CLIP, model=SMALL, embed_dim=16)
    make_data(folder / "data")
    index(IndexSettings(model=str(folder / "run"), data=str(folder / "data"), index=str(folder / "library"), workers=1))
    return folder


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """Where a real process answers; it is interrupted at the end and must go by itself."""
    flags = ["--workers", "1", "--upload_seconds", "3", "--max_upload_mb", "1", "--roots", str(place / "more")]
    long_film(place / "more" / "day.mp4", 5400)
    with running_service(place / "library", *flags, environment=ENVIRONMENT) as address:
        yield address


def test_it_answers_over_a_real_socket(address: str, place: Path, tmp_path: Path) -> None:
    with Client(address) as client:
        assert client.health().items == 6
        query = client.upload(film(tmp_path / "blue.mp4", [BLUE, RED]))
        hits = client.search(query=query.id).hits
        assert len(hits) >= 4
        client.download(hits[0].item.id, tmp_path / "copy", sense="audio")
        assert (tmp_path / "copy").read_bytes() == (place / "data" / hits[0].item.name).read_bytes()


def test_slow_clients_keep_nobody_waiting(address: str, tmp_path: Path) -> None:
    host, port = address.removeprefix("http://").split(":")
    slow = []
    try:
        for number in range(1000):
            connection = socket.create_connection((host, int(port)), timeout=10)
            # Half of them never end their headers, half never end their upload.
            ends = b"Content-Length: 1000000\r\n\r\nx" if number % 2 else b"X-Slow: "
            connection.sendall(b"POST /api/v1/queries HTTP/1.1\r\nHost: 127.0.0.1\r\n" + ends)
            slow.append(connection)
        with Client(address) as client:
            began = time.monotonic()
            assert client.health().ready
            assert client.search(query=client.upload(film(tmp_path / "a.mp4", [RED])).id).hits
            assert time.monotonic() - began < 20
    finally:
        for connection in slow:
            connection.close()


def test_an_upload_that_takes_too_long_is_told_so(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = b"POST /api/v1/queries?name=slow.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nx"
        connection.sendall(head)
        answer = b""
        while b"}" not in answer and (part := connection.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["detail"] == "slow.mp4: got less than all of it in 3 s"


def test_an_upload_larger_than_the_limit_is_told_so_while_it_comes(address: str, tmp_path: Path) -> None:
    """Without saying its length: the connection is not read to the end, however long it would go on."""
    host, port = address.removeprefix("http://").split(":")
    head = b"POST /api/v1/queries HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head)
        sent = 0
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                connection.sendall(block)
                sent += len(block)
                if select.select([connection], [], [], 0)[0]:
                    break
        answer = b""
        # The body is a packet of its own, which may come later than the head.
        while not answer.endswith(b"}") and (part := connection.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 100 << 20
    assert b"got more than 1 MB" in answer
    _answers(address, tmp_path)


def test_a_job_is_cancelled_half_way(address: str, tmp_path: Path) -> None:
    with Client(address) as client:
        before = client.library().moments
        job = client.index(client.folders().folders[0].id)
        deadline = time.monotonic() + 60
        while client.job(job.id).phase != "embedding films":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        assert client.cancel(job.id).state == "cancelling"
        began = time.monotonic()
        states = list(client.watch(job.id))
        assert states[-1].state == "cancelled"
        assert time.monotonic() - began < 8
        assert client.library().moments == before
    _answers(address, tmp_path)


def _answers(address: str, tmp_path: Path) -> None:
    with Client(address) as client:
        assert client.health().ready
        assert client.search(query=client.upload(film(tmp_path / "again.mp4", [RED])).id).hits


@pytest.mark.parametrize(
    ("options", "fault", "told"),
    [
        ({"index": "{place}/nowhere"}, SearchIndexError, "nowhere: no such index; make one with `cmmixer index"),
        ({"model": "{place}/none"}, CheckpointError, "none: "),
        ({"host": "203.0.113.9", "token": "x" * 16}, SettingsError, "cannot listen at 203.0.113.9"),
        (
            {"host": "no.such.host.invalid", "token": "x" * 16},
            SettingsError,
            "--host no.such.host.invalid: cannot be listened at",
        ),
        ({"roots": "{place}/none"}, SettingsError, "--roots: got "),
        ({"model": "{place}/other"}, SearchIndexError, "library: its vectors are of model "),
        ({"index": "{place}/data"}, SearchIndexError, "data: "),
    ],
)
def test_what_cannot_be_served_is_said(place: Path, options: dict[str, str], fault: type[Exception], told: str) -> None:
    given = {"index": "{place}/library", **options}
    settings = ServeSettings(port=0, **{name: value.replace("{place}", str(place)) for name, value in given.items()})  # type: ignore[arg-type]
    with pytest.raises(fault, match=re.escape(told)):
        serve(settings)


def test_a_port_that_is_taken_is_one_line(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cmmixer("serve", "--index", place / "library", "--port", str(port))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert (
        last
        == f"cmmixer: --port {port}: cannot listen at 127.0.0.1 (Address already in use); choose another --port, or 0 for a free one"
    )


def _served(place: Path, temporary: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "cmmixer", "serve", "--index", str(place / "library"), "--port", "0"]
    environment = {**ENVIRONMENT, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"CMMixer is at (\S+)", line):
            return process, found[1]
    raise AssertionError("it never answered")


def test_temporary_folders_go_on_sigterm_and_after_kill_9_with_the_next_service(place: Path, tmp_path: Path) -> None:
    for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)):
        process, address = _served(place, tmp_path)
        with process, Client(address) as client:
            client.upload(film(tmp_path / "red.mp4", [RED]))
            assert len(list(tmp_path.glob("cmmixer-queries-*"))) == 1
            assert len(list(tmp_path.glob("cmmixer-dubs-*"))) == 1
            process.send_signal(end)
            assert process.wait(60) == code
    assert list(tmp_path.glob("cmmixer-*")) == []


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_search_that_is_ended_leaves_no_copy_of_its_standard_input(
    place: Path, tmp_path: Path, end: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "cmmixer", "search", "--index", str(place / "library"), "-"]
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("cmmixer-query-*/content/standard input")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(end)
        assert process.wait(30) == code
        assert process.stderr is not None
        assert "the same command goes on where it stopped" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []
