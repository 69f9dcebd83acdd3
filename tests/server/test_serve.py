"""The command `cmmixer serve` before it serves: the address it binds, and what it reports at the end."""

from __future__ import annotations

import resource
import socket

import pytest

from cmmixer.config import ServeSettings
from cmmixer.errors import SettingsError
from cmmixer.server import serve as serve_module
from cmmixer.server.serve import ServeReport


def test_report() -> None:
    report = ServeReport("http://127.0.0.1:8765")
    assert report.as_json() == {"address": "http://127.0.0.1:8765"}
    assert report.render() == "http://127.0.0.1:8765 has stopped"


def test_a_free_port_is_bound_before_anything_is_loaded() -> None:
    with serve_module._listen(ServeSettings(index="/no/such/index", port=0)) as listener:
        host, port = listener.getsockname()
        assert (host, listener.family) == ("127.0.0.1", socket.AF_INET)
        assert port > 0


def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError) as error:
            serve_module._listen(ServeSettings(index="library", port=port))
    assert str(error.value) == (
        f"--port {port}: cannot listen on 127.0.0.1 (Address already in use); choose another --port, or 0 for a free one"
    )


def test_an_address_of_another_machine_is_reported() -> None:
    settings = ServeSettings(index="library", host="203.0.113.9", port=0, token="x" * 16)
    with pytest.raises(SettingsError, match=r"^--port 0: cannot listen on 203\.0\.113\.9 \(Cannot assign"):
        serve_module._listen(settings)


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 4096, (4096, 4096)),
        (1024, 1 << 20, (16384, 1 << 20)),
        (1024, resource.RLIM_INFINITY, (16384, resource.RLIM_INFINITY)),
        (65536, 1 << 20, None),
    ],
)
def test_the_limit_on_open_files_is_raised(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: tuple[int, int] | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    serve_module._allow_many_connections()
    assert limits == ([] if expected is None else [expected])
