"""The right to write to a folder of objects: an object that its holder keeps rewriting.

A disk's lock ends with its process; an object stays. So the holder writes it anew every few seconds, and who wants it
watches: one that changes is held, one that stays the same for `LIFE_SECONDS` is of a process that was killed and may be
taken over. Every write names the version it replaces (If-None-Match, If-Match), so of two who try one wins, and clocks of
two machines are never compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

from cmmixer.errors import InputError

LIFE_SECONDS = 20.0
RENEW_SECONDS = 4.0


class Lease:
    """One holder's lease.

    Args:
        store: obstore's client of the folder.
        name: of the object.
        busy: raised where another process holds it.
    """

    def __init__(self, store: Any, name: str, busy: InputError) -> None:
        self._store, self._name, self._busy = store, name, busy
        self._writer = f"{socket.gethostname()}, process {os.getpid()}"
        self._token = os.urandom(8).hex()
        self._version: str | None = None
        self._renewals = 0
        self._renewed = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cmmixer-lease", daemon=True)

    def take(self) -> None:
        """Takes the lease; where the one there is not renewed, after `LIFE_SECONDS`.

        Raises:
            InputError: another process holds it.
        """
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        try:
            try:
                self._write("create")
            except AlreadyExistsError:
                self._write({"e_tag": self._abandoned()})
        except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError) as fault:
            raise self._busy from fault
        self._thread.start()

    def check(self) -> None:
        """Makes sure that the lease is held still.

        Raises:
            InputError: it was taken over, because this process stood still or had no connection for too long.
        """
        if time.monotonic() - self._renewed > LIFE_SECONDS / 2:
            self._renew()
        if self._version is None or time.monotonic() - self._renewed > LIFE_SECONDS / 2:
            raise InputError(
                f"{self._busy}; this process could not keep its right to write (it stood still, or the server did not answer)"
            )

    def give_back(self) -> None:
        """Ends the renewals and removes the object, if it is still this holder's."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            if self._version is not None:
                self._version = None
                self._store.delete(self._name)

    def _abandoned(self) -> str:
        """The version of an object that nobody renews.

        Raises:
            InputError: somebody does.
        """
        version = self._store.head(self._name)["e_tag"]
        deadline = time.monotonic() + LIFE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, LIFE_SECONDS / 10))
            if self._store.head(self._name)["e_tag"] != version:
                raise self._busy
        return str(version)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            self._renew()

    def _renew(self) -> None:
        from obstore.exceptions import BaseError, NotFoundError, PreconditionError

        with self._lock:
            if self._version is None:
                return
            try:
                self._write({"e_tag": self._version})
            except (PreconditionError, NotFoundError, FileNotFoundError):
                self._version = self._own()
            except (BaseError, OSError):
                pass  # no connection: `check` sees how long ago the last renewal was

    def _own(self) -> str | None:
        """The object's version where this holder wrote it: a write whose answer was lost is refused when it is repeated."""
        from obstore.exceptions import BaseError

        try:
            found = self._store.get(self._name)
            own = json.loads(bytes(found.bytes()))["token"] == self._token
        except (BaseError, OSError, ValueError):
            return None
        return str(found.meta["e_tag"]) if own else None

    def _write(self, mode: Any) -> None:
        started = time.monotonic()
        self._renewals += 1
        card = {"writer": self._writer, "renewals": self._renewals, "token": self._token}
        self._version = self._store.put(self._name, json.dumps(card).encode(), mode=mode)["e_tag"]
        self._renewed = started


def is_renewed(store: Any, name: str) -> bool:
    """Whether somebody keeps rewriting the object of a lease: looks twice, a renewal apart."""
    from obstore.exceptions import NotFoundError

    try:
        version = store.head(name)["e_tag"]
        time.sleep(1.5 * RENEW_SECONDS)
        return bool(store.head(name)["e_tag"] != version)
    except (NotFoundError, FileNotFoundError):  # given back meanwhile
        return False
