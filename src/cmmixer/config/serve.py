"""Settings of `cmmixer serve`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of, within
from cmmixer.config.training import DEVICES
from cmmixer.errors import SettingsError
from cmmixer.storage.place import INDEX_ELSEWHERE, refuse_remote

_SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """A page and an HTTP service to search an index with, to listen, and to index more folders.

    Attributes:
        index: folder of the index
        model: run that made the index, if it has moved since
        host: address to listen at; any but a loopback address needs --token
        port: port to listen at; 0 takes a free one
        token: secret that every request must bring, at least 16 characters; the page asks for it
        token_file: file that holds the token, so that it does not stand in the list of processes
        roots: folders that may be indexed from the page, separated by `:`; default: the folders that the index was made from
        cache: folder for thumbnails, waveforms and versions of files that browsers do not play; default: `previews` in the index
        cache_mb: most that this folder may hold; what was not used for longest goes first
        max_upload_mb: largest file to search with
        upload_seconds: longest time an upload may take
        query_seconds: longest film or sound to search with, in seconds of its own time
        file_seconds: longest time spent on decoding one file
        convert_seconds: longest time spent on a version of a file that browsers do not play; what is made by then is played
        dub_seconds: longest time spent on writing a film with its new sound
        memory_mb: most memory of a decoder process
        queries: how many uploaded files are kept at a time; the oldest goes first
        query_minutes: how long an uploaded file is kept after it was last used
        searches: how many uploads are embedded at the same time
        waiting: how many requests may wait for that; more are told to come back
        workers: decoder processes of previews
        device: auto, cpu or cuda
    """

    index: str
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    token_file: str | None = None
    roots: str | None = None
    cache: str | None = None
    cache_mb: int = 2000
    max_upload_mb: int = 512
    upload_seconds: float = 300.0
    query_seconds: float = 1200.0
    file_seconds: float = 60.0
    convert_seconds: float = 30.0
    dub_seconds: float = 600.0
    memory_mb: int = 4000
    queries: int = 100
    query_minutes: float = 60.0
    searches: int = 2
    waiting: int = 256
    workers: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        within("port", self.port, 0, 65535)
        for name in ("cache_mb", "max_upload_mb", "queries", "searches", "workers"):
            at_least(name, getattr(self, name), 1)
        at_least("waiting", self.waiting, 0)
        at_least("memory_mb", self.memory_mb, 500)
        for name in (
            "upload_seconds",
            "query_seconds",
            "file_seconds",
            "convert_seconds",
            "dub_seconds",
            "query_minutes",
        ):
            within(name, getattr(self, name), 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
        if self.token is not None and self.token_file is not None:
            raise SettingsError("--token and --token_file: got both, expected one of them")
        if self.token is not None:
            check_token(self.token, "--token")
        if not self.is_loopback and self.token is None and self.token_file is None:
            raise SettingsError(
                f"--host: got {self.host}, which other machines can reach; give --token or --token_file too, or listen at 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check_token(token: str, where: str) -> str:
    """A token that a header can carry and that is not guessed in an afternoon.

    Raises:
        SettingsError: it is too short or holds something else than visible ASCII characters.
    """
    if len(token) < _SHORTEST_TOKEN:
        raise SettingsError(f"{where}: got {len(token)} characters, expected {_SHORTEST_TOKEN} or more")
    if not all("!" <= character <= "~" for character in token):
        raise SettingsError(f"{where}: got a character that no header can carry, expected visible ASCII without spaces")
    return token
