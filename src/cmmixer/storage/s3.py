"""Folders in S3, or in any object storage with its protocol and conditional writes.

Credentials, region and endpoint come from the usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL). obstore and Lance use the same Rust library, so they read them alike.
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

# The first request fails fast, since a wrong address never answers; later ones wait for a server that restarts.
_FIRST_TIMEOUTS = {"connect_timeout": "3s", "timeout": "6s"}
_FIRST_RETRIES = {"max_retries": 1, "retry_timeout": timedelta(seconds=6)}
_TIMEOUTS = {"connect_timeout": "10s", "timeout": "120s"}
_RETRIES: dict[str, Any] = {"max_retries": 8, "retry_timeout": timedelta(seconds=90)}

# Status codes only as the libraries word them: names of objects may contain the same digits.
_DENIED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|(status|code)\W{1,3}40[13]\b|\b40[13] (Forbidden|Unauthorized)"
)
# Without keys the libraries ask the cloud's metadata server for some. Its answer says nothing about the storage.
_METADATA_SERVER = "169.254.169.254"


class ObjectFolder:
    """A `Folder` in object storage. Creating one sends no request; `make` and every read do.

    Args:
        url: s3://BUCKET/NAME.
        whole_bucket: whether s3://BUCKET is accepted too.

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
            **_TIMEOUTS,
            "client_max_retries": str(_RETRIES["max_retries"]),
            "client_retry_timeout": str(int(_RETRIES["retry_timeout"].total_seconds())),
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
        # A loader process is forked from a server that may have started before these were set.
        for name, value in state.pop("_variables").items():
            os.environ.setdefault(name, value)
        self.__dict__.update(state)

    def child(self, name: str) -> str:
        return f"{self.url}/{name}"

    def make(self) -> None:
        self.names()

    def has(self, name: str) -> bool:
        from obstore.exceptions import NotFoundError

        with self._explain_errors():
            try:
                self._store().head(name)
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                return False
        return True

    def has_folder(self, name: str) -> bool:
        with self._explain_errors():
            return any(len(chunk) for chunk in self._store().list(f"{name}/", chunk_size=1))

    def names(self) -> list[str]:
        with self._explain_errors():
            listing = self._store().list_with_delimiter("")
        paths = [*(item["path"] for item in listing["objects"]), *listing["common_prefixes"]]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def read_text(self, name: str) -> str:
        with self._explain_errors():
            return bytes(self._store().get(name).bytes()).decode("utf-8")

    def write_text(self, name: str, text: str) -> None:
        with self._explain_errors():
            self._store().put(name, text.encode())

    def write_file(self, name: str, path: Any) -> None:
        """Uploads a local file; it becomes visible when it is complete."""
        with self._explain_errors():
            self._store().put(name, path)

    def read_lines(self, name: str) -> list[str]:
        """Objects cannot grow, so each addition is an object: `NAME/00000000`, `NAME/00000001`, ..."""
        with self._explain_errors():
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
        with self._explain_errors():
            store = self._store()
            paths = [item["path"] for chunk in store.list(f"{name}/") for item in chunk]
            store.delete([*paths, name])

    @contextmanager
    def lock(self, name: str, busy: InputError) -> Iterator[Lease]:
        with self._explain_errors():
            lease = Lease(self._store(), name, busy)
            lease.acquire()
        try:
            yield lease
        finally:
            lease.release()

    def is_locked(self, name: str) -> bool:
        """Returns whether there is a lease that somebody renews, which takes some seconds to see."""
        return self.has(name) and is_renewed(self._store(), name)

    def _store(self) -> Any:
        """Returns the client: an impatient one until the server has answered once, then a patient one."""
        if self._reached not in self._stores:
            from obstore.store import S3Store

            self._stores[self._reached] = S3Store(
                self.bucket,
                prefix=self.prefix or None,
                client_options={**(_TIMEOUTS if self._reached else _FIRST_TIMEOUTS), "allow_http": _allow_http()},
                retry_config=_RETRIES if self._reached else _FIRST_RETRIES,
            )
        return self._stores[self._reached]

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turns obstore's errors into one line about the address.

        Raises:
            InputError: no such bucket, no right to it, or no connection.
            FileNotFoundError: no such object.
        """
        from obstore.exceptions import BaseError, NotFoundError

        try:
            yield
            self._reached = True
        except (BaseError, FileNotFoundError, OSError) as error:
            if isinstance(error, NotFoundError | FileNotFoundError) and "NoSuchBucket" not in str(error):
                self._reached = True
                raise FileNotFoundError(str(error).splitlines()[0]) from error
            raise InputError(explain_s3_error(self, error)) from error


def explain_s3_error(folder: ObjectFolder, error: BaseException) -> str:
    """Returns what obstore or Lance reports about the server as one line that says what to do."""
    text = str(error)
    where = f"{folder}: cannot be used at {_endpoint()}"
    if "NoSuchBucket" in text:
        return f"{folder}: there is no bucket {folder.bucket!r} at {_endpoint()}; create it, or check the address"
    if _METADATA_SERVER not in text and _DENIED.search(text):
        return f"{where}: access is denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's rights"
    if _METADATA_SERVER in text or "redential" in text:
        return f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if any(sign in text for sign in ("error sending request", "timed out", "timeout", "HTTP error", "connect")):
        return f"{folder}: {_endpoint()} does not answer; check AWS_ENDPOINT_URL, AWS_REGION and the connection"
    return f"{where}: {' '.join(text.split())[:200]}"


def is_server_error(error: BaseException) -> bool:
    """Returns whether an error of Lance is about the object storage and not about a table in it."""
    text = str(error)
    return "Generic S3 error" in text or "NoSuchBucket" in text or _METADATA_SERVER in text


def aws_variables() -> dict[str, str]:
    """Returns this process's settings of object storage, for processes that were started without them."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


class Lease:
    """A lock on object storage: an object that its holder keeps rewriting.

    A lock on a disk ends with its process, an object does not. So the holder rewrites it every `RENEW_SECONDS`. Another
    process watches it: an object that changes is held; one that stays the same for `LIFE_SECONDS` belongs to a killed process
    and may be taken over. Every write names the version that it replaces (If-None-Match, If-Match), so of two processes that
    try, one wins, and the clocks of two machines are never compared.

    Args:
        store: obstore's client of the folder.
        name: name of the object.
        busy: raised if another process holds the lease.
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

    def acquire(self) -> None:
        """Takes the lease. One that nobody renews is taken over after `LIFE_SECONDS`.

        Raises:
            InputError: another process holds it.
        """
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        try:
            try:
                self._write("create")
            except AlreadyExistsError:
                self._write({"e_tag": self._abandoned_version()})
        except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError) as error:
            raise self._busy from error
        self._thread.start()

    def check(self) -> None:
        """Makes sure that the lease is still held.

        Raises:
            InputError: it was lost, because this process was suspended or had no connection for too long.
        """
        if time.monotonic() - self._renewed > LIFE_SECONDS / 2:
            self._renew()
        if self._version is None or time.monotonic() - self._renewed > LIFE_SECONDS / 2:
            raise InputError(
                f"{self._busy}; this process lost its right to write (it was suspended, or the server did not answer)"
            )

    def release(self) -> None:
        """Ends the renewals, and removes the object if this process still holds it."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            if self._version is not None:
                self._version = None
                self._store.delete(self._name)

    def _abandoned_version(self) -> str:
        """Returns the version of an object that nobody renews.

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
                self._version = self._own_version()
            except (BaseError, OSError):
                pass  # no connection: `check` sees how long ago the last renewal was

    def _own_version(self) -> str | None:
        """Returns the object's version if this process wrote it: the answer to an earlier write may have been lost."""
        from obstore.exceptions import BaseError

        try:
            answer = self._store.get(self._name)
            own = json.loads(bytes(answer.bytes()))["token"] == self._token
        except (BaseError, OSError, ValueError):
            return None
        return str(answer.meta["e_tag"]) if own else None

    def _write(self, mode: Any) -> None:
        started = time.monotonic()
        self._renewals += 1
        content = {"writer": self._writer, "renewals": self._renewals, "token": self._token}
        self._version = self._store.put(self._name, json.dumps(content).encode(), mode=mode)["e_tag"]
        self._renewed = started


def is_renewed(store: Any, name: str) -> bool:
    """Returns whether somebody keeps rewriting the object of a lease, by looking twice."""
    from obstore.exceptions import NotFoundError

    try:
        version = store.head(name)["e_tag"]
        time.sleep(1.5 * RENEW_SECONDS)
        return bool(store.head(name)["e_tag"] != version)
    except (NotFoundError, FileNotFoundError):  # released meanwhile
        return False


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL", "the AWS endpoint")


def _allow_http() -> str:
    """Allows plain HTTP only if the endpoint itself is an http:// address."""
    return "true" if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") else "false"
