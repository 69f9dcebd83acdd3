"""Metrics for Prometheus: by route and status, never by id."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.coloured_videos import RED, sound
from tests.support.service import API, NO_ID, StartService, find, items, upload


def _parse(text: str) -> dict[str, float]:
    """Parses Prometheus' text format: one line per series."""
    return {name: float(value) for name, value in re.findall(r"^(?!#)(.+) ([-+.0-9e]+|NaN)$", text, flags=re.MULTILINE)}


def test_metrics_count_by_route_and_status(start_service: StartService, tmp_path: Path) -> None:
    client = start_service()
    query = upload(client, sound(tmp_path / "a.wav", [RED]))["id"]
    find(client, query=query)
    for item in items(client).values():
        client.get(f"{API}/items/{item['id']}")
    client.get(f"{API}/items/{NO_ID}")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    values = _parse(response.text)
    # By the pattern of the route: six files are one series.
    series = 'cmmixer_requests_total{method="GET",route="/items/{item}",status='
    assert (values[series + '"200"}'], values[series + '"404"}']) == (6.0, 1.0)
    assert values['cmmixer_requests_total{method="POST",route="/queries",status="201"}'] == 1.0
    assert values['cmmixer_request_seconds_count{method="GET",route="/search"}'] == 1.0
    assert 0 < values['cmmixer_request_seconds_sum{method="GET",route="/search"}'] < 60
    assert (values["cmmixer_queries"], values["cmmixer_jobs_open"]) == (1.0, 0.0)
    assert values["cmmixer_moments"] == client.get("/health").json()["moments"]
    assert values["cmmixer_requests_open"] == 1.0  # this request
