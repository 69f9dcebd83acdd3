"""Errors outside the requests themselves, as problem JSON and on the page: damaged indexes, missing files, full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from cmmixer.config import IndexSettings, ServeSettings
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.build import index
from cmmixer.server.service import Service
from tests.support.browser import open_page, running, screenshot
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video
from tests.support.exotic_formats import exotic_sound, exotic_video
from tests.support.service import API, StartService, find, items, make_data, make_index, problem, service_of, upload

Opened = tuple[Page, httpx2.Client, Service]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A library that the test may damage."""
    make_index(make_data(tmp_path / "data"), tmp_path / "library")
    return tmp_path


@contextmanager
def _open(browser: Browser, workspace: Path, **options: Any) -> Iterator[Opened]:
    """Starts a service and opens its page. The cache is outside the index, so that the index can be removed."""
    base = {"index": str(workspace / "library"), "cache": str(workspace / "cache"), "workers": 1, "searches": 1}
    service = Service(ServeSettings(**{**base, **options}), ColourEncoder())
    with (
        running(service) as address,
        httpx2.Client(base_url=address, timeout=60) as client,
        open_page(browser, address) as page,
    ):
        expect(page.locator(".suggestion").first).to_be_visible()
        yield page, client, service


def _damage_metadata(workspace: Path) -> str:
    (workspace / "library" / "index.json").write_text("{ this was JSON")
    return "index.json"


def _remove_index(workspace: Path) -> str:
    shutil.move(workspace / "library", workspace / "elsewhere")
    return "make one with `cmmixer index"


def _damage_table(workspace: Path) -> str:
    for file in (workspace / "library" / "files.lance" / "_versions").iterdir():
        file.unlink()
    return "files.lance is damaged"


def _replace_by_another_model(workspace: Path) -> str:
    shutil.rmtree(workspace / "library")
    settings = IndexSettings(model="-", data=str(workspace / "data"), index=str(workspace / "library"), workers=1)
    index(settings, encoder=ColourEncoder("other colours"))
    return "its vectors are of model"


@pytest.mark.parametrize("damage", [_damage_metadata, _remove_index, _damage_table, _replace_by_another_model])
def test_damaged_index_is_reported(
    browser: Browser, workspace: Path, damage: Callable[[Path], str], tmp_path: Path
) -> None:
    with _open(browser, workspace) as (page, client, service):
        cut = video(tmp_path / "cut.mp4", [GREEN] * 2, sound=None)
        query = client.post(f"{API}/queries", content=cut.read_bytes()).json()["id"]
        words = damage(workspace)
        service.library.expire()
        for path in ("/ready", f"{API}/items", f"{API}/library", f"{API}/search?query={query}"):
            body = problem(client.get(path), 503, "index-unavailable")
            assert body["title"] == "The index cannot be read"
            assert words in body["detail"]
            assert str(workspace) not in body["detail"]
        assert client.get("/health").json()["ready"] is False
        page.set_input_files("#pick-file", cut)
        expect(page.locator("#results-problem")).to_contain_text("The index cannot be read")
        expect(page.locator("#results-problem")).to_contain_text(words)
        screenshot(page, f"problem-index{damage.__name__}")
        page.locator("nav [data-view=library]").click()
        expect(page.locator("#library-problem")).to_contain_text("The index cannot be read")


def test_index_of_another_model_is_refused(workspace: Path) -> None:
    settings = ServeSettings(index=str(workspace / "library"), cache=str(workspace / "cache"))
    with pytest.raises(SearchIndexError, match="its vectors are of model"):
        Service(settings, ColourEncoder("other colours"))


def test_missing_file_is_reported_in_the_player(browser: Browser, workspace: Path, tmp_path: Path) -> None:
    with _open(browser, workspace) as (page, _, _):
        page.set_input_files("#pick-file", video(tmp_path / "cut.mp4", [GREEN] * 2, sound=None))
        expect(page.locator(".hit", has_text="green").first).to_be_visible()
        (workspace / "data" / "sounds" / "green.wav").unlink()
        page.locator(".hit", has_text="green").first.locator(".hit-play").click()
        note = page.locator("#screen-note")
        expect(note).to_contain_text("The file is not where it was indexed: sounds/green.wav: no longer exists")
        expect(page.locator("#mixing")).to_be_hidden()
        assert page.evaluate("document.getElementById('video').videoWidth") > 0  # which can still be watched
        screenshot(page, "problem-gone")
        # Another result plays all the same.
        page.locator(".hit", has_text="mixed").first.locator(".hit-play").click()
        expect(note).to_be_hidden()
        expect(page.locator("#player")).to_have_attribute("data-state", "playing")
        page.locator("nav [data-view=library]").click()
        expect(page.locator("#items tr", has_text="green")).to_contain_text("file is missing")


def test_query_without_the_modality_is_refused(browser: Browser, workspace: Path, tmp_path: Path) -> None:
    with _open(browser, workspace) as (page, client, _):
        cut = video(tmp_path / "my cut.mp4", [GREEN] * 2, sound=None)
        query = client.post(f"{API}/queries", params={"name": cut.name}, content=cut.read_bytes()).json()["id"]
        response = client.get(f"{API}/search", params={"query": query, "for": "video", "by": "audio"})
        body = problem(response, 422, "missing-modality")
        assert body["detail"] == "my cut.mp4: has no audio to search by"
        # The page offers only what the query has, whatever a link says.
        page.goto(f"{page.url.split('#')[0]}#/search?query={query}&for=video&by=audio")
        expect(page.locator("input[name=by][value=audio]")).to_be_disabled()
        expect(page.locator("input[name=by][value=video]")).to_be_checked()
        expect(page.locator(".hits.as-grid .hit").first).to_be_visible()


def test_unusable_uploads_are_reported_on_the_page(browser: Browser, workspace: Path, tmp_path: Path) -> None:
    with _open(browser, workspace, max_upload_mb=1, query_seconds=3.0) as (page, _, _):
        (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
        for path, words in (
            (tmp_path / "large.mp4", "The file is too large"),
            (video(tmp_path / "long.mp4", [RED] * 6), "The file is too long to search with"),
        ):
            page.set_input_files("#pick-file", path)
            expect(page.locator("#upload-line")).to_contain_text(words)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes; skips visibly where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk to fill")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path, leave_bytes: int) -> Path:
    """Fills a disk until this much is left."""
    path = folder / "filling"
    free = os.statvfs(folder)
    path.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave_bytes)))
    return path


def test_full_disk_refuses_uploads(
    browser: Browser, workspace: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with _open(browser, workspace) as (page, client, _):
        cut = video(tmp_path / "cut.mp4", [GREEN] * 2, sound=None)
        filling = _fill(small_disk, 4096)
        response = client.post(f"{API}/queries", content=bytes(1 << 20))
        assert problem(response, 507, "disk-full")["title"] == "The disk is full"
        (tmp_path / "large.mp4").write_bytes(bytes(1 << 20))
        page.set_input_files("#pick-file", tmp_path / "large.mp4")
        expect(page.locator("#upload-line")).to_contain_text("The disk is full")
        screenshot(page, "problem-disk")
        filling.unlink()
        page.set_input_files("#pick-file", cut)
        expect(page.locator(".hit").first).to_be_visible()


def test_full_disk_refuses_conversions_but_not_previews(
    browser: Browser, workspace: Path, small_disk: Path, tmp_path: Path
) -> None:
    with _open(browser, workspace, cache=str(small_disk / "cache")) as (page, client, _):
        raw = exotic_video(tmp_path / "raw.avi", [GREEN, BLUE] * 10, "avi")
        query = client.post(f"{API}/queries", content=raw.read_bytes()).json()["id"]
        filling = _fill(small_disk, 0)
        problem(client.get(f"{API}/queries/{query}/playback"), 507, "disk-full")
        assert client.get(f"{API}/queries/{query}/thumbnail").content[:2] == b"\xff\xd8"
        page.goto(f"{page.url.split('#')[0]}#/search?query={query}")
        expect(page.locator("#screen-note")).to_contain_text("The disk is full")
        filling.unlink()
        assert client.get(f"{API}/queries/{query}/playback").json()["converted"]
        assert [path.suffix for path in (small_disk / "cache").rglob("*") if path.is_file()].count(".mp4") == 1


def test_full_disk_fails_a_job(browser: Browser, workspace: Path, small_disk: Path) -> None:
    shutil.copytree(workspace / "library", small_disk / "library")
    for number in range(4):
        video(workspace / "more" / f"{number}.mp4", [RED] * 20)
    options = {"index": str(small_disk / "library"), "roots": str(workspace / "more")}
    with _open(browser, workspace, **options) as (page, client, _):
        before = client.get(f"{API}/library").json()["moments"]
        filling = _fill(small_disk, 0)
        page.locator("#open-folders").click()
        page.locator("#folder-list button", has_text="more").click()
        page.locator("#start-job").click()
        expect(page.locator("#job-panel")).to_have_attribute("data-state", "failed")
        expect(page.locator("#job-result")).to_contain_text("the disk is full")
        (job,) = client.get(f"{API}/jobs").json()["jobs"]
        assert job["problem"].startswith("INDEX: the disk is full")
        assert client.get(f"{API}/library").json()["moments"] == before
        assert client.get("/ready").status_code == 200
        filling.unlink()


@pytest.mark.parametrize("kind", ["flac", "gif"])
def test_small_files_of_hours_are_refused(start_service: StartService, tmp_path: Path, kind: str) -> None:
    client = start_service(query_seconds=600.0)
    path = _silence(tmp_path / "hours.flac") if kind == "flac" else _slow_gif(tmp_path / "hours.gif")
    assert path.stat().st_size < 2_000_000
    body = problem(client.post(f"{API}/queries", content=path.read_bytes()), 413, "too-long")
    assert "expected at most 600 s" in body["detail"]


def _silence(path: Path) -> Path:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono")
        for second in range(0, 7200, 60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 480_000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, second * 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _slow_gif(path: Path) -> Path:
    from PIL import Image

    frames = [Image.new("L", (16, 16), 8 * shade) for shade in range(30)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=300_000, loop=0)
    return path


@pytest.mark.data
def test_library_of_hostile_files(start_service: StartService, workspace: Path, real_media: Path) -> None:
    """Indexed by the service: every file is used or listed as skipped, and used files can be previewed, played and found."""
    client = start_service(workspace / "library", roots=str(real_media / "hostile" / "made"))
    (top,) = client.get(f"{API}/folders").json()["folders"]
    job = client.post(f"{API}/jobs", json={"folder": top["id"]}).json()["id"]
    with client.stream("GET", f"{API}/jobs/{job}/events") as events:
        assert list(events.iter_lines())
    state = client.get(f"{API}/jobs/{job}").json()
    assert state["state"] == "done"
    on_disk = list((real_media / "hostile" / "made").iterdir())
    assert state["report"]["added"] + state["report"]["skipped"] == len(on_disk)
    assert all(skip["message"] and "\n" not in skip["message"] for skip in state["skipped"])
    service_of(client).library.expire()
    listed = items(client, limit=500)
    assert len(listed) == 6 + state["report"]["added"]
    for name, item in sorted(listed.items())[::5]:
        modality = "audio" if item["kind"] == "audio" else "video"
        for path, parameters in (("thumbnail", {}), ("peaks", {}), ("playback", {"modality": modality})):
            response = client.get(f"{API}/items/{item['id']}/{path}", params=parameters)
            if response.status_code != 200:
                problem(response, 422, response.json()["type"].rpartition("/")[2])
                assert str(real_media) not in response.text, name
    query = upload(client, sound(workspace / "q.wav", [RED] * 2))
    assert len(find(client, query=query["id"], **{"for": "video"})["hits"]) == 24


def test_audio_in_a_container_of_another_name_is_read(start_service: StartService, tmp_path: Path) -> None:
    """A file is read by its content, not by its ending."""
    client = start_service()
    path = exotic_sound(tmp_path / "sound.mp4", [RED] * 2, "aiff")
    assert upload(client, path)["has_audio"] is True
