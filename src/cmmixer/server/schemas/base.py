"""Field types that all requests and responses share, errors, and what a client asks before it starts.

The service and its Python client use the same schemas. Times are seconds from the beginning of a file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Modality = Literal["audio", "video", "any"]
Kind = Literal["video", "audio"]

# No NUL in any text: the API has no use for it, and C libraries take it for the end of a string.
Text = Annotated[str, StringConstraints(max_length=400, pattern=r"^[^\x00]*$")]
Id = Annotated[str, StringConstraints(min_length=24, max_length=24, pattern=r"^[0-9a-f]{24}$")]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class Schema(BaseModel):
    """The base of all schemas. Unknown fields are ignored, so that an older client can talk to a newer service."""

    model_config = ConfigDict(extra="ignore")


class Problem(Schema):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/unusable-media",
                    "title": "This file cannot be used",
                    "status": 422,
                    "detail": "rough cut.mp4: has zero bytes",
                    "reason": "empty",
                }
            ]
        },
    )
    type: str = Field(description="problem type, as an address that explains it")
    title: str
    status: int
    detail: str = Field(description="what was got, what was expected, what to do")


class Moment(Schema):
    """A time span of a file."""

    start_seconds: float
    end_seconds: float


class Health(Schema):
    """Whether the service runs, and whether it can answer searches."""

    status: Literal["ok", "unready"]
    ready: bool
    detail: str
    items: int
    moments: int
    model_id: str
    version: str


class SessionInfo(Schema):
    """Whether this request is authorized, and the limits on uploads."""

    token_required: bool
    authorized: bool = Field(description="whether the request carried the token, or none is required")
    max_upload_mb: int
    query_seconds: float = Field(description="longest upload that can be searched with")


class SessionRequest(Schema):
    """The token, to be kept in a cookie: a browser cannot send a header with the media and images of a page."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, StringConstraints(max_length=500)]
