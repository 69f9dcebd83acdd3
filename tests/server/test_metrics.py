"""What whoever runs the service looks at: is it ready, what is it doing."""

from __future__ import annotations

import re
from pathlib import Path

from tests.server.conftest import API, Served, find, items, upload
from tests.support.coloured_videos import RED, sound


def _figures(text: str) -> dict[str, float]:
    """Prometheus' text format: a line for each series."""
    return {name: float(value) for name, value in re.findall(r"^(?!#)(.+) ([-+.0-9e]+|NaN)$", text, flags=re.MULTILINE)}


def test_metrics_count_by_route_and_status(served: Served, tmp_path: Path) -> None:
    client = served()
    query = upload(client, sound(tmp_path / "a.wav", [RED]))["id"]
    find(client, query=query)
    for item in items(client).values():
        client.get(f"{API}/items/{item['id']}")
    client.get(f"{API}/items/{'0' * 24}")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    figures = _figures(answer.text)
    # By the route's pattern: six files make one series.
    one = 'cmmixer_requests_total{method="GET",route="/items/{item}",status='
    assert (figures[one + '"200"}'], figures[one + '"404"}']) == (6.0, 1.0)
    assert figures['cmmixer_requests_total{method="POST",route="/queries",status="201"}'] == 1.0
    assert figures['cmmixer_request_seconds_count{method="GET",route="/search"}'] == 1.0
    assert 0 < figures['cmmixer_request_seconds_sum{method="GET",route="/search"}'] < 60
    assert (figures["cmmixer_queries_kept"], figures["cmmixer_jobs_open"]) == (1.0, 0.0)
    assert figures["cmmixer_moments"] == client.get("/health").json()["moments"]
    assert figures["cmmixer_requests_open"] == 1.0  # this one
