"""Searches over HTTP: by upload, item and moment, both directions, every filter, pages that join without a seam."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cmmixer.config import SearchSettings
from cmmixer.retrieval.search import search
from tests.server.conftest import API, NASTY, YELLOW, Served, find, items, make_index, names, problem, upload
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, film, sound


def test_a_silent_film_finds_its_sound_and_the_second(shared: TestClient, tmp_path: Path) -> None:
    query = upload(shared, film(tmp_path / "blue.mp4", [BLUE] * 2, sound=None))
    assert (query["has_picture"], query["has_sound"], query["moments"]) == (True, False, 3)
    page = find(shared, query=query["id"])
    assert (page["for"], page["by"]) == ("audio", "video")
    assert names(page)[:2] in ([f"sounds/{NASTY}", "films/mixed.mp4"], ["films/mixed.mp4", f"sounds/{NASTY}"])
    (mixed,) = [hit for hit in page["hits"] if hit["item"]["name"] == "films/mixed.mp4"][:1]
    assert mixed["moment"]["start_seconds"] in (5.0, 5.5, 6.0)
    assert mixed["score"] > 0.95
    assert shared.get(mixed["media"]).status_code == 200
    assert page["moments_searched"] == 5 + 15 + 3 + 3 + 7 + 11


def test_a_sound_finds_its_picture(shared: TestClient, tmp_path: Path) -> None:
    query = upload(shared, sound(tmp_path / "blue.wav", [BLUE]))
    page = find(shared, query=query["id"])
    assert (page["for"], page["by"]) == ("video", "audio")
    assert names(page)[0] == "films/mixed.mp4"
    assert page["hits"][0]["moment"]["start_seconds"] in (3.0, 3.5, 4.0)
    assert "sounds/yellow.wav" not in names(page)


@pytest.mark.parametrize(
    ("target", "by", "first"),
    [
        ("video", "video", "films/mute.mp4"),
        ("audio", "video", "sounds/yellow.wav"),
        ("audio", "audio", "sounds/green.wav"),
        ("film", "video", "films/mute.mp4"),
    ],
)
def test_any_sense_finds_any(shared: TestClient, tmp_path: Path, target: str, by: str, first: str) -> None:
    query = upload(shared, film(tmp_path / "query.mp4", [YELLOW] * 2, sound=[GREEN] * 2))
    page = find(shared, **{"query": query["id"], "for": target, "by": by})
    assert (page["for"], page["by"]) == (target, by)
    assert page["hits"][0]["score"] > 0.9
    assert first in names(page)[:2]


def test_the_service_finds_what_the_command_finds(shared: TestClient, library: Path, tmp_path: Path) -> None:
    path = film(tmp_path / "query.mp4", [GREEN, BLUE, RED], sound=None)
    page = find(shared, query=upload(shared, path)["id"], limit=50)
    told = search(SearchSettings(query=str(path), index=str(library), k=50), encoder=ColourEncoder())
    assert [(hit["moment"]["start_seconds"], hit["score"]) for hit in page["hits"]] == [
        (hit.start_seconds, pytest.approx(hit.score, abs=1e-4)) for hit in told.hits
    ]


def test_what_happens_when_decides_between_sounds_of_the_same_content(served: Served, tmp_path: Path) -> None:
    data = tmp_path / "rhythms"
    film(data / "mute.mp4", [RED, BLUE], sound=None, seconds_each=0.5)
    for name, colours in (("red-first.wav", [RED, BLUE]), ("blue-first.wav", [BLUE, RED])):
        sound(data / name, colours, seconds_each=0.5)
    client = served(index=str(make_index(data, tmp_path / "library")))
    asked = {"query": upload(client, film(tmp_path / "q.mp4", [BLUE, RED], sound=None, seconds_each=0.5))["id"]}
    for wanted, first in ((asked, "blue-first.wav"), ({"item": items(client)["mute.mp4"]["id"]}, "red-first.wav")):
        page = find(client, **{**wanted, "for": "audio"})
        assert (page["rerank"], names(page)[0]) == ("sequence", first)
        assert page["hits"][0]["score"] > page["hits"][1]["score"] + 0.5
        plain = find(client, **{**wanted, "for": "audio", "rerank": "none"})
        assert plain["rerank"] == "none"
        assert plain["hits"][0]["score"] == pytest.approx(plain["hits"][1]["score"], abs=0.02)
    assert find(client, **asked, **{"for": "video", "by": "video"})["rerank"] == "none"
    answer = client.get(f"{API}/search", params={**asked, "for": "film", "rerank": "sequence"})
    assert problem(answer, 422, "bad-request")["detail"].startswith(
        "rerank=sequence compares one sense with one; got film"
    )


def test_a_query_of_very_many_moments_is_left_as_the_clip_vectors_say(
    shared: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = upload(shared, film(tmp_path / "query.mp4", [GREEN] * 3, sound=None))
    assert query["moments"] == 5
    monkeypatch.setattr("cmmixer.server.search._MOST_RERANKED", 4)
    assert find(shared, query=query["id"])["rerank"] == "none"
    assert find(shared, query=query["id"], start_seconds=1)["rerank"] == "sequence"
    assert find(shared, query=query["id"], rerank="sequence")["rerank"] == "sequence"


def test_more_like_an_item_and_like_one_of_its_moments(shared: TestClient) -> None:
    mixed = items(shared)["films/mixed.mp4"]["id"]
    whole = find(shared, item=mixed, **{"for": "audio"})
    assert "films/mixed.mp4" not in names(whole)  # it does not find itself
    assert {"sounds/green.wav", f"sounds/{NASTY}"} == set(list(dict.fromkeys(names(whole)))[:2])
    moment = find(shared, item=mixed, start_seconds=3.6, **{"for": "audio"})
    assert names(moment)[0] == f"sounds/{NASTY}"
    assert {hit["query_moment"]["start_seconds"] for hit in moment["hits"]} == {3.5}
    assert {hit["query_moment"]["start_seconds"] for hit in whole["hits"]} != {3.5}
    alike = find(shared, item=items(shared)["films/red.mp4"]["id"], **{"for": "audio", "by": "audio"})
    assert names(alike)[0] == "films/mixed.mp4"


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"kind": "sound"}, {"sounds/yellow.wav", "sounds/green.wav", f"sounds/{NASTY}"}),
        ({"label": "warm"}, {"films/red.mp4", "sounds/yellow.wav"}),
        ({"label": ["warm", "cold"], "kind": "film"}, {"films/red.mp4", "films/mixed.mp4"}),
        ({"min_seconds": 4, "max_seconds": 7}, {"sounds/green.wav", f"sounds/{NASTY}"}),
        ({"text": "RED"}, {"films/red.mp4"}),
        ({"text": "onerror"}, {f"sounds/{NASTY}"}),
        ({"where": "source:reel one"}, {"films/red.mp4", "films/mixed.mp4"}),
        ({"where": ["source:reel one", "moments:5"]}, {"films/red.mp4"}),
        ({"where": "camera:B"}, {"films/red.mp4", f"sounds/{NASTY}"}),
        ({"where": "Shot by:Ö: N"}, {"films/red.mp4"}),
        ({"where": ["camera:B", "label:cold"]}, {f"sounds/{NASTY}"}),
        ({"where": "camera:"}, {"sounds/yellow.wav", "sounds/green.wav"}),
        ({"where": "camera:b"}, set()),
        ({"where": "split:test"}, {"films/mixed.mp4", f"sounds/{NASTY}"}),
        ({"where": "split:train", "kind": "film"}, {"films/red.mp4"}),
        ({"where": "split:"}, {"sounds/green.wav"}),
        ({"label": "no such label"}, set()),
    ],
)
def test_filters_leave_what_they_say(
    shared: TestClient, tmp_path: Path, filters: dict[str, object], left: set[str]
) -> None:
    query = upload(shared, film(tmp_path / "query.mp4", [RED], sound=None))
    page = find(shared, query=query["id"], **filters)
    assert set(names(page)) == left
    silent = {"films/mute.mp4"}
    assert set(items(shared, **filters)) - silent == left


def test_a_folder_holds_what_is_in_and_below_it(shared: TestClient, tmp_path: Path) -> None:
    folders = {folder["name"]: folder for folder in shared.get(f"{API}/library").json()["folders"]}
    assert {name: folder["items"] for name, folder in folders.items()} == {"data": 6, "data/films": 3, "data/sounds": 3}
    query = upload(shared, film(tmp_path / "query.mp4", [RED], sound=None))
    assert set(names(find(shared, query=query["id"], folder=folders["data/films"]["id"]))) == {
        "films/red.mp4",
        "films/mixed.mp4",
    }
    assert len(items(shared, folder=folders["data"]["id"])) == 6
    assert items(shared, folder="0" * 24) == {}


def test_pages_join_without_a_seam(shared: TestClient, tmp_path: Path) -> None:
    query = upload(shared, film(tmp_path / "query.mp4", [GREEN, RED], sound=None))
    whole = find(shared, query=query["id"], limit=100)
    assert whole["next_offset"] is None
    pages, offset = [], 0
    while offset is not None:
        page = find(shared, query=query["id"], limit=3, offset=offset)
        pages += page["hits"]
        offset = page["next_offset"]
    assert pages == whole["hits"]
    assert [hit["rank"] for hit in pages] == list(range(1, len(pages) + 1))
    assert len(pages) >= 7


def test_what_cannot_be_searched_with_is_said(shared: TestClient, tmp_path: Path) -> None:
    mute = upload(shared, film(tmp_path / "my cut.mp4", [RED], sound=None))
    told = problem(shared.get(f"{API}/search", params={"query": mute["id"], "for": "video"}), 422, "missing-sense")
    assert told["detail"] == "my cut.mp4: has no sound that could be searched by"
    problem(shared.get(f"{API}/search"), 422, "bad-request")
    problem(shared.get(f"{API}/search", params={"query": "0" * 24}), 404, "not-found")
    problem(shared.get(f"{API}/search", params={"item": "0" * 24}), 404, "not-found")
    problem(shared.get(f"{API}/search", params={"query": mute["id"], "item": "0" * 24}), 422, "bad-request")
    told = problem(shared.get(f"{API}/search", params={"query": mute["id"], "kinds": "film"}), 422, "bad-request")
    assert "kinds" in told["detail"]
    told = problem(shared.get(f"{API}/search", params={"query": mute["id"], "where": "root:/"}), 422, "bad-request")
    assert told["detail"].startswith("where: got root, expected one of Shot by, camera, label, ")


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("name", "films/mixed.mp4", "sounds/yellow.wav"),
        ("-name", "sounds/yellow.wav", "films/mixed.mp4"),
        ("duration", "films/mute.mp4", "films/mixed.mp4"),
        ("-duration", "films/mixed.mp4", "sounds/yellow.wav"),
        ("moments", "films/mute.mp4", "films/mixed.mp4"),
        ("label", "films/mixed.mp4", "sounds/green.wav"),
    ],
)
def test_the_library_in_any_order(shared: TestClient, sort: str, first: str, last: str) -> None:
    page = shared.get(f"{API}/items", params={"sort": sort}).json()
    assert page["total"] == 6
    listed = [item["name"] for item in page["items"]]
    assert (listed[0], listed[-1]) == (first, last)
    joined = [
        shared.get(f"{API}/items", params={"sort": sort, "limit": 1, "offset": n}).json()["items"][0]["name"]
        for n in range(6)
    ]
    assert joined == listed


def test_an_item_in_full(shared: TestClient) -> None:
    item = items(shared)["films/red.mp4"]
    assert (item["title"], item["kind"], item["label"], item["folder_name"]) == ("red", "film", "warm", "data/films")
    assert (item["moments"], item["missing"]) == (5, False)
    assert item["duration_seconds"] == pytest.approx(3.0, abs=0.1)
    detail = shared.get(f"{API}/items/{item['id']}").json()
    assert [span["start_seconds"] for span in detail["spans"]] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=0.1)
    assert (detail["has_picture"], detail["has_sound"]) == (True, True)
    metadata = {"camera": "B", "Shot by": "Ö: N", "split": "train"}
    assert item["metadata"] == detail["metadata"] == metadata
    assert detail["columns"] == {"label": "warm", "source": "reel one", "moments": 5, **metadata}
    assert "/data/" not in shared.get(f"{API}/items/{item['id']}").text  # no place of this machine


def test_the_library_tells_what_its_manifest_holds(shared: TestClient) -> None:
    library = shared.get(f"{API}/library").json()
    assert library["columns"] == ["Shot by", "camera", "label", "moments", "reason", "source", "split"]
    assert library["metadata"] == [
        {"name": "Shot by", "values": [{"value": "<b>x</b>", "items": 1}, {"value": "Ö: N", "items": 1}]},
        {"name": "camera", "values": [{"value": "A", "items": 1}, {"value": "B", "items": 3}]},
        {"name": "split", "values": [{"value": "test", "items": 2}, {"value": "train", "items": 3}]},
    ]


def test_metadata_that_is_no_text(served: Served, tmp_path: Path) -> None:
    data = tmp_path / "odd"
    for name in ("one", "two"):
        sound(data / f"{name}.wav", [RED] * 2)
    (data / "manifest.jsonl").write_text(
        '{"path": "one.wav", "take": 3, "good": true, "tags": ["sea", "gull"], "moments": "mine", "path:of": {"a": null}}\n'
        '{"path": "two.wav", "take": "3", "good": false, "tags": "gull", "level": NaN}\n'
    )
    client = served(make_index(data, tmp_path / "odd-library"))
    both = {"one.wav", "two.wav"}
    for where, left in (
        ("take:3", both),
        ("good:true", {"one.wav"}),
        ("tags:gull", both),
        ("tags:sea", {"one.wav"}),
        ("moments:mine", set()),  # the index's own column goes first
        ("moments:3", both),
        ('path:of:{"a": null}', {"one.wav"}),
        ("good:", set()),
    ):
        assert set(items(client, where=where)) == left, where
    assert items(client)["one.wav"]["metadata"]["tags"] == ["sea", "gull"]
    assert items(client)["two.wav"]["metadata"] == {"take": "3", "good": False, "tags": "gull", "level": None}


def test_a_timeline_tells_which_stretch_goes_with_what(shared: TestClient, tmp_path: Path) -> None:
    query = upload(shared, film(tmp_path / "query.mp4", [GREEN] * 3 + [YELLOW] * 2, sound=None))
    assert find(shared, query=query["id"])["timeline"] is None
    page = find(shared, query=query["id"], timeline=True, kind="sound", limit=1)
    assert len(page["hits"]) == 1
    stretches = page["timeline"]
    first, last = stretches[0], stretches[-1]
    assert (first["item"]["name"], last["item"]["name"]) == ("sounds/green.wav", "sounds/yellow.wav")
    assert (first["query_moment"]["start_seconds"], last["query_moment"]["end_seconds"]) == pytest.approx(
        (0, 5), abs=0.1
    )
    for before, after in itertools.pairwise(stretches):
        assert before["query_moment"]["end_seconds"] == after["query_moment"]["start_seconds"]
    assert {stretch["item"]["kind"] for stretch in stretches} == {"sound"}
    assert first["score"] > 0.95
    assert first["media"] == f"{API}/items/{first['item']['id']}/media?sense=audio"
    assert shared.get(first["media"]).status_code == 200
    item = items(shared)["films/mixed.mp4"]
    by_itself = find(shared, item=item["id"], timeline=True, by="audio", **{"for": "audio"})["timeline"]
    assert by_itself[0]["item"]["name"] == "films/red.mp4"  # never the file itself
    assert find(shared, query=query["id"], timeline=True, label="no such label")["timeline"] == []


def test_a_layout_s_own_splits_can_be_filtered_by(served: Served, tmp_path: Path) -> None:
    """The VMR layout has folders for splits and no manifest."""
    for split, name in (("train", "one"), ("test", "two")):
        film(tmp_path / "pairs" / split / "video" / f"{name}.mp4", [RED] * 2, sound=None)
        sound(tmp_path / "pairs" / split / "audio" / f"{name}.wav", [RED] * 2)
    client = served(make_index(tmp_path / "pairs", tmp_path / "pairs-library"))
    assert set(items(client, where="split:train")) == {"train/video/one.mp4"}
    assert set(items(client, where="split:test")) == {"test/video/two.mp4"}
