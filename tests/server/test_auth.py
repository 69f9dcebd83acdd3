"""Who may call the service and from where; what a browser is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cmmixer.config import ServeSettings
from cmmixer.errors import SettingsError
from tests.server.conftest import API, Served, items, problem
from tests.support.coloured_videos import RED, sound

TOKEN = "a-token-of-more-than-16-characters"
CLOSED = [
    "/metrics",
    f"{API}/library",
    f"{API}/items",
    f"{API}/folders",
    f"{API}/jobs",
    f"{API}/openapi.json",
    f"{API}/search",
]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "films.example.org"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^--host: got {host}, which other machines can reach; give --token or --token_file too"
    ):
        ServeSettings(index="library", host=host)
    assert ServeSettings(index="library", host=host, token=TOKEN).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.10"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServeSettings(index="library", host=host).is_loopback


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"token": "short"}, "--token: got 5 characters, expected 16 or more"),
        ({"token": "a token with spaces in it"}, "--token: got a character that no header can carry"),
        ({"token": TOKEN, "token_file": "x"}, "--token and --token_file: got both, expected one of them"),
        ({"port": 70000}, "--port: got 70000, expected a value in"),
        ({"max_upload_mb": 0}, "--max_upload_mb: got 0, expected 1 or more"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match="^" + told.replace("(", r"\(")):
        ServeSettings(**{"index": "library", **options})  # type: ignore[arg-type]


def test_a_token_from_a_file(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    client = served(token_file=str(file))
    problem(client.get(f"{API}/library"), 401, "unauthorised")
    assert client.get(f"{API}/library", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    file.write_text("short")
    with pytest.raises(SettingsError, match="got 5 characters"):
        served(token_file=str(file))
    with pytest.raises(SettingsError, match="cannot be read"):
        served(token_file=str(tmp_path / "none"))


@pytest.fixture
def locked(served: Served) -> TestClient:
    """A service that needs a token."""
    return served(host="0.0.0.0", token=TOKEN)


@pytest.mark.parametrize("path", CLOSED)
def test_nothing_of_the_library_without_the_token(locked: TestClient, path: str) -> None:
    refused = locked.get(path)
    problem(refused, 401, "unauthorised")
    assert refused.headers["www-authenticate"] == "Bearer"
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "Basic YTpi", TOKEN, f"Bearer é{TOKEN}"):
        problem(locked.get(path, headers={"authorization": wrong.encode()}), 401, "unauthorised")
    assert locked.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code in (200, 422)


def test_the_page_and_health_need_none(locked: TestClient) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/health", "/ready", "/problems/busy", f"{API}/welcome"):
        assert locked.get(path).status_code == 200
    assert locked.get(f"{API}/welcome").json()["welcome"] is False


def test_the_page_keeps_the_token_in_a_cookie_that_scripts_cannot_read(locked: TestClient) -> None:
    problem(locked.post(f"{API}/session", json={"token": "another-token-altogether"}), 401, "unauthorised")
    answer = locked.post(f"{API}/session", json={"token": TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    locked.cookies.set("cmmixer-token", TOKEN)
    assert locked.get(f"{API}/library").status_code == 200
    assert locked.get(f"{API}/welcome").json() == {
        "token_needed": True,
        "welcome": True,
        "max_upload_mb": 512,
        "query_seconds": 1200.0,
    }


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:80@evil.example", "[::1", ""])
def test_other_names_for_this_machine_are_refused(shared: TestClient, host: str) -> None:
    problem(shared.get(f"{API}/library", headers={"host": host}), 403, "forbidden")


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1", "[::1]:8765"])
def test_its_own_names_are_not(shared: TestClient, host: str) -> None:
    assert shared.get(f"{API}/library", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1"},
    ],
)
def test_pages_elsewhere_change_nothing(shared: TestClient, headers: dict[str, str], tmp_path: Path) -> None:
    content = sound(tmp_path / "a.wav", [RED]).read_bytes()
    problem(shared.post(f"{API}/queries", content=content, headers=headers), 403, "forbidden")
    problem(shared.post(f"{API}/jobs", json={"folder": "0" * 24}, headers=headers), 403, "forbidden")


def test_its_own_page_may(shared: TestClient, tmp_path: Path) -> None:
    content = sound(tmp_path / "a.wav", [RED]).read_bytes()
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1"}):
        assert shared.post(f"{API}/queries", content=content, headers=headers).status_code == 201


def test_no_other_origin_may_read(shared: TestClient) -> None:
    asked = shared.options(
        f"{API}/library", headers={"origin": "http://evil.example", "access-control-request-method": "GET"}
    )
    assert asked.status_code == 405
    for answer in (asked, shared.get(f"{API}/library", headers={"origin": "http://evil.example"})):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_strict_policy_on_everything(shared: TestClient) -> None:
    media = f"{API}/items/{items(shared)['films/red.mp4']['id']}/media"
    for path in ("/", "/page/main.js", f"{API}/library", media, "/nothing", f"{API}/items/x"):
        headers = shared.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_the_page_has_no_inline_script_or_style_and_fetches_nothing() -> None:
    page = Path(__file__).resolve().parents[2] / "src" / "cmmixer" / "server" / "page"
    text = (page / "index.html").read_text()
    assert " style=" not in text
    assert "<style" not in text
    assert " onclick" not in text
    assert text.count("<script") == text.count('<script type="module" src="/page/') == 1
    for file in page.iterdir():
        source = file.read_text()
        assert "https://" not in source
        assert source.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert way not in source, (file.name, way)
