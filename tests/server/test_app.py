"""The application: health, problem pages, the page and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cmmixer.server.app import PAGE
from cmmixer.server.problems import PROBLEM_TYPES
from cmmixer.version import __version__
from tests.support.coloured_videos import ColourEncoder
from tests.support.service import API, StartService, problem, service_of


def test_health_counts_files_and_moments(shared_client: TestClient) -> None:
    expected = {
        "status": "ok",
        "ready": True,
        "detail": "ready",
        "items": 6,
        "moments": 44,
        "model_id": ColourEncoder().id,
        "version": __version__,
    }
    assert shared_client.get("/health").json() == expected
    assert shared_client.get("/ready").json() == expected


def test_an_unreadable_index_is_unready_but_alive(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    from cmmixer.errors import SearchIndexError
    from cmmixer.server.library import LiveLibrary

    client = start_service()

    def fail(self: LiveLibrary) -> None:
        raise SearchIndexError("INDEX: files.lance is damaged")

    monkeypatch.setattr(LiveLibrary, "snapshot", fail)
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json() == {
        "status": "unready",
        "ready": False,
        "detail": "INDEX: files.lance is damaged",
        "items": 0,
        "moments": 0,
        "model_id": ColourEncoder().id,
        "version": __version__,
    }
    response = client.get("/ready")
    assert problem(response, 503, "index-unavailable")["detail"] == "INDEX: files.lance is damaged"
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize("name", PROBLEM_TYPES)
def test_every_problem_type_has_a_page(shared_client: TestClient, name: str) -> None:
    response = shared_client.get(f"/problems/{name}")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    expected = PROBLEM_TYPES[name]
    assert response.text == f"{expected.title} ({expected.status})\n\n{expected.advice}\n"


def test_unknown_problem_types_are_refused(shared_client: TestClient) -> None:
    body = problem(shared_client.get("/problems/nonsense"), 404, "not-found")
    assert body["detail"] == f"got 'nonsense', expected one of {', '.join(PROBLEM_TYPES)}"
    long = problem(shared_client.get("/problems/" + "x" * 5000), 404, "not-found")
    assert len(long["detail"]) < 1000


def test_the_page_is_revalidated_by_browsers(shared_client: TestClient) -> None:
    files = {"/": "index.html", "/favicon.ico": "icon.svg"} | {
        f"/page/{path.name}": path.name for path in PAGE.iterdir()
    }
    for address, name in files.items():
        response = shared_client.get(address)
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-cache"), address
        assert response.content == (PAGE / name).read_bytes()
        again = shared_client.get(address, headers={"if-none-match": response.headers["etag"]})
        assert again.status_code == (304 if address.startswith("/page/") else 200)


def test_pages_that_load_foreign_scripts_are_off(shared_client: TestClient) -> None:
    for path in ("/docs", "/redoc", f"{API}/docs"):
        problem(shared_client.get(path), 404, "not-found")
    assert shared_client.get(f"{API}/openapi.json").json()["info"]["title"] == "CMMixer"


def test_closing_the_application_closes_the_service(start_service: StartService, tmp_path: Path) -> None:
    client = start_service()
    folders = [service_of(client).queries._folder, service_of(client).dubs._folder]
    assert all(folder.is_dir() for folder in folders)
    client.__exit__(None, None, None)
    assert not any(folder.exists() for folder in folders)


def test_every_id_that_scripts_use_is_in_the_page() -> None:
    """An id that was renamed in one place only would fail in the browser alone."""
    import re

    markup = (PAGE / "index.html").read_text()
    ids = re.findall(r'\bid="([\w-]+)"', markup)
    assert len(ids) == len(set(ids))
    for script in PAGE.glob("*.js"):
        used = re.findall(r'byId\("([\w-]+)"\)', script.read_text())
        assert set(used) <= set(ids), script.name
    labelled = re.findall(r'(?:for|aria-labelledby|aria-controls)="([\w-]+)"', markup)
    assert set(labelled) <= set(ids)


def test_every_script_imports_what_the_others_export() -> None:
    import re

    scripts = {path.name: path.read_text() for path in PAGE.glob("*.js")}
    exported = {
        name: set(re.findall(r"export (?:async )?(?:function|class|const) (\w+)", text))
        for name, text in scripts.items()
    }
    for name, text in scripts.items():
        for names, source in re.findall(r'import \{ ([^}]+) \} from "\./([\w.]+)"', text):
            imported = {each.strip() for each in names.split(",")}
            assert imported <= exported[source], (name, source)
            body = text[text.rindex('from "./') :]
            assert all(re.search(rf"\b{each}\b", body) for each in imported), f"{name} imports what it does not use"
