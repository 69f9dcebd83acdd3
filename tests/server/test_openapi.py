"""The OpenAPI description: complete, with examples, and without internal errors for generated inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from starlette.testclient import TestClient

from cmmixer.config import ServeSettings
from cmmixer.server.app import create_app
from cmmixer.server.service import Service
from tests.support.coloured_videos import ColourEncoder
from tests.support.service import API

HOST = {"Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def own_client(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service of its own_client: schemathesis starts and ends the application around its calls, and the service with it."""
    settings = ServeSettings(index=str(library), cache=str(tmp_path_factory.mktemp("previews")), workers=1, searches=1)
    app = create_app(Service(settings, ColourEncoder()))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def openapi(own_client: TestClient) -> dict[str, Any]:
    response: dict[str, Any] = own_client.get(f"{API}/openapi.json").json()
    return response


def test_every_endpoint_is_documented(openapi: dict[str, Any]) -> None:
    operations = [
        (path, method, operation) for path, methods in openapi["paths"].items() for method, operation in methods.items()
    ]
    assert len(operations) >= 24
    assert {path for path, _, _ in operations} >= {
        f"{API}/{end}" for end in ("search", "queries", "items", "library", "jobs", "folders")
    }
    for path, method, operation in operations:
        assert operation["summary"], (path, method)
        assert operation["tags"], (path, method)
        if path.startswith(API) and (path, method) != (f"{API}/session", "get"):
            refusals = [status for status in operation["responses"] if status.startswith(("4", "5"))]
            assert "401" in refusals, (path, method)
            for status in refusals:
                if status != "422" or "application/problem+json" in operation["responses"][status]["content"]:
                    examples = operation["responses"][status]["content"]["application/problem+json"]["examples"]
                    assert all(example["value"]["status"] == int(status) for example in examples.values())
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query" and path.endswith(("/search", "/items")):
                assert parameter.get("description"), (path, parameter["name"])
    for name in ("Item", "Query", "SearchPage", "Problem", "JobRequest"):
        assert openapi["components"]["schemas"][name]["examples"], name


@pytest.mark.filterwarnings("ignore")
def test_no_input_causes_an_internal_error(own_client: TestClient) -> None:
    schema = schemathesis.openapi.from_asgi(f"{API}/openapi.json", own_client.app, headers=HOST)
    calls = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        # The events of a job end with the job; the ids here are unknown, which is answered at once.

        @settings(
            max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @schemathesis_given(operation)
        def ask(case: Any) -> None:
            nonlocal calls
            calls += 1
            response = case.call(headers={**(case.headers or {}), **HOST})
            case.validate_response(response, checks=[not_a_server_error])

        ask()
    assert calls >= 150


def schemathesis_given(operation: Any) -> Any:
    """Returns Hypothesis' `given` over the inputs of an operation."""
    from hypothesis import given

    return given(case=operation.as_strategy())
