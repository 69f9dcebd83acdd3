"""A folder in S3 or in any object storage that speaks its language and has conditional writes.

Credentials, region and endpoint come from the usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL); obstore and Lance stand on the same Rust library
and read them alike.

The right to write to a folder of objects: an object that its holder keeps rewriting.

A disk's lock ends with its process; an object stays. So the holder writes it anew every few seconds, and who wants it
watches: one that changes is held, one that stays the same for `LIFE_SECONDS` is of a process that was killed and may be
taken over. Every write names the version it replaces (If-None-Match, If-Match), so of two who try one wins, and clocks of
two machines are never compared.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from cmmixer.errors import InputError, SettingsError

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


# One look is answered in seconds or the address is wrong; work that has begun waits out a server that restarts.
_LOOK = {"connect_timeout": "3s", "timeout": "6s"}

_WORK = {"connect_timeout": "10s", "timeout": "120s"}

# Status codes only as the libraries tell them: names of objects may hold such digits.
_DENIED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|(status|code)\W{1,3}40[13]\b|\b40[13] (Forbidden|Unauthorized)"
)

_LOOK_RETRIES, _WORK_RETRIES = (1, timedelta(seconds=6)), (8, timedelta(seconds=90))


class ObjectFolder:
    """See `Folder`. Opening one asks the server nothing; `make` and every reader do.

    Args:
        url: s3://BUCKET/NAME.
        whole_bucket: whether s3://BUCKET will do too.

    Raises:
        SettingsError: another address, or obstore is not installed.
    """

    def __init__(self, url: str, *, whole_bucket: bool = False) -> None:
        self.url = url.rstrip("/")
        bucket, _, self.prefix = self.url.removeprefix("s3://").partition("/")
        if not bucket or not (self.prefix or whole_bucket):
            raise SettingsError(f"{url}: expected s3://BUCKET/NAME, a bucket and a name in it")
        if importlib.util.find_spec("obstore") is None:
            raise SettingsError(
                f"{url}: object storage needs obstore, which is not installed; pip install 'cmmixer[s3]'"
            )
        self.bucket = bucket
        self.storage_options: dict[str, str] | None = {
            "allow_http": _allow_http(),
            **_WORK,
            "client_max_retries": str(_WORK_RETRIES[0]),
            "client_retry_timeout": str(int(_WORK_RETRIES[1].total_seconds())),
        }
        self._stores: dict[bool, Any] = {}
        self._parts: dict[str, int] = {}
        self._reached = False

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        # A client keeps threads and connections; the other process makes its own.
        return {**self.__dict__, "_stores": {}, "_variables": aws_variables()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A loading process is forked from a server that may have been started before these were set.
        for name, value in state.pop("_variables").items():
            os.environ.setdefault(name, value)
        self.__dict__.update(state)

    def child(self, name: str) -> str:
        return f"{self.url}/{name}"

    def make(self) -> None:
        self.names()

    def has(self, name: str) -> bool:
        from obstore.exceptions import NotFoundError

        with self._told():
            try:
                self._store().head(name)
            except (NotFoundError, FileNotFoundError) as fault:
                if "NoSuchBucket" in str(fault):
                    raise
                return False
        return True

    def has_below(self, name: str) -> bool:
        with self._told():
            return any(len(chunk) for chunk in self._store().list(f"{name}/", chunk_size=1))

    def names(self) -> list[str]:
        with self._told():
            found = self._store().list_with_delimiter("")
        paths = [*(item["path"] for item in found["objects"]), *found["common_prefixes"]]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def read_text(self, name: str) -> str:
        with self._told():
            return bytes(self._store().get(name).bytes()).decode("utf-8")

    def write_text(self, name: str, text: str) -> None:
        with self._told():
            self._store().put(name, text.encode())

    def write_file(self, name: str, path: Any) -> None:
        """Uploads a file of this machine; it shows when all of it is there."""
        with self._told():
            self._store().put(name, path)

    def read_lines(self, name: str) -> list[str]:
        """Objects cannot grow, so each addition is one: `NAME/00000000`, `NAME/00000001`, ..."""
        with self._told():
            parts = sorted(item["path"] for chunk in self._store().list(f"{name}/") for item in chunk)
        self._parts[name] = len(parts)
        return [line for part in parts for line in self.read_text(part).splitlines()]

    def append_lines(self, name: str, lines: list[str]) -> None:
        if name not in self._parts:
            self.read_lines(name)
        if lines:
            self.write_text(f"{name}/{self._parts[name]:08}", "".join(lines))
            self._parts[name] += 1

    def remove(self, name: str) -> None:
        self._parts.pop(name, None)
        with self._told():
            store = self._store()
            paths = [item["path"] for chunk in store.list(f"{name}/") for item in chunk]
            store.delete([*paths, name])

    @contextmanager
    def held(self, name: str, busy: InputError) -> Iterator[Lease]:
        with self._told():
            lease = Lease(self._store(), name, busy)
            lease.take()
        try:
            yield lease
        finally:
            lease.give_back()

    def is_held(self, name: str) -> bool:
        """A lease lies there and is renewed; that takes some seconds to see."""
        return self.has(name) and is_renewed(self._store(), name)

    def _store(self) -> Any:
        """The client: a hasty one until the server has answered once, then a patient one."""
        if self._reached not in self._stores:
            from obstore.store import S3Store

            retries, seconds = _WORK_RETRIES if self._reached else _LOOK_RETRIES
            options: dict[str, Any] = {**(_WORK if self._reached else _LOOK), "allow_http": _allow_http()}
            self._stores[self._reached] = S3Store(
                self.bucket,
                prefix=self.prefix or None,
                client_options=options,
                retry_config={"max_retries": retries, "retry_timeout": seconds},
            )
        return self._stores[self._reached]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Obstore's errors as one line about the address.

        Raises:
            InputError: no such bucket, no right to it, no connection.
            FileNotFoundError: no such object.
        """
        from obstore.exceptions import BaseError, NotFoundError

        try:
            yield
            self._reached = True
        except (BaseError, FileNotFoundError, OSError) as fault:
            if isinstance(fault, NotFoundError | FileNotFoundError) and "NoSuchBucket" not in str(fault):
                self._reached = True
                raise FileNotFoundError(str(fault).splitlines()[0]) from fault
            raise InputError(explained(self, fault)) from fault


def explained(folder: ObjectFolder, fault: BaseException) -> str:
    """A complaint of obstore or Lance about the server, as one line with what to do."""
    text = str(fault)
    where = f"{folder}: cannot be used at {os.environ.get('AWS_ENDPOINT_URL', 'the AWS endpoint')}"
    if "NoSuchBucket" in text:
        return f"{folder}: there is no bucket {folder.bucket!r} at {_endpoint()}; make it, or check the address"
    # Without keys the libraries ask the cloud's metadata server for some, whose answer, if any, is no answer of the storage.
    if "169.254.169.254" not in text and _DENIED.search(text):
        return f"{where}: access is denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's rights"
    if "169.254.169.254" in text or "redential" in text:
        return f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if any(sign in text for sign in ("error sending request", "timed out", "timeout", "HTTP error", "connect")):
        return f"{folder}: {_endpoint()} does not answer; check AWS_ENDPOINT_URL, AWS_REGION and the connection"
    return f"{where}: {' '.join(text.split())[:200]}"


def is_of_the_server(fault: BaseException) -> bool:
    """Whether Lance complains about the object storage, not about a table in it."""
    text = str(fault)
    return "Generic S3 error" in text or "NoSuchBucket" in text or "169.254.169.254" in text


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL", "the AWS endpoint")


def aws_variables() -> dict[str, str]:
    """What this process knows of object storage, for processes that were not started with it."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def _allow_http() -> str:
    """Plain HTTP only where the endpoint says so itself."""
    return "true" if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") else "false"
