"""Films in ranges, previews made once, and nothing outside the library, however it is asked for."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from cmmixer.media import thumbnails as made
from cmmixer.media.thumbnails import envelope
from tests.server.conftest import API, NASTY, Served, items, make_data, make_index, problem, upload
from tests.support.coloured_videos import BLUE, RED, film, sound


def test_a_film_whole_and_in_ranges(shared: TestClient, library: Path) -> None:
    content = (library.parent / "data" / "films" / "mixed.mp4").read_bytes()
    address = f"{API}/items/{items(shared)['films/mixed.mp4']['id']}/media"
    whole = shared.get(address)
    assert (whole.status_code, whole.headers["content-type"], whole.headers["accept-ranges"]) == (
        200,
        "video/mp4",
        "bytes",
    )
    assert whole.content == content
    for told, first, last in (
        ("0-99", 0, 99),
        ("100-", 100, len(content) - 1),
        ("-7", len(content) - 7, len(content) - 1),
    ):
        part = shared.get(address, headers={"range": f"bytes={told}"})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
        assert part.content == content[first : last + 1]
    beyond = shared.get(address, headers={"range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    changed = shared.get(address, headers={"range": "bytes=0-9", "if-range": '"another"'})
    assert changed.status_code == 200
    assert shared.head(address).status_code in (200, 405)
    saved = shared.get(address, params={"download": True})
    assert saved.headers["content-disposition"] == 'attachment; filename="mixed.mp4"'


def test_names_cannot_break_out_of_headers(shared: TestClient) -> None:
    nasty = items(shared)[f"sounds/{NASTY}"]["id"]
    told = shared.get(f"{API}/items/{nasty}/media").headers["content-disposition"]
    assert told == "inline; filename*=utf-8''%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.wav"


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
@pytest.mark.parametrize("place", ["items/{}/media", "items/{}/thumbnail", "items/{}", "queries/{}/media", "jobs/{}"])
def test_ids_are_never_paths(shared: TestClient, place: str, path: str) -> None:
    answer = shared.get(f"{API}/" + place.format(path))
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "root:" not in answer.text


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
def test_the_page_gives_only_its_own_files(shared: TestClient, path: str) -> None:
    answer = shared.get(f"/page/{path}")
    assert answer.status_code in (404, 422)
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "where", [{"folder": "../.."}, {"text": "a\x00b"}, {"where": "label:a\x00"}, {"where": "label"}, {"sort": "path"}]
)
def test_odd_texts_are_refused(shared: TestClient, where: dict[str, str]) -> None:
    problem(shared.get(f"{API}/items", params=where), 422, "bad-request")


def test_a_file_that_becomes_a_link_to_elsewhere_is_not_given(tmp_path: Path, served: Served) -> None:
    data = make_data(tmp_path / "data")
    client = served(make_index(data, tmp_path / "library"))
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((data / "films" / "red.mp4").read_bytes())
    victim = items(client)["films/red.mp4"]["id"]
    (data / "films" / "red.mp4").unlink()
    (data / "films" / "red.mp4").symlink_to(secret)
    for place in ("media", "thumbnail", "peaks"):
        told = problem(client.get(f"{API}/items/{victim}/{place}"), 403, "outside")
        assert told["detail"] == "films/red.mp4: is a link that leads out of the library"
    # A folder that the operator allows is another matter.
    assert served(tmp_path / "library", roots=str(tmp_path)).get(f"{API}/items/{victim}/media").status_code == 200
    # A link inside the library is fine; a pipe is no film, and must not be waited for; what has gone is said.
    (data / "films" / "red.mp4").unlink()
    (data / "films" / "red.mp4").symlink_to(data / "films" / "mixed.mp4")
    assert client.get(f"{API}/items/{victim}/media").status_code == 200
    (data / "films" / "red.mp4").unlink()
    os.mkfifo(data / "films" / "red.mp4")
    problem(client.get(f"{API}/items/{victim}/media"), 410, "gone")
    (data / "films" / "red.mp4").unlink()
    told = problem(client.get(f"{API}/items/{victim}/media"), 410, "gone")
    assert told["detail"] == "films/red.mp4: the file has gone since it was indexed"
    assert items(client)["films/red.mp4"]["missing"] is True


def test_thumbnails_show_the_second(shared: TestClient) -> None:
    mixed = items(shared)["films/mixed.mp4"]["id"]
    for seconds, strongest in ((1.0, 1), (4.0, 2), (7.0, 1)):
        answer = shared.get(f"{API}/items/{mixed}/thumbnail", params={"seconds": seconds})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert pixels.shape == (270, 480, 3)
        assert pixels.mean((0, 1)).argmax() == strongest
    sounds = items(shared)["sounds/green.wav"]["id"]
    problem(shared.get(f"{API}/items/{sounds}/thumbnail"), 422, "missing-sense")


def test_waveforms_are_those_of_the_samples(shared: TestClient, tmp_path: Path) -> None:
    half = upload(shared, sound(tmp_path / "half.wav", [RED, (0.0, 0.0, 0.0)]))
    peaks = shared.get(f"{API}/queries/{half['id']}/peaks", params={"bins": 4}).json()
    assert peaks["high"] == pytest.approx([31, 31, 0, 0], abs=1)  # the tone's amplitude is 8000 of 32768: 31 of 127
    assert peaks["low"] == pytest.approx([-31, -31, 0, 0], abs=1)
    mixed = items(shared)["films/mixed.mp4"]["id"]
    part = shared.get(f"{API}/items/{mixed}/peaks", params={"start_seconds": 2, "end_seconds": 4, "bins": 50}).json()
    assert (part["start_seconds"], part["end_seconds"], len(part["low"])) == (2.0, 4.0, 50)
    assert min(part["high"]) > 20
    mute = items(shared)["films/mute.mp4"]["id"]
    problem(shared.get(f"{API}/items/{mute}/peaks"), 422, "missing-sense")
    problem(shared.get(f"{API}/items/{mixed}/peaks", params={"start_seconds": 90}), 416, "range")


@pytest.mark.parametrize(("count", "bins"), [(1000, 7), (1000, 1000), (5, 12), (1, 3), (16, 4)])
def test_an_envelope_is_the_extremes_of_equal_parts(count: int, bins: int) -> None:
    samples = np.random.default_rng(count).integers(-32768, 32767, count).astype(np.int16)
    low, high = envelope(samples, bins)
    for place in range(bins):
        first = min(int(place * (count / bins)), count - 1)
        last = max(first + 1, int((place + 1) * (count / bins))) if place < bins - 1 else count
        part = samples[first:last].astype(float)
        assert low[place] == round(part.min() * 127 / 32768)
        assert high[place] == round(part.max() * 127 / 32768)


def test_previews_are_made_once_and_follow_the_content(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "data")
    make_index(data, tmp_path / "library")
    client = served(tmp_path / "library")
    red = items(client)["films/red.mp4"]["id"]
    first = client.get(f"{API}/items/{red}/thumbnail").content
    kept = [path for path in (tmp_path / "previews").rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert kept[0].read_bytes() == first
    # Another service takes it from there without opening the film: the film is not even there.
    (data / "films" / "red.mp4").write_bytes(b"nothing that can be decoded")
    assert served(tmp_path / "library").get(f"{API}/items/{red}/thumbnail").content == first
    film(data / "films" / "red.mp4", [BLUE] * 3)
    make_index(data, tmp_path / "library")
    changed = served(tmp_path / "library").get(f"{API}/items/{red}/thumbnail").content
    assert np.asarray(Image.open(io.BytesIO(changed))).mean((0, 1)).argmax() == 2
    assert made.thumbnail.__module__ == "cmmixer.media.thumbnails"


def test_the_cache_stays_within_its_size(served: Served, tmp_path: Path) -> None:
    client = served(cache_mb=1)
    folder = tmp_path / "previews" / "00"
    folder.mkdir(parents=True)
    for number in range(30):
        path = folder / f"{number:02d}.jpg"
        path.write_bytes(bytes(100_000))
        os.utime(path, (number, number))
    client.app.state.service.cache.prune()  # type: ignore[attr-defined]
    left = sorted(path.name for path in folder.iterdir())
    assert left == [f"{number:02d}.jpg" for number in range(20, 30)]
