"""Jobs: allowed folders only, progress as events, skipped files, cancelling."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from cmmixer.config import IndexSettings
from cmmixer.errors import SettingsError
from cmmixer.retrieval.build import IndexReport
from cmmixer.retrieval.index import MomentIndex
from cmmixer.server import jobs as jobs_module
from cmmixer.server import schemas
from cmmixer.server.client import Client, ServiceError
from cmmixer.server.jobs import Job, Jobs
from cmmixer.server.problems import ProblemError
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, video
from tests.support.counting_videos import long_video
from tests.support.service import (
    API,
    NASTY,
    NO_ID,
    StartService,
    find,
    items,
    make_data,
    make_index,
    names,
    problem,
    service_of,
    upload,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A library, and folders beside it that are not in it."""
    make_index(make_data(tmp_path / "data"), tmp_path / "library")
    for number in range(6):
        video(tmp_path / "more" / "new" / f"{number}.mp4", [BLUE if number == 3 else RED] * 2, sound=[GREEN] * 2)
    (tmp_path / "more" / "new" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "more" / "new" / "notes.txt").write_text("not media")
    (tmp_path / "more" / ".hidden").mkdir()
    video(tmp_path / "secret" / "secret.mp4", [RED])
    (tmp_path / "more" / "link").symlink_to(tmp_path / "secret")
    return tmp_path


def _folder(client: TestClient, *path: str) -> str:
    """Returns the id of a folder, opened level by level as a person does."""
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


def test_job_indexes_a_folder(workspace: Path, start_service: StartService, tmp_path: Path) -> None:
    client = start_service(workspace / "library", roots=str(workspace / "more"))
    listing = client.get(f"{API}/folders").json()
    assert [folder["name"] for folder in listing["folders"]] == ["more"]
    inside = client.get(f"{API}/folders", params={"parent": listing["folders"][0]["id"]}).json()
    assert [folder["name"] for folder in inside["folders"]] == ["more/new"]  # neither the hidden folder nor the link
    response = client.post(f"{API}/jobs", json={"folder": _folder(client, "more", "new")})
    assert response.status_code == 202
    job = response.json()["id"]
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
    assert str(workspace) not in client.get(f"{API}/jobs/{job}").text
    assert state["report"]["moments"] == client.get(f"{API}/library").json()["moments"]
    query = upload(client, video(tmp_path / "blue.wav.mp4", [BLUE], sound=None))
    page = find(client, **{"query": query["id"], "for": "video", "by": "video"})
    assert "3.mp4" in names(page)[:2]
    counted = client.get(f"{API}/folders", params={"parent": _folder(client, "more")}).json()["folders"]
    assert [folder["items"] for folder in counted] == [6]


def test_indexed_folders_are_the_default_roots(workspace: Path, start_service: StartService) -> None:
    client = start_service(workspace / "library")
    assert [folder["name"] for folder in client.get(f"{API}/folders").json()["folders"]] == ["data"]
    (workspace / "data" / "videos" / "red.mp4").unlink()
    rows = (workspace / "data" / "manifest.csv").read_text().splitlines()
    (workspace / "data" / "manifest.csv").write_text("\n".join(row for row in rows if "red.mp4" not in row) + "\n")
    request = {"folder": _folder(client, "data"), "remove_missing": True}
    state = _ended(client, client.post(f"{API}/jobs", json=request).json()["id"])
    assert (state["state"], state["report"]["removed"], state["report"]["unchanged"]) == ("done", 1, 5)
    time.sleep(0.05)
    assert "videos/red.mp4" not in items(client)


def test_folders_outside_the_roots_are_refused(workspace: Path, start_service: StartService) -> None:
    client = start_service(workspace / "library", roots=str(workspace / "more"))
    problem(client.get(f"{API}/jobs/{NO_ID}/events"), 404, "not-found")
    for wrong in (NO_ID, "..", "/etc", "more/../secret", "\x00"):
        assert client.post(f"{API}/jobs", json={"folder": wrong}).status_code in (404, 422)
        assert client.get(f"{API}/folders", params={"parent": wrong}).status_code in (404, 422)
    known = _folder(client, "more", "new")
    (workspace / "more" / "new").rename(workspace / "old")
    problem(client.post(f"{API}/jobs", json={"folder": known}), 410, "gone")
    (workspace / "more" / "new").symlink_to(workspace / "secret")
    problem(client.post(f"{API}/jobs", json={"folder": known}), 403, "outside-library")
    assert client.get(f"{API}/jobs").json() == {"jobs": []}
    with pytest.raises(SettingsError, match=r"^--roots: got .*nowhere, expected existing folders$"):
        start_service(workspace / "library", roots=os.pathsep.join([str(workspace), str(workspace / "nowhere")]))


def test_cancelled_job_keeps_what_it_indexed(
    workspace: Path, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = jobs_module.Job.advance

    def slowly(self: jobs_module.Job, steps: int = 1) -> None:
        advance(self, steps)
        if steps and self.phase == "embedding videos":
            time.sleep(0.3)

    monkeypatch.setattr(jobs_module.Job, "advance", slowly)
    monkeypatch.setattr("cmmixer.retrieval.build._COMMIT_ROWS", 1)
    client = start_service(workspace / "library", roots=str(workspace / "more"))
    folder = _folder(client, "more", "new")
    job = client.post(f"{API}/jobs", json={"folder": folder}).json()["id"]
    body = problem(client.post(f"{API}/jobs", json={"folder": folder}), 409, "conflict")
    assert "is already being indexed" in body["detail"]
    deadline = time.monotonic() + 60
    while (state := client.get(f"{API}/jobs/{job}").json())["done"] < 3 or state["phase"] != "embedding videos":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert state["total"] == 7
    assert client.delete(f"{API}/jobs/{job}").json()["state"] == "cancelling"
    state = _ended(client, job)
    assert (state["state"], state["phase"]) == ("cancelled", "cancelled; files indexed until then stay in the index")
    problem(client.delete(f"{API}/jobs/{job}"), 409, "conflict")
    time.sleep(0.05)
    assert 6 < len(items(client)) < 12
    again = _ended(client, client.post(f"{API}/jobs", json={"folder": folder}).json()["id"])
    assert again["state"] == "done"
    assert 0 < again["report"]["added"] < 6
    assert len([row for row in MomentIndex.open(workspace / "library").files() if row.status == "used"]) == 12


@pytest.mark.parametrize("hangs", [False, True])
def test_job_is_cancelled_inside_a_long_video(workspace: Path, start_service: StartService, hangs: bool) -> None:
    """While its chunks are decoded, and while a decoder hangs. The index stays as it was, and the next job succeeds."""
    long_video(workspace / "more" / "long" / "day.mp4", 3600)
    client = start_service(workspace / "library", roots=str(workspace / "more"))
    folder, before = _folder(client, "more", "long"), client.get(f"{API}/library").json()["moments"]
    find(
        client, query=upload(client, video(workspace / "q.mp4", [RED]))["id"]
    )  # starts all processes except those of the job
    known = {process.pid for process in psutil.Process().children(recursive=True)}
    job = client.post(f"{API}/jobs", json={"folder": folder}).json()["id"]
    stopped = _hold_decoders(known) if hangs else []
    deadline = time.monotonic() + 60
    while client.get(f"{API}/jobs/{job}").json()["phase"] != "embedding videos":
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
    service = service_of(client)
    service.library.expire()
    assert client.get(f"{API}/library").json()["moments"] == before
    assert MomentIndex.open(workspace / "library").count() == before
    assert client.get("/ready").json()["items"] == 6
    again = _ended(client, client.post(f"{API}/jobs", json={"folder": folder}).json()["id"], 120.0)
    assert (again["state"], again["report"]["added"], again["report"]["skipped"]) == ("done", 1, 0)
    assert again["report"]["moments"] == before + 2 * 3600 + 1  # a second long, one every half second, of 3,601 s


def _hold_decoders(known: set[int]) -> list[psutil.Process]:
    """Suspends the new decoder processes, as if they hung on a file."""
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


def test_locked_index_fails_a_job(workspace: Path, start_service: StartService) -> None:
    from cmmixer.retrieval.tables import lock_index

    client = start_service(workspace / "library", roots=str(workspace / "more"))
    with lock_index(workspace / "library"):
        state = _ended(client, client.post(f"{API}/jobs", json={"folder": _folder(client, "more")}).json()["id"])
    assert state["state"] == "failed"
    assert "another process is writing to this index" in state["problem"]


def test_changes_of_another_process_show(workspace: Path, start_service: StartService) -> None:
    client = start_service(workspace / "library")
    video(workspace / "data" / "videos" / "later.mp4", [GREEN])
    with (workspace / "data" / "manifest.csv").open("a") as file:
        file.write("videos/later.mp4,late,\n")
    assert "videos/later.mp4" not in items(client)
    make_index(workspace / "data", workspace / "library")
    service_of(client).library.expire()
    assert items(client)["videos/later.mp4"]["label"] == "late"
    assert client.get("/ready").status_code == 200
    (workspace / "library").rename(workspace / "elsewhere")
    service_of(client).library.expire()
    body = problem(client.get("/ready"), 503, "index-unavailable")
    assert body["detail"].startswith("INDEX: ")
    assert str(workspace) not in body["detail"]
    assert "make one with `cmmixer index --model RUN --data DIR --index INDEX`" in body["detail"]
    health = client.get("/health")
    assert (health.status_code, health.json()["ready"], health.json()["status"]) == (200, False, "unready")
    (workspace / "elsewhere").rename(workspace / "library")
    assert client.get("/ready").json()["items"] == 7


def test_client_covers_the_interface(workspace: Path, start_service: StartService, tmp_path: Path) -> None:
    inner = start_service(workspace / "library", roots=str(workspace / "more"))
    with Client("http://127.0.0.1", transport=inner._transport) as client:
        assert client.health().ready
        assert client.library().items == 6
        query = client.upload(video(tmp_path / "query.mp4", [BLUE] * 2, sound=None))
        assert (query.name, query.has_audio) == ("query.mp4", False)
        page = client.search(query=query.id, target="audio", label=["cold"], limit=1)
        assert page.target == "audio"
        assert page.hits[0].item.label == "cold"
        assert page.timeline is None
        segments = client.search(query=query.id, timeline=True, where=["camera:B"]).timeline
        assert segments is not None
        assert [segment.item.name for segment in segments] == [f"sounds/{NASTY}"]
        listed = list(client.items(sort="-duration", kind="video"))
        assert [item.name for item in listed] == ["videos/mixed.mp4", "videos/red.mp4", "videos/mute.mp4"]
        assert client.item(listed[0].id).columns["source"] == "reel one"
        assert [column.name for column in client.library().metadata] == ["Shot by", "camera", "split"]
        (found,) = client.items(where=["camera:B", "source:reel one"])
        assert found.metadata == {"camera": "B", "Shot by": "Ö: N", "split": "train"}
        assert client.thumbnail(listed[0].id)[:2] == b"\xff\xd8"
        assert len(client.peaks(listed[0].id, bins=9).low) == 9
        client.download(listed[0].id, tmp_path / "copy.mp4")
        assert (tmp_path / "copy.mp4").read_bytes() == (workspace / "data" / "videos" / "mixed.mp4").read_bytes()
        (top,) = client.folders().folders
        job = client.start_job(client.folders(top.id).folders[0].id)
        states = list(client.watch_job(job.id))
        assert states[-1].state == "done"
        assert states[-1].report is not None
        assert states[-1].report.added == 6
        assert client.job(job.id) == states[-1]
        client.delete_query(query.id)
        with pytest.raises(ServiceError, match=r"^Not found: no uploaded file has the id") as refused:
            client.search(query=query.id)
        assert refused.value.problem is not None
        assert refused.value.problem.status == 404
    with (
        Client("http://127.0.0.1:9", timeout_seconds=2.0) as client,
        pytest.raises(ServiceError, match="is the service running"),
    ):
        client.health()


def _settings(job: Job) -> IndexSettings:
    return IndexSettings(model="-", data=job.path, index="/private/library")


@pytest.fixture
def fake_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., IndexReport]], Jobs]]:
    """Makes jobs whose indexing is a function of the test."""
    started: list[Jobs] = []

    def make(work: Callable[..., IndexReport]) -> Jobs:
        monkeypatch.setattr(jobs_module, "index", work)
        started.append(Jobs(_settings, ColourEncoder(), lambda: None))
        return started[-1]

    yield make
    for jobs in started:
        jobs.close()


def _report(**values: Any) -> IndexReport:
    base = {"index": "/private/library", "added": 1, "changed": 2, "unchanged": 3, "removed": 4, "skipped": 5}
    return IndexReport(**{**base, "moments": 6, "skips": [], **values})


def _wait(job: Job) -> schemas.Job:
    deadline = time.monotonic() + 10
    while job.state not in jobs_module.ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return job.to_schema()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SettingsError("/media/more/a.csv: bad row"), "more/a.csv: bad row"),
        (SettingsError("/private/library: is damaged"), "INDEX: is damaged"),
        (OSError("disk"), "disk"),
        (KeyError("x"), "internal error: KeyError; this is a bug, and the details are in the service's log"),
    ],
)
def test_failed_jobs_say_why_without_paths(fake_jobs: Any, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> IndexReport:
        raise error

    state = _wait(fake_jobs(fail).start(NO_ID, "more", "/media/more", False))
    assert (state.state, state.phase, state.problem, state.report) == ("failed", "failed", message, None)


def test_progress_of_a_job(fake_jobs: Any) -> None:
    seen: list[tuple[str, int, int | None, float | None]] = []

    def work(settings: IndexSettings, progress: Job, *, encoder: object) -> IndexReport:
        assert (settings.data, encoder.id) == ("/media/more", ColourEncoder().id)  # type: ignore[attr-defined]
        progress.start(2, "embedding videos")
        for steps in (0, 1, 1):
            progress.advance(steps)
            state = progress.to_schema()
            seen.append((state.phase, state.done, state.total, state.seconds_left))
        return _report()

    state = _wait(fake_jobs(work).start(NO_ID, "more", "/media/more", False))
    assert [entry[:3] for entry in seen] == [("embedding videos", done, 2) for done in (0, 1, 2)]
    assert (seen[0][3], seen[2][3]) == (None, 0.0)
    assert (state.state, state.phase, state.seconds_left) == ("done", "done", None)
    assert state.report is not None
    assert state.report.model_dump() == {
        "added": 1, "changed": 2, "unchanged": 3, "removed": 4, "skipped": 5, "moments": 6,
    }  # fmt: skip


def test_jobs_run_one_at_a_time_and_queued_ones_are_cancelled(fake_jobs: Any) -> None:
    go = threading.Event()

    def work(settings: IndexSettings, progress: Job, *, encoder: object) -> IndexReport:
        assert go.wait(10)
        progress.advance()
        return _report()

    jobs = fake_jobs(work)
    first = jobs.start(NO_ID, "one", "/media/one", False)
    second = jobs.start(NO_ID, "two", "/media/two", False)
    assert [job.folder_name for job in jobs.all()] == ["two", "one"]
    assert jobs.open == 2
    with pytest.raises(ProblemError) as error:
        jobs.start(NO_ID, "one", "/media/one", False)
    assert error.value.detail == "one: is already being indexed; wait for that job or cancel it"
    assert jobs.cancel(second.id).state == "cancelled"
    assert second.phase == "cancelled before it started"
    with pytest.raises(ProblemError) as error:
        jobs.cancel(second.id)
    assert error.value.detail == "two: has already ended (cancelled)"
    go.set()
    assert _wait(first).state == "done"
    assert (second.report, jobs.open) == (None, 0)


def test_too_many_queued_jobs_are_refused_and_old_ones_forgotten(
    fake_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_MAX_QUEUED", 2)
    monkeypatch.setattr(jobs_module, "_MAX_REMEMBERED", 3)
    go = threading.Event()

    def work(*_: Any, **__: Any) -> IndexReport:
        assert go.wait(10)
        return _report()

    jobs = fake_jobs(work)
    first = [jobs.start(NO_ID, name, f"/media/{name}", False) for name in ("0", "1")]
    with pytest.raises(ProblemError) as error:
        jobs.start(NO_ID, "2", "/media/2", False)
    assert (error.value.kind, error.value.detail) == ("busy", "2 folders are waiting to be indexed")
    go.set()
    for job in first:
        _wait(job)
    for name in ("2", "3", "4"):
        _wait(jobs.start(NO_ID, name, f"/media/{name}", False))
    assert [job.folder_name for job in jobs.all()] == ["4", "3", "2"]
    with pytest.raises(ProblemError) as error:
        jobs.get(first[0].id)
    assert error.value.detail == f"no job has the id {first[0].id}"
