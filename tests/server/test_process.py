"""The command `cmmixer serve` in a process of its own: it starts, answers over a socket, and ends when interrupted."""

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
from tests.support.coloured_videos import BLUE, CLIP, RED, video
from tests.support.commands import ENVIRONMENT, cmmixer
from tests.support.counting_videos import long_video
from tests.support.service import make_data
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run and an index made with it."""
    folder = tmp_path_factory.mktemp("process")
    torch.manual_seed(0)
    untrained_run(folder / "run", CLIP, model=SMALL, embed_dim=12)
    untrained_run(folder / "other", CLIP, model=SMALL, embed_dim=16)
    make_data(folder / "data")
    index(IndexSettings(model=str(folder / "run"), data=str(folder / "data"), index=str(folder / "library"), workers=1))
    return folder


@pytest.fixture(scope="module")
def address(workspace: Path) -> Iterator[str]:
    """The address of a process, which is interrupted at the end and must exit by itself."""
    flags = ["--workers", "1", "--upload_seconds", "3", "--max_upload_mb", "1", "--roots", str(workspace / "more")]
    long_video(workspace / "more" / "day.mp4", 5400)
    with running_service(workspace / "library", *flags, environment=ENVIRONMENT) as address:
        yield address


def test_service_answers_over_a_socket(address: str, workspace: Path, tmp_path: Path) -> None:
    with Client(address) as client:
        assert client.health().items == 6
        query = client.upload(video(tmp_path / "blue.mp4", [BLUE, RED]))
        hits = client.search(query=query.id).hits
        assert len(hits) >= 4
        client.download(hits[0].item.id, tmp_path / "copy", modality="audio")
        assert (tmp_path / "copy").read_bytes() == (workspace / "data" / hits[0].item.name).read_bytes()


def test_slow_clients_do_not_block_others(address: str, tmp_path: Path) -> None:
    host, port = address.removeprefix("http://").split(":")
    slow = []
    try:
        for number in range(1000):
            connection = socket.create_connection((host, int(port)), timeout=10)
            # Half of them never finish their headers, half never finish their upload.
            ends = b"Content-Length: 1000000\r\n\r\nx" if number % 2 else b"X-Slow: "
            connection.sendall(b"POST /api/v1/queries HTTP/1.1\r\nHost: 127.0.0.1\r\n" + ends)
            slow.append(connection)
        with Client(address) as client:
            began = time.monotonic()
            assert client.health().ready
            assert client.search(query=client.upload(video(tmp_path / "a.mp4", [RED])).id).hits
            assert time.monotonic() - began < 20
    finally:
        for connection in slow:
            connection.close()


def test_slow_upload_is_refused(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = b"POST /api/v1/queries?name=slow.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nx"
        connection.sendall(head)
        response = b""
        while b"}" not in response and (part := connection.recv(65536)):
            response += part
    assert response.startswith(b"HTTP/1.1 408")
    body = json.loads(response.partition(b"\r\n\r\n")[2])
    assert body["detail"] == "slow.mp4: not complete after 3 s"


def test_large_upload_is_refused_while_it_arrives(address: str, tmp_path: Path) -> None:
    """Without a declared length. The service does not read the rest of an endless body."""
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
        response = b""
        # The body can arrive later than the headers.
        while not response.endswith(b"}") and (part := connection.recv(65536)):
            response += part
    assert response.startswith(b"HTTP/1.1 413")
    assert sent < 100 << 20
    assert b"got more than 1 MB" in response
    _check_search(address, tmp_path)


def test_job_is_cancelled_over_a_socket(address: str, tmp_path: Path) -> None:
    with Client(address) as client:
        before = client.library().moments
        job = client.start_job(client.folders().folders[0].id)
        deadline = time.monotonic() + 60
        while client.job(job.id).phase != "embedding videos":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        assert client.cancel_job(job.id).state == "cancelling"
        began = time.monotonic()
        states = list(client.watch_job(job.id))
        assert states[-1].state == "cancelled"
        assert time.monotonic() - began < 8
        assert client.library().moments == before
    _check_search(address, tmp_path)


def _check_search(address: str, tmp_path: Path) -> None:
    with Client(address) as client:
        assert client.health().ready
        assert client.search(query=client.upload(video(tmp_path / "again.mp4", [RED])).id).hits


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"index": "{folder}/nowhere"},
            SearchIndexError,
            "nowhere: no index there (index.json is missing); make one with `cmmixer index",
        ),
        ({"model": "{folder}/none"}, CheckpointError, "none: "),
        ({"host": "203.0.113.9", "token": "x" * 16}, SettingsError, "cannot listen on 203.0.113.9"),
        (
            {"host": "no.such.host.invalid", "token": "x" * 16},
            SettingsError,
            "--host no.such.host.invalid: cannot listen on it",
        ),
        ({"roots": "{folder}/none"}, SettingsError, "--roots: got "),
        ({"model": "{folder}/other"}, SearchIndexError, "library: its vectors are of model "),
        ({"index": "{folder}/data"}, SearchIndexError, "data: "),
    ],
)
def test_unusable_settings_are_reported(
    workspace: Path, options: dict[str, str], error: type[Exception], message: str
) -> None:
    given = {"index": "{folder}/library", **options}
    values = {name: value.replace("{folder}", str(workspace)) for name, value in given.items()}
    settings = ServeSettings(port=0, **values)  # type: ignore[arg-type]
    with pytest.raises(error, match=re.escape(message)):
        serve(settings)


def test_port_in_use_is_reported_in_one_line(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = cmmixer("serve", "--index", workspace / "library", "--port", str(port))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert (
        last
        == f"cmmixer: --port {port}: cannot listen on 127.0.0.1 (Address already in use); choose another --port, or 0 for a free one"
    )


def _start(workspace: Path, temporary: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "cmmixer", "serve", "--index", str(workspace / "library"), "--port", "0"]
    environment = {**ENVIRONMENT, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"CMMixer is running at (\S+)", line):
            return process, found[1]
    raise AssertionError("the service ended before it answered")


def test_temporary_folders_are_removed_after_a_kill(workspace: Path, tmp_path: Path) -> None:
    for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)):
        process, address = _start(workspace, tmp_path)
        with process, Client(address) as client:
            client.upload(video(tmp_path / "red.mp4", [RED]))
            assert len(list(tmp_path.glob("cmmixer-queries-*"))) == 1
            assert len(list(tmp_path.glob("cmmixer-dubs-*"))) == 1
            process.send_signal(end)
            assert process.wait(60) == code
    assert list(tmp_path.glob("cmmixer-*")) == []


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_search_removes_its_copy_of_standard_input(
    workspace: Path, tmp_path: Path, end: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "cmmixer", "search", "--index", str(workspace / "library"), "-"]
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
        assert "run the same command again to resume" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []
