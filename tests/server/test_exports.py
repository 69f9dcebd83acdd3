"""Taking finds along: the film with its new sound at the right second, and lists for an editing program."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import opentimelineio
import pytest
import torch
from starlette.testclient import TestClient

from cmmixer.media.decode import Film
from cmmixer.server import schemas
from cmmixer.server.client import Client
from tests.server.conftest import API, NASTY, items, problem, upload
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, film, sound


def _order(shared: TestClient, query: str, item: str, **more: Any) -> dict[str, Any]:
    return {"film": {"query": query}, "sound": {"item": items(shared)[item]["id"]}, **more}


def test_a_film_is_written_with_the_sound_at_its_second(shared: TestClient, tmp_path: Path) -> None:
    query = upload(shared, film(tmp_path / "my cut.mp4", [GREEN] * 4, sound=None))["id"]
    # mixed.mp4 sounds red for five seconds, then blue for two: from its second 4 on, laid under the film's second 1.
    made = shared.post(f"{API}/dubs", json=_order(shared, query, "films/mixed.mp4", start_seconds=4.0, at_seconds=1.0))
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["name"], told["picture_codec"]) == ("my cut with mixed.mp4", "h264")
    assert (told["begins_seconds"], told["film_seconds"]) == (1.0, 4.0)
    answer = shared.get(told["media"])
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''my%20cut%20with%20mixed.mp4"
    (tmp_path / "made.mp4").write_bytes(answer.content)
    with Film.open(tmp_path / "made.mp4") as made_film:
        windows = made_film.sound_windows([0.5, 1.5, 2.6], 0.4, 8000).samples_TN
        picture = made_film.frames([2.0], 16, 16).pixels_THWC
    assert np.abs(windows[0]).max() < 200
    colours = ColourEncoder().embed_audio(torch.from_numpy(windows[None, 1:])).frames_BTE[0].numpy()
    assert colours[:, :3].argmax(1).tolist() == [0, 2]  # red, then blue
    assert picture.mean((0, 1, 2)).argmax() == 1


def test_what_cannot_be_written_is_said_without_places(shared: TestClient, tmp_path: Path) -> None:
    query = upload(shared, film(tmp_path / "my cut.mp4", [GREEN] * 2, sound=None))["id"]
    told = problem(shared.post(f"{API}/dubs", json=_order(shared, query, "films/mute.mp4")), 422, "missing-sense")
    assert told["detail"].startswith("films/mute.mp4: ")
    told = problem(
        shared.post(f"{API}/dubs", json=_order(shared, query, "films/red.mp4", start_seconds=90)), 422, "bad-request"
    )
    assert told["detail"].startswith("--start: got 90, but films/red.mp4 lasts 3.0")
    assert str(tmp_path) not in told["detail"]
    both = {"query": query, "item": items(shared)["films/red.mp4"]["id"]}
    problem(shared.post(f"{API}/dubs", json={"film": both, "sound": both}), 422, "bad-request")
    problem(shared.get(f"{API}/dubs/{'0' * 24}/media"), 404, "not-found")
    voice = upload(shared, sound(tmp_path / "a.wav", [RED] * 2))["id"]
    problem(shared.post(f"{API}/dubs", json=_order(shared, voice, "films/red.mp4")), 422, "missing-sense")


def _moments(shared: TestClient) -> list[dict[str, Any]]:
    listed = items(shared)
    return [
        {
            "item": listed["films/mixed.mp4"]["id"],
            "start_seconds": 5.0,
            "end_seconds": 6.0,
            "score": 0.9,
            "query_start_seconds": 1.0,
            "query_end_seconds": 2.0,
        },
        {"item": listed[f"sounds/{NASTY}"]["id"], "start_seconds": 0.0, "end_seconds": 2.0},
    ]


def test_an_edit_decision_list_that_an_editing_program_reads(shared: TestClient) -> None:
    order = {"moments": _moments(shared), "target": "film", "frames_per_second": 25, "query": "my cut.mp4"}
    answer = shared.post(f"{API}/cutlists", json=order)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == 'attachment; filename="moments.edl"'
    timeline = opentimelineio.adapters.read_from_string(answer.text, "cmx_3600", rate=25)
    clips = list(timeline.find_clips())
    assert {clip.name for clip in clips} == {"mixed.mp4", NASTY}
    first = next(clip for clip in clips if clip.name == "mixed.mp4").source_range
    assert (first.start_time.to_seconds(), first.duration.to_seconds()) == (5.0, 1.0)


def test_a_table(shared: TestClient) -> None:
    text = shared.post(f"{API}/cutlists", json={"moments": _moments(shared), "format": "csv"}).text
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert len(rows) == 2
    assert any("films/mixed.mp4" in value for value in rows[0].values())
    backwards = [{**_moments(shared)[0], "end_seconds": 1.0}]
    problem(shared.post(f"{API}/cutlists", json={"moments": backwards}), 422, "bad-request")
    problem(shared.post(f"{API}/cutlists", json={"moments": [{**backwards[0], "item": "0" * 24}]}), 404, "not-found")


def test_the_python_client_takes_along_too(shared: TestClient, tmp_path: Path) -> None:
    with Client("http://127.0.0.1", transport=shared._transport) as client:
        query = client.upload(film(tmp_path / "cut.mp4", [BLUE] * 2, sound=None))
        (hit, *_) = client.search(query=query.id).hits
        order = schemas.DubOrder(
            film=schemas.Source(query=query.id),
            sound=schemas.Source(item=hit.item.id),
            start_seconds=hit.moment.start_seconds,
        )
        made = client.dub(order, tmp_path / "made.mp4")
        assert made.film_seconds == pytest.approx(2.0, abs=0.1)
        with Film.open(tmp_path / "made.mp4") as written:
            assert written.info.sound is not None
        chosen = schemas.CutMoment(
            item=hit.item.id, start_seconds=hit.moment.start_seconds, end_seconds=hit.moment.end_seconds
        )
        assert client.cut_list(schemas.CutListOrder(moments=[chosen])).startswith("TITLE: CMMixer")
