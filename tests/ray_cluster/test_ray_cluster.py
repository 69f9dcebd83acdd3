"""The cluster: results in order, errors of actors, a part that ends every actor, and addresses that do not answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cmmixer import ray_cluster as cluster_module
from cmmixer.config.data import ClusterSettings
from cmmixer.errors import DataError, InternalError, SettingsError
from cmmixer.ray_cluster import connected
from tests.support import ray_work
from tests.support.object_storage import NOWHERE

# Ray's own modules warn of each other's old names; those warnings must not fail the tests.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")
ON_RAY = ClusterSettings(engine="ray", ray_actors=2)


def test_results_come_in_the_order_of_the_parts(ray_here: Any) -> None:
    with connected(ON_RAY) as cluster:
        assert cluster is not None
        parts = cluster.parts(list(range(20)), max_size=16)
        assert [len(part) for part in parts] == [3, 3, 3, 3, 3, 3, 2]  # enough for two actors, four each
        assert [len(part) for part in cluster.parts(list(range(400)), max_size=16)] == [16] * 25
        results = list(cluster.map(ray_work.tenfold, parts))
    assert [number for part in results for number in part] == list(range(0, 200, 10))
    assert ray_here.is_initialized()  # a program's own connection stays


def test_an_error_of_an_actor_is_raised_as_it_is(ray_here: Any) -> None:
    with connected(ON_RAY) as cluster:
        assert cluster is not None
        with pytest.raises(DataError, match=r"^no model on this machine; put it there$"):
            list(cluster.map(ray_work.refusing, [[1]]))


def test_a_part_that_ends_every_actor_ends_the_job(ray_here: Any) -> None:
    with connected(ON_RAY) as cluster:
        assert cluster is not None
        with pytest.raises(InternalError, match="a part of the work ended its actor 4 times; what was committed stays"):
            list(cluster.map(ray_work.deadly, [[1], [2], [3]]))


def test_resources_that_no_machine_has_are_refused(ray_here: Any) -> None:
    for asked in ({"ray_cpus": 10_000}, {"ray_gpus": 64.0}):
        with (
            pytest.raises(
                SettingsError, match=r"no machine of the cluster has as much; they have \d+ CPUs and \d+ GPUs"
            ),
            connected(ClusterSettings(engine="ray", **asked)),  # type: ignore[arg-type]
        ):
            pass


def test_the_local_engine_needs_no_ray() -> None:
    code = (
        "import sys; from cmmixer.ray_cluster import connected; from cmmixer.config.data import ClusterSettings\n"
        "with connected(ClusterSettings()) as cluster: print(cluster, 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "None False\n"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(
            SettingsError, match=r"--engine ray needs ray, which is not installed; pip install 'cmmixer\[ray\]'"
        ),
        connected(ON_RAY),
    ):
        pass


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"--ray_address: got 10\.0\.0\.1:6379 with --engine local; it needs --engine ray"
    ):
        ClusterSettings(ray_address="10.0.0.1:6379")
    with pytest.raises(SettingsError, match=r"--engine: got 'rya', expected one of local, ray; did you mean 'ray'"):
        ClusterSettings(engine="rya")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (NOWHERE.removeprefix("http://"), "--ray_address: 127.0.0.1:9: no Ray cluster answers ([Errno 111] Connection"),
        (
            "ray://127.0.0.1:10001",
            "--ray_address: got ray://127.0.0.1:10001, expected HOST:PORT or auto: Ray Data does not",
        ),
        ("head", "--ray_address: got 'head', expected HOST:PORT or auto"),
    ],
)
def test_a_cluster_that_does_not_answer_is_reported_in_seconds_and_nothing_is_written(
    videos: Path, tmp_path: Path, address: str, message: str
) -> None:
    out = tmp_path / "store"
    line = ["prepare", "--data", str(videos), "--out", str(out), "--engine", "ray", "--ray-address", address]
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "cmmixer", *line], capture_output=True, text=True, timeout=120)
    assert time.monotonic() - started < 60  # a second or two on a machine that does nothing else
    assert (done.returncode, out.exists()) == (2, False)
    assert f"cmmixer: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_ray_is_reported_and_not_waited_for(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_PROBE_SECONDS", 4.0)
    address = endpoint.removeprefix("http://")
    with pytest.raises(SettingsError, match=rf"--ray_address: {address}: no Ray cluster answers \("):
        cluster_module._connect(None, address)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (
            "W gcs_client.cc: Unauthenticated: RPC error: InvalidAuthToken: ...\n",
            "it wants a token: set RAY_AUTH_MODE=token",
        ),
        ("Traceback\nRuntimeError: Version mismatch: ...\n", "RuntimeError: Version mismatch: ..."),
        (b"", "nothing in 30 s"),
        (None, "nothing in 30 s"),
    ],
)
def test_why_ray_cannot_be_reached_is_one_line(messages: str | bytes | None, reason: str) -> None:
    assert cluster_module._reason(messages, "nothing in 30 s").startswith(reason)


def test_ray_does_not_phone_home_and_opens_no_page(ray_here: Any) -> None:
    from ray._common.usage import usage_lib

    with connected(ON_RAY):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert not usage_lib.usage_stats_enabled()
