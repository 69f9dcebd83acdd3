"""The OpenAPI description: complete, with examples, and true under schemathesis' inputs."""

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
from tests.server.conftest import API
from tests.support.coloured_videos import ColourEncoder

HOST = {"Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def own(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service of its own: schemathesis starts and ends the application around its calls, and a service ends with it."""
    settings = ServeSettings(index=str(library), cache=str(tmp_path_factory.mktemp("previews")), workers=1, searches=1)
    app = create_app(Service(settings, ColourEncoder()))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def described(own: TestClient) -> dict[str, Any]:
    answer: dict[str, Any] = own.get(f"{API}/openapi.json").json()
    return answer


def test_every_endpoint_says_what_it_does_takes_and_answers(described: dict[str, Any]) -> None:
    operations = [
        (path, method, one) for path, methods in described["paths"].items() for method, one in methods.items()
    ]
    assert len(operations) >= 24
    assert {path for path, _, _ in operations} >= {
        f"{API}/{end}" for end in ("search", "queries", "items", "library", "jobs", "folders")
    }
    for path, method, one in operations:
        assert one["summary"], (path, method)
        assert one["tags"], (path, method)
        if path.startswith(API) and path not in (f"{API}/welcome",):
            refusals = [status for status in one["responses"] if status.startswith(("4", "5"))]
            assert "401" in refusals, (path, method)
            for status in refusals:
                if status != "422" or "application/problem+json" in one["responses"][status]["content"]:
                    examples = one["responses"][status]["content"]["application/problem+json"]["examples"]
                    assert all(example["value"]["status"] == int(status) for example in examples.values())
        for parameter in one.get("parameters", ()):
            if parameter["in"] == "query" and path.endswith(("/search", "/items")):
                assert parameter.get("description"), (path, parameter["name"])
    for name in ("Item", "Query", "SearchPage", "Problem", "JobOrder"):
        assert described["components"]["schemas"][name]["examples"], name


@pytest.mark.filterwarnings("ignore")
def test_no_input_makes_it_fail(own: TestClient) -> None:
    schema = schemathesis.openapi.from_asgi(f"{API}/openapi.json", own.app, headers=HOST)
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        # Its events go on until a job ends; unknown jobs are asked for here, which answers at once.

        @settings(
            max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @schemathesis_given(operation)
        def ask(case: Any) -> None:
            nonlocal tried
            tried += 1
            answer = case.call(headers={**(case.headers or {}), **HOST})
            case.validate_response(answer, checks=[not_a_server_error])

        ask()
    assert tried >= 150


def schemathesis_given(operation: Any) -> Any:
    """Hypothesis' given, over an operation's inputs."""
    from hypothesis import given

    return given(case=operation.as_strategy())
