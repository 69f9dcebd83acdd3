"""What all that travels is made of: checked texts, ids and seconds, problems, stretches."""

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
