"""Searches over HTTP: by upload, item and moment, in all modalities, with every filter, page by page."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cmmixer.config import SearchSettings
from cmmixer.retrieval.search import search
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video
from tests.support.service import (
    API,
    NASTY,
    NO_ID,
    YELLOW,
    StartService,
    find,
    items,
    make_index,
    names,
    problem,
    upload,
)


def test_silent_video_finds_its_audio_and_the_second(shared_client: TestClient, tmp_path: Path) -> None:
    query = upload(shared_client, video(tmp_path / "blue.mp4", [BLUE] * 2, sound=None))
    assert (query["has_video"], query["has_audio"], query["moments"]) == (True, False, 3)
    page = find(shared_client, query=query["id"])
    assert (page["for"], page["by"]) == ("audio", "video")
    assert names(page)[:2] in ([f"sounds/{NASTY}", "videos/mixed.mp4"], ["videos/mixed.mp4", f"sounds/{NASTY}"])
    (mixed,) = [hit for hit in page["hits"] if hit["item"]["name"] == "videos/mixed.mp4"][:1]
    assert mixed["moment"]["start_seconds"] in (5.0, 5.5, 6.0)
    assert mixed["score"] > 0.95
    assert shared_client.get(mixed["media"]).status_code == 200
    assert page["moments_searched"] == 5 + 15 + 3 + 3 + 7 + 11


def test_audio_finds_its_video(shared_client: TestClient, tmp_path: Path) -> None:
    query = upload(shared_client, sound(tmp_path / "blue.wav", [BLUE]))
    page = find(shared_client, query=query["id"])
    assert (page["for"], page["by"]) == ("video", "audio")
    assert names(page)[0] == "videos/mixed.mp4"
    assert page["hits"][0]["moment"]["start_seconds"] in (3.0, 3.5, 4.0)
    assert "sounds/yellow.wav" not in names(page)


@pytest.mark.parametrize(
    ("target", "by", "first"),
    [
        ("video", "video", "videos/mute.mp4"),
        ("audio", "video", "sounds/yellow.wav"),
        ("audio", "audio", "sounds/green.wav"),
        ("any", "video", "videos/mute.mp4"),
    ],
)
def test_every_pair_of_modalities_can_be_searched(
    shared_client: TestClient, tmp_path: Path, target: str, by: str, first: str
) -> None:
    query = upload(shared_client, video(tmp_path / "query.mp4", [YELLOW] * 2, sound=[GREEN] * 2))
    page = find(shared_client, **{"query": query["id"], "for": target, "by": by})
    assert (page["for"], page["by"]) == (target, by)
    assert page["hits"][0]["score"] > 0.9
    assert first in names(page)[:2]


def test_service_and_command_find_the_same(shared_client: TestClient, library: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "query.mp4", [GREEN, BLUE, RED], sound=None)
    page = find(shared_client, query=upload(shared_client, path)["id"], limit=50)
    report = search(SearchSettings(query=str(path), index=str(library), k=50), encoder=ColourEncoder())
    assert [(hit["moment"]["start_seconds"], hit["score"]) for hit in page["hits"]] == [
        (hit.start_seconds, pytest.approx(hit.score, abs=1e-4)) for hit in report.hits
    ]


def test_rerank_orders_by_timing(start_service: StartService, tmp_path: Path) -> None:
    data = tmp_path / "rhythms"
    video(data / "mute.mp4", [RED, BLUE], sound=None, seconds_each=0.5)
    for name, colours in (("red-first.wav", [RED, BLUE]), ("blue-first.wav", [BLUE, RED])):
        sound(data / name, colours, seconds_each=0.5)
    client = start_service(index=str(make_index(data, tmp_path / "library")))
    query = {"query": upload(client, video(tmp_path / "q.mp4", [BLUE, RED], sound=None, seconds_each=0.5))["id"]}
    for source, first in ((query, "blue-first.wav"), ({"item": items(client)["mute.mp4"]["id"]}, "red-first.wav")):
        page = find(client, **{**source, "for": "audio"})
        assert (page["rerank"], names(page)[0]) == ("sequence", first)
        assert page["hits"][0]["score"] > page["hits"][1]["score"] + 0.5
        plain = find(client, **{**source, "for": "audio", "rerank": "none"})
        assert plain["rerank"] == "none"
        assert plain["hits"][0]["score"] == pytest.approx(plain["hits"][1]["score"], abs=0.02)
    assert find(client, **query, **{"for": "video", "by": "video"})["rerank"] == "none"
    response = client.get(f"{API}/search", params={**query, "for": "any", "rerank": "sequence"})
    assert problem(response, 422, "bad-request")["detail"].startswith(
        "rerank=sequence: compares two single modalities; got any, expected audio or video"
    )


def test_queries_of_many_moments_are_not_reranked_by_default(
    shared_client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = upload(shared_client, video(tmp_path / "query.mp4", [GREEN] * 3, sound=None))
    assert query["moments"] == 5
    monkeypatch.setattr("cmmixer.server.search._MAX_RERANKED", 4)
    assert find(shared_client, query=query["id"])["rerank"] == "none"
    assert find(shared_client, query=query["id"], start_seconds=1)["rerank"] == "sequence"
    assert find(shared_client, query=query["id"], rerank="sequence")["rerank"] == "sequence"


def test_search_by_item_and_by_one_moment(shared_client: TestClient) -> None:
    mixed = items(shared_client)["videos/mixed.mp4"]["id"]
    whole = find(shared_client, item=mixed, **{"for": "audio"})
    assert "videos/mixed.mp4" not in names(whole)  # a file does not find itself
    assert {"sounds/green.wav", f"sounds/{NASTY}"} == set(list(dict.fromkeys(names(whole)))[:2])
    moment = find(shared_client, item=mixed, start_seconds=3.6, **{"for": "audio"})
    assert names(moment)[0] == f"sounds/{NASTY}"
    assert {hit["query_moment"]["start_seconds"] for hit in moment["hits"]} == {3.5}
    assert {hit["query_moment"]["start_seconds"] for hit in whole["hits"]} != {3.5}
    alike = find(shared_client, item=items(shared_client)["videos/red.mp4"]["id"], **{"for": "audio", "by": "audio"})
    assert names(alike)[0] == "videos/mixed.mp4"


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"kind": "audio"}, {"sounds/yellow.wav", "sounds/green.wav", f"sounds/{NASTY}"}),
        ({"label": "warm"}, {"videos/red.mp4", "sounds/yellow.wav"}),
        ({"label": ["warm", "cold"], "kind": "video"}, {"videos/red.mp4", "videos/mixed.mp4"}),
        ({"min_seconds": 4, "max_seconds": 7}, {"sounds/green.wav", f"sounds/{NASTY}"}),
        ({"text": "RED"}, {"videos/red.mp4"}),
        ({"text": "onerror"}, {f"sounds/{NASTY}"}),
        ({"where": "source:reel one"}, {"videos/red.mp4", "videos/mixed.mp4"}),
        ({"where": ["source:reel one", "moments:5"]}, {"videos/red.mp4"}),
        ({"where": "camera:B"}, {"videos/red.mp4", f"sounds/{NASTY}"}),
        ({"where": "Shot by:Ö: N"}, {"videos/red.mp4"}),
        ({"where": ["camera:B", "label:cold"]}, {f"sounds/{NASTY}"}),
        ({"where": "camera:"}, {"sounds/yellow.wav", "sounds/green.wav"}),
        ({"where": "camera:b"}, set()),
        ({"where": "split:test"}, {"videos/mixed.mp4", f"sounds/{NASTY}"}),
        ({"where": "split:train", "kind": "video"}, {"videos/red.mp4"}),
        ({"where": "split:"}, {"sounds/green.wav"}),
        ({"label": "no such label"}, set()),
    ],
)
def test_filters(shared_client: TestClient, tmp_path: Path, filters: dict[str, object], left: set[str]) -> None:
    query = upload(shared_client, video(tmp_path / "query.mp4", [RED], sound=None))
    page = find(shared_client, query=query["id"], **filters)
    assert set(names(page)) == left
    silent = {"videos/mute.mp4"}
    assert set(items(shared_client, **filters)) - silent == left


def test_folder_filter_includes_subfolders(shared_client: TestClient, tmp_path: Path) -> None:
    folders = {folder["name"]: folder for folder in shared_client.get(f"{API}/library").json()["folders"]}
    assert {name: folder["items"] for name, folder in folders.items()} == {
        "data": 6,
        "data/videos": 3,
        "data/sounds": 3,
    }
    query = upload(shared_client, video(tmp_path / "query.mp4", [RED], sound=None))
    assert set(names(find(shared_client, query=query["id"], folder=folders["data/videos"]["id"]))) == {
        "videos/red.mp4",
        "videos/mixed.mp4",
    }
    assert len(items(shared_client, folder=folders["data"]["id"])) == 6
    assert items(shared_client, folder=NO_ID) == {}


def test_pages_join_to_the_whole_result(shared_client: TestClient, tmp_path: Path) -> None:
    query = upload(shared_client, video(tmp_path / "query.mp4", [GREEN, RED], sound=None))
    whole = find(shared_client, query=query["id"], limit=100)
    assert whole["next_offset"] is None
    pages, offset = [], 0
    while offset is not None:
        page = find(shared_client, query=query["id"], limit=3, offset=offset)
        pages += page["hits"]
        offset = page["next_offset"]
    assert pages == whole["hits"]
    assert [hit["rank"] for hit in pages] == list(range(1, len(pages) + 1))
    assert len(pages) >= 7


def test_invalid_searches_are_refused(shared_client: TestClient, tmp_path: Path) -> None:
    mute = upload(shared_client, video(tmp_path / "my cut.mp4", [RED], sound=None))
    body = problem(
        shared_client.get(f"{API}/search", params={"query": mute["id"], "for": "video"}), 422, "missing-modality"
    )
    assert body["detail"] == "my cut.mp4: has no audio to search by"
    problem(shared_client.get(f"{API}/search"), 422, "bad-request")
    problem(shared_client.get(f"{API}/search", params={"query": NO_ID}), 404, "not-found")
    problem(shared_client.get(f"{API}/search", params={"item": NO_ID}), 404, "not-found")
    problem(shared_client.get(f"{API}/search", params={"query": mute["id"], "item": NO_ID}), 422, "bad-request")
    body = problem(
        shared_client.get(f"{API}/search", params={"query": mute["id"], "kinds": "video"}), 422, "bad-request"
    )
    assert "kinds" in body["detail"]
    body = problem(
        shared_client.get(f"{API}/search", params={"query": mute["id"], "where": "root:/"}), 422, "bad-request"
    )
    assert body["detail"].startswith("where: got root, expected one of Shot by, camera, label, ")


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("name", f"sounds/{NASTY}", "videos/red.mp4"),
        ("-name", "videos/red.mp4", f"sounds/{NASTY}"),
        ("duration", "sounds/yellow.wav", "videos/mixed.mp4"),
        ("-duration", "videos/mixed.mp4", "videos/mute.mp4"),
        ("moments", "sounds/yellow.wav", "videos/mixed.mp4"),
        ("label", f"sounds/{NASTY}", "sounds/green.wav"),
    ],
)
def test_items_are_sorted(shared_client: TestClient, sort: str, first: str, last: str) -> None:
    page = shared_client.get(f"{API}/items", params={"sort": sort}).json()
    assert page["total"] == 6
    listed = [item["name"] for item in page["items"]]
    assert (listed[0], listed[-1]) == (first, last)
    joined = [
        shared_client.get(f"{API}/items", params={"sort": sort, "limit": 1, "offset": n}).json()["items"][0]["name"]
        for n in range(6)
    ]
    assert joined == listed


def test_item_detail(shared_client: TestClient) -> None:
    item = items(shared_client)["videos/red.mp4"]
    assert (item["title"], item["kind"], item["label"], item["folder_name"]) == ("red", "video", "warm", "data/videos")
    assert (item["moments"], item["missing"]) == (5, False)
    assert item["duration_seconds"] == pytest.approx(3.0, abs=0.1)
    detail = shared_client.get(f"{API}/items/{item['id']}").json()
    assert [span["start_seconds"] for span in detail["spans"]] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=0.1)
    assert (detail["has_video"], detail["has_audio"]) == (True, True)
    metadata = {"camera": "B", "Shot by": "Ö: N", "split": "train"}
    assert item["metadata"] == detail["metadata"] == metadata
    assert detail["columns"] == {"label": "warm", "source": "reel one", "moments": 5, **metadata}
    assert "/data/" not in shared_client.get(f"{API}/items/{item['id']}").text  # no path of this machine


def test_library_lists_manifest_columns(shared_client: TestClient) -> None:
    library = shared_client.get(f"{API}/library").json()
    assert library["columns"] == ["Shot by", "camera", "label", "moments", "reason", "source", "split"]
    assert library["metadata"] == [
        {"name": "Shot by", "values": [{"value": "<b>x</b>", "items": 1}, {"value": "Ö: N", "items": 1}]},
        {"name": "camera", "values": [{"value": "A", "items": 1}, {"value": "B", "items": 3}]},
        {"name": "split", "values": [{"value": "test", "items": 2}, {"value": "train", "items": 3}]},
    ]


def test_filters_on_metadata_that_is_not_text(start_service: StartService, tmp_path: Path) -> None:
    data = tmp_path / "odd"
    for name in ("one", "two"):
        sound(data / f"{name}.wav", [RED] * 2)
    (data / "manifest.jsonl").write_text(
        '{"path": "one.wav", "take": 3, "good": true, "tags": ["sea", "gull"], "moments": "mine", "path:of": {"a": null}}\n'
        '{"path": "two.wav", "take": "3", "good": false, "tags": "gull", "level": NaN}\n'
    )
    client = start_service(make_index(data, tmp_path / "odd-library"))
    both = {"one.wav", "two.wav"}
    for where, left in (
        ("take:3", both),
        ("good:true", {"one.wav"}),
        ("tags:gull", both),
        ("tags:sea", {"one.wav"}),
        ("moments:mine", set()),  # the index's own column has precedence
        ("moments:3", both),
        ('path:of:{"a": null}', {"one.wav"}),
        ("good:", set()),
    ):
        assert set(items(client, where=where)) == left, where
    assert items(client)["one.wav"]["metadata"]["tags"] == ["sea", "gull"]
    assert items(client)["two.wav"]["metadata"] == {"take": "3", "good": False, "tags": "gull", "level": None}


def test_timeline_segments_match_the_query(shared_client: TestClient, tmp_path: Path) -> None:
    query = upload(shared_client, video(tmp_path / "query.mp4", [GREEN] * 3 + [YELLOW] * 2, sound=None))
    assert find(shared_client, query=query["id"])["timeline"] is None
    page = find(shared_client, query=query["id"], timeline=True, kind="audio", limit=1)
    assert len(page["hits"]) == 1
    segments = page["timeline"]
    first, last = segments[0], segments[-1]
    assert (first["item"]["name"], last["item"]["name"]) == ("sounds/green.wav", "sounds/yellow.wav")
    assert (first["query_moment"]["start_seconds"], last["query_moment"]["end_seconds"]) == pytest.approx(
        (0, 5), abs=0.1
    )
    for before, after in itertools.pairwise(segments):
        assert before["query_moment"]["end_seconds"] == after["query_moment"]["start_seconds"]
    assert {segment["item"]["kind"] for segment in segments} == {"audio"}
    assert first["score"] > 0.95
    assert first["media"] == f"{API}/items/{first['item']['id']}/media?modality=audio"
    assert shared_client.get(first["media"]).status_code == 200
    item = items(shared_client)["videos/mixed.mp4"]
    by_itself = find(shared_client, item=item["id"], timeline=True, by="audio", **{"for": "audio"})["timeline"]
    assert by_itself[0]["item"]["name"] == "videos/red.mp4"  # a file does not find itself
    assert find(shared_client, query=query["id"], timeline=True, label="no such label")["timeline"] == []


def test_splits_of_a_layout_can_be_filtered(start_service: StartService, tmp_path: Path) -> None:
    """The VMR layout has folders for the splits and no manifest."""
    for split, name in (("train", "one"), ("test", "two")):
        video(tmp_path / "pairs" / split / "video" / f"{name}.mp4", [RED] * 2, sound=None)
        sound(tmp_path / "pairs" / split / "audio" / f"{name}.wav", [RED] * 2)
    client = start_service(make_index(tmp_path / "pairs", tmp_path / "pairs-library"))
    assert set(items(client, where="split:train")) == {"train/video/one.mp4"}
    assert set(items(client, where="split:test")) == {"test/video/two.mp4"}
