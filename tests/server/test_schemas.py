"""Requests are checked strictly, responses leniently; examples in the OpenAPI description are valid."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cmmixer.server import schemas
from tests.support.service import NO_ID

ID = "5f0c1d9a7be24c6d8e9f0a1b"
MOMENT = {"item": ID, "start_seconds": 0.0, "end_seconds": 1.0}
REQUESTS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (schemas.SessionRequest, {"token": "a-token-of-more-than-16-characters"}),
    (schemas.SearchRequest, {"query": ID}),
    (schemas.ListRequest, {}),
    (schemas.JobRequest, {"folder": ID}),
    (schemas.DubRequest, {"video": {"query": ID}, "audio": {"item": ID}}),
    (schemas.CutListRequest, {"moments": [MOMENT]}),
]


@pytest.mark.parametrize(("schema", "values"), REQUESTS, ids=lambda value: getattr(value, "__name__", ""))
def test_unknown_fields_of_requests_are_refused(schema: type[BaseModel], values: dict[str, Any]) -> None:
    schema.model_validate(values)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        schema.model_validate({**values, "colour": "blue"})


def test_unknown_fields_of_responses_are_ignored() -> None:
    """A client can talk to a newer service."""
    moment = schemas.Moment.model_validate({"start_seconds": 0.0, "end_seconds": 1.0, "shot": 3})
    assert moment.model_dump() == {"start_seconds": 0.0, "end_seconds": 1.0}
    problem = schemas.Problem.model_validate(
        {"type": "/problems/busy", "title": "t", "status": 503, "detail": "d", "reason": "r"}
    )
    assert problem.model_extra == {"reason": "r"}


@pytest.mark.parametrize(
    "value",
    ["", "5f0c", ID.upper(), ID + "0", ID[:-1] + "g", "../../../../etc/passwd\x00\x00", ID + "\n", f" {ID[1:]}"],
)
def test_ids_are_24_hexadecimal_digits(value: str) -> None:
    with pytest.raises(ValidationError):
        schemas.JobRequest(folder=value)
    assert schemas.JobRequest(folder=NO_ID).folder == NO_ID


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 1e8, "soon"])
def test_seconds_are_finite_and_not_negative(value: Any) -> None:
    with pytest.raises(ValidationError):
        schemas.SearchRequest.model_validate({"query": ID, "start_seconds": value})


@pytest.mark.parametrize(
    ("where", "valid"),
    [
        ("camera:B", True),
        ("camera:", True),
        ("path:of:x", True),
        ("camera", False),
        (":B", False),
        ("", False),
        ("camera:\x00", False),
        ("c" * 400 + ":", False),
    ],
)
def test_where_is_column_colon_value(where: str, valid: bool) -> None:
    if valid:
        assert schemas.Filters(where=[where]).where == [where]
    else:
        with pytest.raises(ValidationError):
            schemas.Filters(where=[where])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", 0),
        ("limit", 201),
        ("offset", -1),
        ("offset", 2001),
        ("for", "picture"),
        ("by", "sound"),
        ("rerank", "always"),
        ("kind", "sound"),
        ("text", "a\x00b"),
        ("text", "x" * 401),
        ("label", ["x"] * 51),
        ("where", ["a:b"] * 21),
    ],
)
def test_search_request_limits(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        schemas.SearchRequest.model_validate({"query": ID, field: value})
    assert error.value.errors()[0]["loc"][0] == field


def test_search_request_defaults() -> None:
    request = schemas.SearchRequest.model_validate({"query": ID, "for": "video"})
    assert (request.target, request.by, request.rerank, request.timeline) == ("video", None, None, False)
    assert (request.limit, request.offset, request.label, request.where) == (24, 0, [], [])


@pytest.mark.parametrize(
    ("field", "value"),
    [("loudness_lufs", -4.0), ("loudness_lufs", -61.0), ("container", "avi"), ("start_seconds", -1.0), ("sound", {})],
)
def test_dub_request_limits(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        schemas.DubRequest.model_validate({"video": {"query": ID}, "audio": {"item": ID}, field: value})
    assert error.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("moments", []),
        ("moments", [MOMENT] * 1000),
        ("frames_per_second", 0.5),
        ("target", "sound"),
        ("format", "xml"),
        ("title", "a\x00"),
    ],
)
def test_cut_list_request_limits(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        schemas.CutListRequest.model_validate({"moments": [MOMENT], field: value})
    assert error.value.errors()[0]["loc"] == (field,)


def test_search_page_uses_for_in_json() -> None:
    page = schemas.SearchPage(
        target="audio",
        by="video",
        rerank="none",
        hits=[],
        offset=0,
        next_offset=None,
        moments_searched=0,
        took_seconds=0,
    )
    shown = page.model_dump(by_alias=True)
    assert shown["for"] == "audio"
    assert "target" not in shown
    assert schemas.SearchPage.model_validate(shown) == page


def test_examples_are_valid() -> None:
    checked = 0
    for name in schemas.__all__:
        schema = getattr(schemas, name)
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            continue
        extra = schema.model_config.get("json_schema_extra") or {}
        assert isinstance(extra, dict)
        for example in extra.get("examples", []):  # type: ignore[union-attr]
            shown = schema.model_validate(example).model_dump(by_alias=True, exclude_unset=True)
            assert shown == example, name
            checked += 1
    assert checked >= 7


def test_every_schema_is_described() -> None:
    for name in schemas.__all__:
        schema = getattr(schemas, name)
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            assert schema.__doc__, name
            assert schema.__doc__.split("\n")[0].endswith("."), name
            assert issubclass(schema, schemas.Schema)
