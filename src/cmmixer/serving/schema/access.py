"""Whether the service is ready, and who may call it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, StringConstraints

from cmmixer.serving.schema.base import Value


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
