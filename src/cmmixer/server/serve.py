"""The command `cmmixer serve`: from settings to a server that runs until it is interrupted."""

from __future__ import annotations

import logging
import resource
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import uvicorn
from rich.console import Console

from cmmixer.config.apps import ServeSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.errors import SettingsError
from cmmixer.progress import NoProgress, Progress

_MAX_OPEN_FILES = 16384
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 30
_SHUTDOWN_SECONDS = 5


@dataclass(frozen=True)
class ServeReport:
    """What `cmmixer serve` reports when it has ended.

    Attributes:
        address: that it listened on.
    """

    address: str

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON."""
        return {"address": self.address}

    def render(self) -> str:
        """Returns one line for a person."""
        return f"{self.address} has stopped"


@accepts_settings(ServeSettings)
def serve(settings: ServeSettings, progress: Progress | None = None) -> ServeReport:
    """Serves until interrupted. Prints the address as soon as the service answers there.

    Raises:
        InputError: the index, the model or the address cannot be used.
    """
    progress = progress or NoProgress()
    progress.start(None, "opening the index and its model")
    listener = _listen(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    with listener, ExitStack() as resources:
        # Imported late: an address in use is reported before torch is loaded.
        from cmmixer.server.app import create_app
        from cmmixer.server.service import Service

        service = resources.enter_context(Service(settings))
        health = service.health()
        _allow_many_connections()
        logging.getLogger("cmmixer.server").addHandler(logging.StreamHandler())
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )
        listener.listen(_BACKLOG)
        progress.start(None, f"{health.items} files, {health.moments} moments at {address}")
        Console(stderr=True).print(
            f"CMMixer is running at {address}  (press Ctrl-C to stop)", highlight=False, soft_wrap=True
        )
        server.run([listener])
    return ServeReport(address)


def _listen(settings: ServeSettings) -> socket.socket:
    """Binds a socket to the address, before anything that takes long.

    Raises:
        SettingsError: the address is in use, or is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"--host {settings.host}: cannot listen on it ({error})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"--port {settings.port}: cannot listen on {settings.host} ({error.strerror}); choose another --port, or 0 for a free one"
        ) from error
    return listener


def _allow_many_connections() -> None:
    """Raises the limit on open files: every slow client holds one, and the usual thousand is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
