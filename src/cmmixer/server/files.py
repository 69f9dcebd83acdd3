"""Files over HTTP: in ranges, with the type their ending says, never as anything a browser would run."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi.responses import FileResponse, Response

from cmmixer.data.manifest import FILM_ENDINGS, SOUND_ENDINGS
from cmmixer.server.problems import ProblemError, responses

# What browsers play under another name than `video/ENDING` and `audio/ENDING`.
_TYPES = {
    "m4v": "video/mp4",
    "mov": "video/mp4",
    "mkv": "video/x-matroska",
    "ogv": "video/ogg",
    "ogm": "video/ogg",
    "avi": "video/x-msvideo",
    "ts": "video/mp2t",
    "gif": "image/gif",
    "mp3": "audio/mpeg",
    "mp2": "audio/mpeg",
    "m4a": "audio/mp4",
    "oga": "audio/ogg",
    "opus": "audio/ogg",
    "spx": "audio/ogg",
    "wav": "audio/wav",
}
UNKNOWN = "application/octet-stream"
RESPONSES = {
    200: {"description": "The file", "content": {UNKNOWN: {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range that was asked for", "content": {UNKNOWN: {}}},
    **responses("not-found", "gone", "outside", "range"),
}

THUMBNAIL_RESPONSES = {
    200: {
        "description": "A JPEG picture",
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    },
    **responses("not-found", "gone", "outside", "missing-sense", "unusable-media"),
}


def media_type(name: str) -> str:
    """By a file's ending; anything that is no film or sound by it is only bytes."""
    ending = Path(name).suffix[1:].lower()
    if ending in _TYPES:
        return _TYPES[ending]
    if ending in FILM_ENDINGS:
        return f"video/{ending}"
    return f"audio/{ending}" if ending in SOUND_ENDINGS else UNKNOWN


def file_response(path: str | bytes, name: str, *, download: bool = False) -> Response:
    """A file, whole or in ranges.

    Raises:
        ProblemError: it has gone.
    """
    real = os.fsdecode(path)
    try:
        status = os.stat(real)
    except OSError as fault:
        raise ProblemError("gone", f"{name}: the file has gone") from fault
    return FileResponse(
        real,
        media_type=media_type(name),
        # Bytes of a name that are not UTF-8 cannot stand in a header.
        filename=Path(name).name.encode("utf-8", "replace").decode(),
        stat_result=status,
        content_disposition_type="attachment" if download else "inline",
        headers={"cache-control": "private, no-cache"},
    )
