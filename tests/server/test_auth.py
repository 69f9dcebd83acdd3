"""Access control: tokens, hosts, origins, body limits and security headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cmmixer.config import ServeSettings
from cmmixer.errors import SettingsError
from tests.support.coloured_videos import RED, sound
from tests.support.service import API, NO_ID, StartService, items, problem

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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "videos.example.org"])
def test_listening_on_other_addresses_requires_a_token(host: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^--host: got {host}, which other machines can reach; add --token or --token_file"
    ):
        ServeSettings(index="library", host=host)
    assert ServeSettings(index="library", host=host, token=TOKEN).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.10"])
def test_loopback_addresses_need_no_token(host: str) -> None:
    assert ServeSettings(index="library", host=host).is_loopback


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "short"}, "--token: got 5 characters, expected 16 or more"),
        ({"token": "a token with spaces in it"}, "--token: got a character that a header cannot carry"),
        ({"token": TOKEN, "token_file": "x"}, "--token and --token_file: got both, expected one of them"),
        ({"port": 70000}, "--port: got 70000, expected a value in"),
        ({"max_upload_mb": 0}, "--max_upload_mb: got 0, expected 1 or more"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match="^" + message.replace("(", r"\(")):
        ServeSettings(**{"index": "library", **options})  # type: ignore[arg-type]


def test_token_is_read_from_a_file(start_service: StartService, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    client = start_service(token_file=str(file))
    problem(client.get(f"{API}/library"), 401, "unauthorized")
    assert client.get(f"{API}/library", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    file.write_text("short")
    with pytest.raises(SettingsError, match="got 5 characters"):
        start_service(token_file=str(file))
    with pytest.raises(SettingsError, match="cannot be read"):
        start_service(token_file=str(tmp_path / "none"))


@pytest.fixture
def locked_client(start_service: StartService) -> TestClient:
    """A client without the token of a service that requires one."""
    return start_service(host="0.0.0.0", token=TOKEN)


@pytest.mark.parametrize("path", CLOSED)
def test_library_requires_the_token(locked_client: TestClient, path: str) -> None:
    refused = locked_client.get(path)
    problem(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "Basic YTpi", TOKEN, f"Bearer é{TOKEN}"):
        problem(locked_client.get(path, headers={"authorization": wrong.encode()}), 401, "unauthorized")
    assert locked_client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code in (200, 422)


def test_page_and_health_need_no_token(locked_client: TestClient) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/health", "/ready", "/problems/busy", f"{API}/session"):
        assert locked_client.get(path).status_code == 200
    assert locked_client.get(f"{API}/session").json()["authorized"] is False


def test_session_cookie_is_hidden_from_scripts(locked_client: TestClient) -> None:
    problem(locked_client.post(f"{API}/session", json={"token": "another-token-altogether"}), 401, "unauthorized")
    response = locked_client.post(f"{API}/session", json={"token": TOKEN})
    assert response.status_code == 204
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    locked_client.cookies.set("cmmixer-token", TOKEN)
    assert locked_client.get(f"{API}/library").status_code == 200
    assert locked_client.get(f"{API}/session").json() == {
        "token_required": True,
        "authorized": True,
        "max_upload_mb": 512,
        "query_seconds": 1200.0,
    }


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:80@evil.example", "[::1", ""])
def test_foreign_host_names_are_refused(shared_client: TestClient, host: str) -> None:
    problem(shared_client.get(f"{API}/library", headers={"host": host}), 403, "forbidden")


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1", "[::1]:8765"])
def test_own_host_names_are_accepted(shared_client: TestClient, host: str) -> None:
    assert shared_client.get(f"{API}/library", headers={"host": host}).status_code == 200


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
def test_cross_origin_changes_are_refused(shared_client: TestClient, headers: dict[str, str], tmp_path: Path) -> None:
    content = sound(tmp_path / "a.wav", [RED]).read_bytes()
    problem(shared_client.post(f"{API}/queries", content=content, headers=headers), 403, "forbidden")
    problem(shared_client.post(f"{API}/jobs", json={"folder": NO_ID}, headers=headers), 403, "forbidden")


def test_same_origin_changes_are_accepted(shared_client: TestClient, tmp_path: Path) -> None:
    content = sound(tmp_path / "a.wav", [RED]).read_bytes()
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1"}):
        assert shared_client.post(f"{API}/queries", content=content, headers=headers).status_code == 201


def test_no_cors_headers_are_sent(shared_client: TestClient) -> None:
    preflight = shared_client.options(
        f"{API}/library", headers={"origin": "http://evil.example", "access-control-request-method": "GET"}
    )
    assert preflight.status_code == 405
    for response in (preflight, shared_client.get(f"{API}/library", headers={"origin": "http://evil.example"})):
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_security_headers_are_on_every_response(shared_client: TestClient) -> None:
    media = f"{API}/items/{items(shared_client)['videos/red.mp4']['id']}/media"
    for path in ("/", "/page/main.js", f"{API}/library", media, "/nothing", f"{API}/items/x"):
        headers = shared_client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_page_has_no_inline_code_and_no_foreign_addresses() -> None:
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
