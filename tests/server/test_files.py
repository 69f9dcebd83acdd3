"""Files in ranges, and nothing outside the library, whatever is requested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cmmixer.server import files
from cmmixer.server.problems import ProblemError
from tests.support.service import API, NASTY, StartService, items, make_data, make_index, problem


def test_media_whole_and_in_ranges(shared_client: TestClient, library: Path) -> None:
    content = (library.parent / "data" / "videos" / "mixed.mp4").read_bytes()
    address = f"{API}/items/{items(shared_client)['videos/mixed.mp4']['id']}/media"
    whole = shared_client.get(address)
    assert (whole.status_code, whole.headers["content-type"], whole.headers["accept-ranges"]) == (
        200,
        "video/mp4",
        "bytes",
    )
    assert whole.content == content
    for requested, first, last in (
        ("0-99", 0, 99),
        ("100-", 100, len(content) - 1),
        ("-7", len(content) - 7, len(content) - 1),
    ):
        part = shared_client.get(address, headers={"range": f"bytes={requested}"})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
        assert part.content == content[first : last + 1]
    beyond = shared_client.get(address, headers={"range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    changed = shared_client.get(address, headers={"range": "bytes=0-9", "if-range": '"another"'})
    assert changed.status_code == 200
    assert shared_client.head(address).status_code in (200, 405)
    saved = shared_client.get(address, params={"download": True})
    assert saved.headers["content-disposition"] == 'attachment; filename="mixed.mp4"'


def test_names_are_escaped_in_headers(shared_client: TestClient) -> None:
    nasty = items(shared_client)[f"sounds/{NASTY}"]["id"]
    disposition = shared_client.get(f"{API}/items/{nasty}/media").headers["content-disposition"]
    assert disposition == "inline; filename*=utf-8''%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.wav"


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//....//etc/passwd",
        "%252e%252e%252fetc%252fpasswd",
        "..\\..\\etc\\passwd",
        "/etc/passwd",
        "%00",
        "5f0c1d9a7be24c6d8e9f0a1b%00",
        "5F0C1D9A7BE24C6D8E9F0A1B",
        "a" * 5000,
    ],
)
@pytest.mark.parametrize("address", ["items/{}/media", "items/{}/thumbnail", "items/{}", "queries/{}/media", "jobs/{}"])
def test_ids_are_never_paths(shared_client: TestClient, address: str, path: str) -> None:
    response = shared_client.get(f"{API}/" + address.format(path))
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert "root:" not in response.text


@pytest.mark.parametrize(
    "path",
    [
        "..%2fapp.py",
        "%2e%2e/app.py",
        "../app.py",
        "..%5capp.py",
        "%00",
        "/etc/passwd",
        "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    ],
)
def test_page_serves_only_its_own_files(shared_client: TestClient, path: str) -> None:
    response = shared_client.get(f"/page/{path}")
    assert response.status_code in (404, 422)
    assert "import" not in response.text


@pytest.mark.parametrize(
    "where", [{"folder": "../.."}, {"text": "a\x00b"}, {"where": "label:a\x00"}, {"where": "label"}, {"sort": "path"}]
)
def test_invalid_parameters_are_refused(shared_client: TestClient, where: dict[str, str]) -> None:
    problem(shared_client.get(f"{API}/items", params=where), 422, "bad-request")


def test_links_out_of_the_library_are_not_served(tmp_path: Path, start_service: StartService) -> None:
    data = make_data(tmp_path / "data")
    client = start_service(make_index(data, tmp_path / "library"))
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((data / "videos" / "red.mp4").read_bytes())
    victim = items(client)["videos/red.mp4"]["id"]
    (data / "videos" / "red.mp4").unlink()
    (data / "videos" / "red.mp4").symlink_to(secret)
    for address in ("media", "thumbnail", "peaks"):
        body = problem(client.get(f"{API}/items/{victim}/{address}"), 403, "outside-library")
        assert body["detail"] == "videos/red.mp4: is a link to a place outside the library"
    # The operator can allow that folder.
    assert (
        start_service(tmp_path / "library", roots=str(tmp_path)).get(f"{API}/items/{victim}/media").status_code == 200
    )
    # A link inside the library is served. A pipe is not: reading it would block.
    (data / "videos" / "red.mp4").unlink()
    (data / "videos" / "red.mp4").symlink_to(data / "videos" / "mixed.mp4")
    assert client.get(f"{API}/items/{victim}/media").status_code == 200
    (data / "videos" / "red.mp4").unlink()
    os.mkfifo(data / "videos" / "red.mp4")
    problem(client.get(f"{API}/items/{victim}/media"), 410, "gone")
    (data / "videos" / "red.mp4").unlink()
    body = problem(client.get(f"{API}/items/{victim}/media"), 410, "gone")
    assert body["detail"] == "videos/red.mp4: no longer exists"
    assert items(client)["videos/red.mp4"]["missing"] is True


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("cut.mp4", "video/mp4"),
        ("cut.MOV", "video/mp4"),
        ("cut.mkv", "video/x-matroska"),
        ("cut.webm", "video/webm"),
        ("cut.avi", "video/x-msvideo"),
        ("clip.gif", "image/gif"),
        ("door.wav", "audio/wav"),
        ("door.flac", "audio/flac"),
        ("door.mp3", "audio/mpeg"),
        ("door.opus", "audio/ogg"),
        ("page.html", "application/octet-stream"),
        ("drawing.svg", "application/octet-stream"),
        ("script.js", "application/octet-stream"),
        ("no ending", "application/octet-stream"),
        (".mp4", "application/octet-stream"),
    ],
)
def test_media_type_never_lets_a_browser_execute_a_file(name: str, media_type: str) -> None:
    assert files.media_type(name) == media_type


def test_file_response(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"0123456789")
    response = files.file_response(os.fsencode(path), "folder/rough cut.mp4")
    assert (response.status_code, response.media_type) == (200, "video/mp4")
    assert response.headers["content-length"] == "10"
    assert response.headers["content-disposition"] == "inline; filename*=utf-8''rough%20cut.mp4"
    assert response.headers["cache-control"] == "private, no-cache"
    saved = files.file_response(str(path), "door.wav", download=True)
    assert saved.headers["content-disposition"] == 'attachment; filename="door.wav"'
    # Bytes that are not UTF-8 become question marks.
    odd = files.file_response(str(path), os.fsdecode(b"d\xf6r.wav"))
    assert odd.headers["content-disposition"] == "inline; filename*=utf-8''d%3Fr.wav"


def test_file_response_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as error:
        files.file_response(str(tmp_path / "none"), "door.wav")
    assert (error.value.kind, error.value.detail) == ("gone", "door.wav: no longer exists")
