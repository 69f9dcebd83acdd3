"""Files over HTTP, in ranges. The media type follows from the ending and is never one that a browser would execute."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi.responses import FileResponse, Response

from cmmixer.data.manifest import AUDIO_ENDINGS, VIDEO_ENDINGS
from cmmixer.server.problems import ProblemError, responses

# Endings whose media type is not `video/ENDING` or `audio/ENDING`.
_MEDIA_TYPES = {
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
BYTES = "application/octet-stream"
FILE_RESPONSES = {
    200: {"description": "The file", "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The requested range", "content": {BYTES: {}}},
    **responses("not-found", "gone", "outside-library", "out-of-range"),
}
THUMBNAIL_RESPONSES = {
    200: {
        "description": "A JPEG image",
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    },
    **responses("not-found", "gone", "outside-library", "missing-modality", "unusable-media"),
}


def media_type(name: str) -> str:
    """Returns the media type of a file name; anything but video and audio is only bytes."""
    ending = Path(name).suffix[1:].lower()
    if ending in _MEDIA_TYPES:
        return _MEDIA_TYPES[ending]
    if ending in VIDEO_ENDINGS:
        return f"video/{ending}"
    return f"audio/{ending}" if ending in AUDIO_ENDINGS else BYTES


def file_response(path: str | bytes, name: str, *, download: bool = False) -> Response:
    """Returns a file as a response that supports ranges.

    Args:
        path: of the file.
        name: as clients know it; decides the media type.
        download: whether a browser should save it instead of showing it.

    Raises:
        ProblemError: `gone`: there is no such file.
    """
    real = os.fsdecode(path)
    try:
        status = os.stat(real)
    except OSError as error:
        raise ProblemError("gone", f"{name}: no longer exists") from error
    return FileResponse(
        real,
        media_type=media_type(name),
        # A header cannot hold the bytes of a name that is not UTF-8.
        filename=Path(name).name.encode("utf-8", "replace").decode(),
        stat_result=status,
        content_disposition_type="attachment" if download else "inline",
        headers={"cache-control": "private, no-cache"},
    )
