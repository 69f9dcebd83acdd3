"""`cmmixer serve`: from the settings to a service that answers until it is stopped."""

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
from cmmixer.errors import SettingsError
from cmmixer.progress import NoProgress, Progress

_WANTED_FILES = 16384
_BACKLOG = 2048
_IDLE_SECONDS = 30
_STOP_SECONDS = 5


@dataclass(frozen=True)
class Served:
    """What is left to say when the service has ended.

    Attributes:
        address: where it listened.
    """

    address: str

    def as_json(self) -> dict[str, Any]:
        return {"address": self.address}

    def render(self) -> str:
        """One line."""
        return f"{self.address} has stopped"


def serve(settings: ServeSettings, progress: Progress | None = None) -> Served:
    """Serves until interrupted. The address is printed once it answers.

    Raises:
        InputError: an index, a model or an address that cannot be used.
    """
    progress = progress or NoProgress()
    progress.start(None, "opening the index and its model")
    listener = _listen(settings)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    with listener, ExitStack() as held:
        # Not at the top: an address that is taken is told before torch is waited for.
        from cmmixer.server.app import create_app
        from cmmixer.server.service import Service

        service = held.enter_context(Service(settings))
        health = service.health()
        _allow_many_connections()
        logging.getLogger("cmmixer.server").addHandler(logging.StreamHandler())
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        listener.listen(_BACKLOG)
        progress.start(None, f"{health.items} files, {health.moments} moments at {address}")
        Console(stderr=True).print(f"CMMixer is at {address}  (Ctrl-C stops it)", highlight=False, soft_wrap=True)
        server.run([listener])
    return Served(address)


def _listen(settings: ServeSettings) -> socket.socket:
    """A socket at the address, before anything that takes long.

    Raises:
        SettingsError: the address is not this machine's, or taken.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as fault:
        raise SettingsError(f"--host {settings.host}: cannot be listened at ({fault})") from fault
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as fault:
        listener.close()
        raise SettingsError(
            f"--port {settings.port}: cannot listen at {settings.host} ({fault.strerror}); choose another --port, or 0 for a free one"
        ) from fault
    return listener


def _allow_many_connections() -> None:
    """Slow clients each hold a file descriptor; the usual thousand is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
