"""Indexing from outside: only allowed folders, progress as events, files left out, cancel."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from cmmixer.errors import SettingsError
from cmmixer.retrieval.index import MomentIndex
from cmmixer.server import jobs as jobs_module
from cmmixer.server.client import Client, ServiceError
from tests.server.conftest import API, NASTY, Served, find, items, make_data, make_index, names, problem, upload
from tests.support.coloured_videos import BLUE, GREEN, RED, film
from tests.support.counting_videos import long_film


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A library of its own, and folders beside it that are not in it."""
    make_index(make_data(tmp_path / "data"), tmp_path / "library")
    for number in range(6):
        film(tmp_path / "more" / "new" / f"{number}.mp4", [BLUE if number == 3 else RED] * 2, sound=[GREEN] * 2)
    (tmp_path / "more" / "new" / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "more" / "new" / "notes.txt").write_text("not media")
    (tmp_path / "more" / ".hidden").mkdir()
    film(tmp_path / "secret" / "secret.mp4", [RED])
    (tmp_path / "more" / "link").symlink_to(tmp_path / "secret")
    return tmp_path


def _folder(client: TestClient, *path: str) -> str:
    """The id of a folder, found as a person finds it."""
    parent: dict[str, str] = {}
    for name in path:
        listing = client.get(f"{API}/folders", params=parent).json()
        parent = {"parent": {folder["name"].rpartition("/")[2]: folder["id"] for folder in listing["folders"]}[name]}
    return parent["parent"]


def _ended(client: TestClient, job: str, seconds: float = 60.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state: dict[str, Any] = client.get(f"{API}/jobs/{job}").json()
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        time.sleep(0.05)
    raise AssertionError(f"the job is still {state}")


def test_a_folder_is_indexed_and_found_in(place: Path, served: Served, tmp_path: Path) -> None:
    client = served(place / "library", roots=str(place / "more"))
    listing = client.get(f"{API}/folders").json()
    assert [folder["name"] for folder in listing["folders"]] == ["more"]
    inside = client.get(f"{API}/folders", params={"parent": listing["folders"][0]["id"]}).json()
    assert [folder["name"] for folder in inside["folders"]] == [
        "more/new"
    ]  # neither the hidden one nor the link to elsewhere
    answer = client.post(f"{API}/jobs", json={"folder": _folder(client, "more", "new")})
    assert answer.status_code == 202
    job = answer.json()["id"]
    with client.stream("GET", f"{API}/jobs/{job}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = list(events.iter_lines())
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert set(kinds[:-1]) <= {"progress"}
    assert kinds[-1] == "end"
    state = client.get(f"{API}/jobs/{job}").json()
    assert (state["state"], state["folder_name"], state["problem"]) == ("done", "more/new", None)
    assert {name: state["report"][name] for name in ("added", "changed", "unchanged", "skipped")} == {
        "added": 6,
        "changed": 0,
        "unchanged": 0,
        "skipped": 2,
    }
    assert {(skip["name"], skip["reason"]) for skip in state["skipped"]} == {
        ("broken.mp4", "unreadable"),
        ("notes.txt", "not-media"),
    }
    assert str(place) not in client.get(f"{API}/jobs/{job}").text
    assert state["report"]["moments"] == client.get(f"{API}/library").json()["moments"]
    query = upload(client, film(tmp_path / "blue.wav.mp4", [BLUE], sound=None))
    page = find(client, **{"query": query["id"], "for": "video", "by": "video"})
    assert "3.mp4" in names(page)[:2]
    counted = client.get(f"{API}/folders", params={"parent": _folder(client, "more")}).json()["folders"]
    assert [folder["items"] for folder in counted] == [6]


def test_by_default_the_index_s_own_folders_may_be_indexed(place: Path, served: Served) -> None:
    client = served(place / "library")
    assert [folder["name"] for folder in client.get(f"{API}/folders").json()["folders"]] == ["data"]
    (place / "data" / "films" / "red.mp4").unlink()
    rows = (place / "data" / "manifest.csv").read_text().splitlines()
    (place / "data" / "manifest.csv").write_text("\n".join(row for row in rows if "red.mp4" not in row) + "\n")
    order = {"folder": _folder(client, "data"), "remove_gone": True}
    state = _ended(client, client.post(f"{API}/jobs", json=order).json()["id"])
    assert (state["state"], state["report"]["removed"], state["report"]["unchanged"]) == ("done", 1, 5)
    time.sleep(0.05)
    assert "films/red.mp4" not in items(client)


def test_folders_outside_are_never_indexed(place: Path, served: Served) -> None:
    client = served(place / "library", roots=str(place / "more"))
    problem(client.get(f"{API}/jobs/{'0' * 24}/events"), 404, "not-found")
    for wrong in ("0" * 24, "..", "/etc", "more/../secret", "\x00"):
        assert client.post(f"{API}/jobs", json={"folder": wrong}).status_code in (404, 422)
        assert client.get(f"{API}/folders", params={"parent": wrong}).status_code in (404, 422)
    known = _folder(client, "more", "new")
    (place / "more" / "new").rename(place / "old")
    problem(client.post(f"{API}/jobs", json={"folder": known}), 410, "gone")
    (place / "more" / "new").symlink_to(place / "secret")
    problem(client.post(f"{API}/jobs", json={"folder": known}), 403, "outside")
    assert client.get(f"{API}/jobs").json() == {"jobs": []}
    with pytest.raises(SettingsError, match=r"^--roots: got .*nowhere, expected folders that are there$"):
        served(place / "library", roots=os.pathsep.join([str(place), str(place / "nowhere")]))


def test_a_job_cancelled_half_way_leaves_what_it_had_and_the_service_answers(
    place: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = jobs_module.Job.advance

    def slowly(self: jobs_module.Job, steps: int = 1) -> None:
        advance(self, steps)
        if steps and self.phase == "embedding films":
            time.sleep(0.3)

    monkeypatch.setattr(jobs_module.Job, "advance", slowly)
    monkeypatch.setattr("cmmixer.retrieval.build._COMMIT_ROWS", 1)
    client = served(place / "library", roots=str(place / "more"))
    folder = _folder(client, "more", "new")
    job = client.post(f"{API}/jobs", json={"folder": folder}).json()["id"]
    told = problem(client.post(f"{API}/jobs", json={"folder": folder}), 409, "conflict")
    assert "is being indexed already" in told["detail"]
    deadline = time.monotonic() + 60
    while (state := client.get(f"{API}/jobs/{job}").json())["done"] < 3 or state["phase"] != "embedding films":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert state["total"] == 7
    assert client.delete(f"{API}/jobs/{job}").json()["state"] == "cancelling"
    state = _ended(client, job)
    assert (state["state"], state["phase"]) == ("cancelled", "cancelled; what was indexed until then stays")
    problem(client.delete(f"{API}/jobs/{job}"), 409, "conflict")
    time.sleep(0.05)
    assert 6 < len(items(client)) < 12
    again = _ended(client, client.post(f"{API}/jobs", json={"folder": folder}).json()["id"])
    assert again["state"] == "done"
    assert 0 < again["report"]["added"] < 6
    assert len([row for row in MomentIndex.open(place / "library").files() if row.status == "used"]) == 12


@pytest.mark.parametrize("hangs", [False, True])
def test_a_job_is_cancelled_inside_a_long_film(place: Path, served: Served, hangs: bool) -> None:
    """While its pieces go by, and while a decoder gives nothing at all; the index stays as it was and can go on."""
    long_film(place / "more" / "long" / "day.mp4", 5400)
    client = served(place / "library", roots=str(place / "more"))
    folder, before = _folder(client, "more", "long"), client.get(f"{API}/library").json()["moments"]
    find(client, query=upload(client, film(place / "q.mp4", [RED]))["id"])  # all processes but the job's are there
    known = {process.pid for process in psutil.Process().children(recursive=True)}
    job = client.post(f"{API}/jobs", json={"folder": folder}).json()["id"]
    stopped = _hold_decoders(known) if hangs else []
    deadline = time.monotonic() + 60
    while client.get(f"{API}/jobs/{job}").json()["phase"] != "embedding films":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    state = client.get(f"{API}/jobs/{job}").json()
    assert (state["state"], state["done"], state["total"]) == ("running", 0, 1)
    began = time.monotonic()
    client.delete(f"{API}/jobs/{job}")
    state = _ended(client, job)
    assert state["state"] == "cancelled"
    # pebble gives a process that does not end by itself three seconds.
    assert time.monotonic() - began < (8 if hangs else 4)
    assert not [process for process in stopped if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    service = client.app.state.service  # type: ignore[attr-defined]
    service.library.look_again()
    assert client.get(f"{API}/library").json()["moments"] == before
    assert MomentIndex.open(place / "library").count() == before
    assert client.get("/ready").json()["items"] == 6
    again = _ended(client, client.post(f"{API}/jobs", json={"folder": folder}).json()["id"], 120.0)
    assert (again["state"], again["report"]["added"], again["report"]["skipped"]) == ("done", 1, 0)
    assert again["report"]["moments"] == before + 2 * 5400 + 1  # a second long, one every half second, of 5,401 s


def _hold_decoders(known: set[int]) -> list[psutil.Process]:
    """Has the processes that have come to decode do nothing any more, as a file may that a decoder hangs on."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        new = [process for process in psutil.Process().children(recursive=True) if process.pid not in known]
        found = [process for process in new if process.parent() != psutil.Process()]
        if found:
            for process in found:
                process.suspend()
            return found
        time.sleep(0.005)
    raise AssertionError("no decoder was found")


def test_another_writer_is_said(place: Path, served: Served) -> None:
    from cmmixer.retrieval.tables import only_writer

    client = served(place / "library", roots=str(place / "more"))
    with only_writer(place / "library"):
        state = _ended(client, client.post(f"{API}/jobs", json={"folder": _folder(client, "more")}).json()["id"])
    assert state["state"] == "failed"
    assert "another process is writing to this index" in state["problem"]


def test_what_another_process_indexes_shows_and_a_lost_index_is_said(place: Path, served: Served) -> None:
    client = served(place / "library")
    film(place / "data" / "films" / "later.mp4", [GREEN])
    with (place / "data" / "manifest.csv").open("a") as file:
        file.write("films/later.mp4,late,\n")
    assert "films/later.mp4" not in items(client)
    make_index(place / "data", place / "library")
    client.app.state.service.library.look_again()  # type: ignore[attr-defined]
    assert items(client)["films/later.mp4"]["label"] == "late"
    assert client.get("/ready").status_code == 200
    (place / "library").rename(place / "elsewhere")
    client.app.state.service.library.look_again()  # type: ignore[attr-defined]
    told = problem(client.get("/ready"), 503, "index")
    assert "no such index" in told["detail"]
    health = client.get("/health")
    assert (health.status_code, health.json()["ready"], health.json()["status"]) == (200, False, "unready")
    (place / "elsewhere").rename(place / "library")
    assert client.get("/ready").json()["items"] == 7


def test_the_python_client_does_it_all(place: Path, served: Served, tmp_path: Path) -> None:
    inner = served(place / "library", roots=str(place / "more"))
    with Client("http://127.0.0.1", transport=inner._transport) as client:
        assert client.health().ready
        assert client.library().items == 6
        query = client.upload(film(tmp_path / "query.mp4", [BLUE] * 2, sound=None))
        assert (query.name, query.has_sound) == ("query.mp4", False)
        page = client.search(query=query.id, target="audio", label=["cold"], limit=1)
        assert page.target == "audio"
        assert page.hits[0].item.label == "cold"
        assert page.timeline is None
        told = client.search(query=query.id, timeline=True, where=["camera:B"]).timeline
        assert told is not None
        assert [stretch.item.name for stretch in told] == [f"sounds/{NASTY}"]
        listed = list(client.items(sort="-duration", kind="film"))
        assert [item.name for item in listed] == ["films/mixed.mp4", "films/red.mp4", "films/mute.mp4"]
        assert client.item(listed[0].id).columns["source"] == "reel one"
        assert [column.name for column in client.library().metadata] == ["Shot by", "camera", "split"]
        (found,) = client.items(where=["camera:B", "source:reel one"])
        assert found.metadata == {"camera": "B", "Shot by": "Ö: N", "split": "train"}
        assert client.thumbnail(listed[0].id)[:2] == b"\xff\xd8"
        assert len(client.peaks(listed[0].id, bins=9).low) == 9
        client.download(listed[0].id, tmp_path / "copy.mp4")
        assert (tmp_path / "copy.mp4").read_bytes() == (place / "data" / "films" / "mixed.mp4").read_bytes()
        (top,) = client.folders().folders
        job = client.index(client.folders(top.id).folders[0].id)
        states = list(client.watch(job.id))
        assert states[-1].state == "done"
        assert states[-1].report is not None
        assert states[-1].report.added == 6
        assert client.job(job.id) == states[-1]
        client.forget(query.id)
        with pytest.raises(ServiceError, match=r"^There is no such thing here: no uploaded file has the id") as refused:
            client.search(query=query.id)
        assert refused.value.problem is not None
        assert refused.value.problem.status == 404
    with (
        Client("http://127.0.0.1:9", timeout_seconds=2.0) as client,
        pytest.raises(ServiceError, match="is the service running"),
    ):
        client.health()
