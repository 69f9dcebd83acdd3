"""What all that travels is made of: checked texts, ids and seconds, problems, stretches.

Whether the service is ready, and who may call it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Sense = Literal["audio", "video", "film"]

Kind = Literal["film", "sound"]

# No NUL in any text: nothing here has a use for it, and systems below treat it as an end.
Text = Annotated[str, StringConstraints(max_length=400, pattern=r"^[^\x00]*$")]

Id = Annotated[str, StringConstraints(min_length=24, max_length=24, pattern=r"^[0-9a-f]{24}$")]

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class Value(BaseModel):
    """A base of all: fields that are not known are passed over."""

    model_config = ConfigDict(extra="ignore")


class Problem(Value):
    """What went wrong, as RFC 9457 describes it."""

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
    type: str = Field(description="which kind of problem; the address explains it")
    title: str
    status: int
    detail: str = Field(description="what was got, what was expected, what to do")


class Moment(Value):
    """A stretch of a file."""

    start_seconds: float
    end_seconds: float


class Health(Value):
    """Whether the service lives, and whether it can answer searches."""

    status: Literal["ok", "unready"]
    ready: bool
    detail: str
    items: int
    moments: int
    model_id: str
    version: str


class Welcome(Value):
    """Whether a token is needed, and whether this request brought it."""

    token_needed: bool
    welcome: bool
    max_upload_mb: int
    query_seconds: float


class SessionOrder(Value):
    """The token, to be kept in a cookie for the page's films and pictures, which cannot send a header."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, StringConstraints(max_length=500)]
