"""What goes wrong beside the requests themselves: told in the JSON as RFC 9457 asks for, and on the page in words."""

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
from tests.server.conftest import API, Served, find, items, make_data, make_index, problem, upload
from tests.support.browser import running, shot
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, film, sound
from tests.support.exotic_formats import exotic_film, exotic_sound

SECONDS_MS = 20_000
Opened = tuple[Page, httpx2.Client, Service]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A library that may be spoiled."""
    make_index(make_data(tmp_path / "data"), tmp_path / "library")
    return tmp_path


@contextmanager
def _open(browser: Browser, place: Path, **options: Any) -> Iterator[Opened]:
    """A service, a client of it, and its page; the previews lie elsewhere, so that the index may go."""
    settings = ServeSettings(
        **{"index": str(place / "library"), "cache": str(place / "cache"), "workers": 1, "searches": 1, **options}
    )
    service = Service(settings, ColourEncoder())
    with running(service) as address, httpx2.Client(base_url=address, timeout=60) as client:
        context = browser.new_context(viewport={"width": 1380, "height": 900})
        page = context.new_page()
        page.set_default_timeout(SECONDS_MS)
        page.goto(address)
        expect(page.locator(".suggestion").first).to_be_visible()
        yield page, client, service
        context.close()


def _spoil_card(place: Path) -> str:
    (place / "library" / "index.json").write_text("{ this was JSON")
    return "index.json"


def _take_away(place: Path) -> str:
    shutil.move(place / "library", place / "elsewhere")
    return "no such index"


def _spoil_table(place: Path) -> str:
    for file in (place / "library" / "files.lance" / "_versions").iterdir():
        file.unlink()
    return "files.lance is damaged"


def _other_model(place: Path) -> str:
    shutil.rmtree(place / "library")
    settings = IndexSettings(model="-", data=str(place / "data"), index=str(place / "library"), workers=1)
    index(settings, encoder=ColourEncoder("other colours"))
    return "its vectors are of model"


@pytest.mark.parametrize("spoil", [_spoil_card, _take_away, _spoil_table, _other_model])
def test_an_index_that_cannot_be_read_any_more(
    browser: Browser, place: Path, spoil: Callable[[Path], str], tmp_path: Path
) -> None:
    with _open(browser, place) as (page, client, service):
        cut = film(tmp_path / "cut.mp4", [GREEN] * 2, sound=None)
        query = client.post(f"{API}/queries", content=cut.read_bytes()).json()["id"]
        words = spoil(place)
        service.library.look_again()
        for path in ("/ready", f"{API}/items", f"{API}/library", f"{API}/search?query={query}"):
            told = problem(client.get(path), 503, "index")
            assert told["title"] == "The index cannot be read"
            assert words in told["detail"]
            assert str(place) not in told["detail"]
        assert client.get("/health").json()["ready"] is False
        page.set_input_files("#pick", cut)
        expect(page.locator("#finds-problem")).to_contain_text("The index cannot be read")
        expect(page.locator("#finds-problem")).to_contain_text(words)
        shot(page, f"problem-index{spoil.__name__}")
        page.locator("nav [data-view=library]").click()
        expect(page.locator("#library-problem")).to_contain_text("The index cannot be read")


def test_an_index_of_another_model_is_not_served(place: Path) -> None:
    settings = ServeSettings(index=str(place / "library"), cache=str(place / "cache"))
    with pytest.raises(SearchIndexError, match="its vectors are of model"):
        Service(settings, ColourEncoder("other colours"))


def test_a_file_that_has_gone_is_said_where_it_would_play(browser: Browser, place: Path, tmp_path: Path) -> None:
    with _open(browser, place) as (page, _, _):
        page.set_input_files("#pick", film(tmp_path / "cut.mp4", [GREEN] * 2, sound=None))
        expect(page.locator(".hit", has_text="green").first).to_be_visible()
        (place / "data" / "sounds" / "green.wav").unlink()
        page.locator(".hit", has_text="green").first.locator(".hit-play").click()
        note = page.locator("#screen-note")
        expect(note).to_contain_text("The file is not where it was indexed: sounds/green.wav: the file has gone")
        expect(page.locator("#mixing")).to_be_hidden()
        assert page.evaluate("document.getElementById('picture').videoWidth") > 0  # which is still there to be seen
        shot(page, "problem-gone")
        # Another find plays all the same.
        page.locator(".hit", has_text="mixed").first.locator(".hit-play").click()
        expect(note).to_be_hidden()
        expect(page.locator("#stage")).to_have_attribute("data-state", "playing")
        page.locator("nav [data-view=library]").click()
        expect(page.locator("#items tr", has_text="green")).to_contain_text("the file has gone")


def test_a_query_without_the_sense_is_said(browser: Browser, place: Path, tmp_path: Path) -> None:
    with _open(browser, place) as (page, client, _):
        cut = film(tmp_path / "my cut.mp4", [GREEN] * 2, sound=None)
        query = client.post(f"{API}/queries", params={"name": cut.name}, content=cut.read_bytes()).json()["id"]
        answer = client.get(f"{API}/search", params={"query": query, "for": "video", "by": "audio"})
        told = problem(answer, 422, "missing-sense")
        assert told["detail"] == "my cut.mp4: has no sound that could be searched by"
        # The page offers only what the query has, whatever a link says.
        page.goto(f"{page.url.split('#')[0]}#/search?query={query}&for=video&by=audio")
        expect(page.locator("input[name=by][value=audio]")).to_be_disabled()
        expect(page.locator("input[name=by][value=video]")).to_be_checked()
        expect(page.locator(".hits.pictures .hit").first).to_be_visible()


def test_a_film_that_is_no_film_is_said(browser: Browser, place: Path, tmp_path: Path) -> None:
    with _open(browser, place, max_upload_mb=1, query_seconds=3.0) as (page, _, _):
        (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
        for path, words in (
            (tmp_path / "large.mp4", "The file is too large"),
            (film(tmp_path / "long.mp4", [RED] * 6), "The film is too long to search with"),
        ):
            page.set_input_files("#pick", path)
            expect(page.locator("#upload-line")).to_contain_text(words)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes; skips, visibly, where none may be mounted."""
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
    """Writes until so much is left."""
    path = folder / "filling"
    free = os.statvfs(folder)
    path.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave_bytes)))
    return path


def test_a_full_disk_is_said_of_uploads(
    browser: Browser, place: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with _open(browser, place) as (page, client, _):
        cut = film(tmp_path / "cut.mp4", [GREEN] * 2, sound=None)
        filling = _fill(small_disk, 4096)
        answer = client.post(f"{API}/queries", content=bytes(1 << 20))
        assert problem(answer, 507, "disk-full")["title"] == "The disk is full"
        (tmp_path / "large.mp4").write_bytes(bytes(1 << 20))
        page.set_input_files("#pick", tmp_path / "large.mp4")
        expect(page.locator("#upload-line")).to_contain_text("The disk is full")
        shot(page, "problem-disk")
        filling.unlink()
        page.set_input_files("#pick", cut)
        expect(page.locator(".hit").first).to_be_visible()


def test_a_full_disk_is_said_of_versions_and_previews_come_all_the_same(
    browser: Browser, place: Path, small_disk: Path, tmp_path: Path
) -> None:
    with _open(browser, place, cache=str(small_disk / "cache")) as (page, client, _):
        raw = exotic_film(tmp_path / "raw.avi", [GREEN, BLUE] * 10, "avi")
        query = client.post(f"{API}/queries", content=raw.read_bytes()).json()["id"]
        filling = _fill(small_disk, 0)
        problem(client.get(f"{API}/queries/{query}/playback"), 507, "disk-full")
        assert client.get(f"{API}/queries/{query}/thumbnail").content[:2] == b"\xff\xd8"
        page.goto(f"{page.url.split('#')[0]}#/search?query={query}")
        expect(page.locator("#screen-note")).to_contain_text("The disk is full")
        filling.unlink()
        assert client.get(f"{API}/queries/{query}/playback").json()["converted"]
        assert [path.suffix for path in (small_disk / "cache").rglob("*") if path.is_file()].count(".mp4") == 1


def test_a_full_disk_is_said_of_a_job(browser: Browser, place: Path, small_disk: Path) -> None:
    shutil.copytree(place / "library", small_disk / "library")
    for number in range(4):
        film(place / "more" / f"{number}.mp4", [RED] * 20)
    options = {"index": str(small_disk / "library"), "roots": str(place / "more")}
    with _open(browser, place, **options) as (page, client, _):
        before = client.get(f"{API}/library").json()["moments"]
        filling = _fill(small_disk, 0)
        page.locator("#open-folders").click()
        page.locator("#folder-list button", has_text="more").click()
        page.locator("#start-job").click()
        expect(page.locator("#job-panel")).to_have_attribute("data-state", "failed")
        expect(page.locator("#job-result")).to_contain_text("the disk is full")
        (job,) = client.get(f"{API}/jobs").json()["jobs"]
        assert job["problem"].startswith("the index: the disk is full")
        assert client.get(f"{API}/library").json()["moments"] == before
        assert client.get("/ready").status_code == 200
        filling.unlink()


@pytest.mark.parametrize("kind", ["flac", "gif"])
def test_small_files_that_last_hours_are_refused(served: Served, tmp_path: Path, kind: str) -> None:
    client = served(query_seconds=600.0)
    path = _silence(tmp_path / "hours.flac") if kind == "flac" else _slow_gif(tmp_path / "hours.gif")
    assert path.stat().st_size < 2_000_000
    told = problem(client.post(f"{API}/queries", content=path.read_bytes()), 413, "too-long")
    assert "expected at most 600 s" in told["detail"]


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

    pictures = [Image.new("L", (16, 16), 8 * shade) for shade in range(30)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=300_000, loop=0)
    return path


@pytest.mark.data
def test_a_library_of_hostile_files(served: Served, place: Path, real_media: Path) -> None:
    """Indexed by the service itself: every file is used or listed, and what is used can be seen, heard and found."""
    client = served(place / "library", roots=str(real_media / "hostile" / "made"))
    (top,) = client.get(f"{API}/folders").json()["folders"]
    job = client.post(f"{API}/jobs", json={"folder": top["id"]}).json()["id"]
    with client.stream("GET", f"{API}/jobs/{job}/events") as events:
        assert list(events.iter_lines())
    state = client.get(f"{API}/jobs/{job}").json()
    assert state["state"] == "done"
    on_disk = list((real_media / "hostile" / "made").iterdir())
    assert state["report"]["added"] + state["report"]["skipped"] == len(on_disk)
    assert all(skip["message"] and "\n" not in skip["message"] for skip in state["skipped"])
    client.app.state.service.library.look_again()  # type: ignore[attr-defined]
    listed = items(client, limit=500)
    assert len(listed) == 6 + state["report"]["added"]
    for name, item in sorted(listed.items())[::5]:
        sense = "audio" if item["kind"] == "sound" else "video"
        for path, wanted in (("thumbnail", {}), ("peaks", {}), ("playback", {"sense": sense})):
            answer = client.get(f"{API}/items/{item['id']}/{path}", params=wanted)
            if answer.status_code != 200:
                problem(answer, 422, answer.json()["type"].rpartition("/")[2])
                assert str(real_media) not in answer.text, name
    query = upload(client, sound(place / "q.wav", [RED] * 2))
    assert len(find(client, query=query["id"], **{"for": "video"})["hits"]) == 24


def test_odd_sounds_are_no_fault(served: Served, tmp_path: Path) -> None:
    """A sound whose container promises another one is read by what it is."""
    client = served()
    path = exotic_sound(tmp_path / "sound.mp4", [RED] * 2, "aiff")
    assert upload(client, path)["has_sound"] is True
