"""Exports: a video with new audio at the right second, and cut lists for an editing program."""

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

from cmmixer.media.decode import MediaFile
from cmmixer.server import schemas
from cmmixer.server.client import Client
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video
from tests.support.service import API, NASTY, NO_ID, items, problem, upload


def _request(shared_client: TestClient, query: str, item: str, **more: Any) -> dict[str, Any]:
    return {"video": {"query": query}, "audio": {"item": items(shared_client)[item]["id"]}, **more}


def test_dub_places_the_audio_at_its_second(shared_client: TestClient, tmp_path: Path) -> None:
    query = upload(shared_client, video(tmp_path / "my cut.mp4", [GREEN] * 4, sound=None))["id"]
    # mixed.mp4 sounds red for five seconds, then blue for two. Its second 4 is placed at the video's second 1.
    written = shared_client.post(
        f"{API}/dubs", json=_request(shared_client, query, "videos/mixed.mp4", start_seconds=4.0, at_seconds=1.0)
    )
    assert written.status_code == 201, written.text
    dub = written.json()
    assert (dub["name"], dub["video_codec"]) == ("my cut with mixed.mp4", "h264")
    assert (dub["begins_seconds"], dub["video_seconds"]) == (1.0, 4.0)
    response = shared_client.get(dub["media"])
    assert response.headers["content-disposition"] == "attachment; filename*=utf-8''my%20cut%20with%20mixed.mp4"
    (tmp_path / "dub.mp4").write_bytes(response.content)
    with MediaFile.open(tmp_path / "dub.mp4") as video_file:
        windows = video_file.audio_windows([0.5, 1.5, 2.6], 0.4, 8000).samples_TN
        frame = video_file.frames([2.0], 16, 16).pixels_THWC
    assert np.abs(windows[0]).max() < 200
    colours = ColourEncoder().embed_audio(torch.from_numpy(windows[None, 1:])).frames_BTE[0].numpy()
    assert colours[:, :3].argmax(1).tolist() == [0, 2]  # red, then blue
    assert frame.mean((0, 1, 2)).argmax() == 1


def test_dub_errors_name_files_without_paths(shared_client: TestClient, tmp_path: Path) -> None:
    query = upload(shared_client, video(tmp_path / "my cut.mp4", [GREEN] * 2, sound=None))["id"]
    body = problem(
        shared_client.post(f"{API}/dubs", json=_request(shared_client, query, "videos/mute.mp4")),
        422,
        "missing-modality",
    )
    assert body["detail"].startswith("videos/mute.mp4: ")
    body = problem(
        shared_client.post(f"{API}/dubs", json=_request(shared_client, query, "videos/red.mp4", start_seconds=90)),
        422,
        "bad-request",
    )
    assert body["detail"].startswith("--start: got 90, but videos/red.mp4 lasts 3.0")
    assert str(tmp_path) not in body["detail"]
    both = {"query": query, "item": items(shared_client)["videos/red.mp4"]["id"]}
    problem(shared_client.post(f"{API}/dubs", json={"video": both, "audio": both}), 422, "bad-request")
    problem(shared_client.get(f"{API}/dubs/{NO_ID}/media"), 404, "not-found")
    voice = upload(shared_client, sound(tmp_path / "a.wav", [RED] * 2))["id"]
    problem(
        shared_client.post(f"{API}/dubs", json=_request(shared_client, voice, "videos/red.mp4")),
        422,
        "missing-modality",
    )


def _moments(shared_client: TestClient) -> list[dict[str, Any]]:
    listed = items(shared_client)
    return [
        {
            "item": listed["videos/mixed.mp4"]["id"],
            "start_seconds": 5.0,
            "end_seconds": 6.0,
            "score": 0.9,
            "query_start_seconds": 1.0,
            "query_end_seconds": 2.0,
        },
        {"item": listed[f"sounds/{NASTY}"]["id"], "start_seconds": 0.0, "end_seconds": 2.0},
    ]


def test_edl_is_read_by_an_editing_program(shared_client: TestClient) -> None:
    request = {"moments": _moments(shared_client), "target": "any", "frames_per_second": 25, "query": "my cut.mp4"}
    response = shared_client.post(f"{API}/cutlists", json=request)
    assert response.status_code == 200
    assert response.headers["content-disposition"] == 'attachment; filename="moments.edl"'
    timeline = opentimelineio.adapters.read_from_string(response.text, "cmx_3600", rate=25)
    clips = list(timeline.find_clips())
    assert {clip.name for clip in clips} == {"mixed.mp4", NASTY}
    first = next(clip for clip in clips if clip.name == "mixed.mp4").source_range
    assert (first.start_time.to_seconds(), first.duration.to_seconds()) == (5.0, 1.0)


def test_cut_list_as_csv(shared_client: TestClient) -> None:
    text = shared_client.post(f"{API}/cutlists", json={"moments": _moments(shared_client), "format": "csv"}).text
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert len(rows) == 2
    assert any("videos/mixed.mp4" in value for value in rows[0].values())
    backwards = [{**_moments(shared_client)[0], "end_seconds": 1.0}]
    problem(shared_client.post(f"{API}/cutlists", json={"moments": backwards}), 422, "bad-request")
    problem(
        shared_client.post(f"{API}/cutlists", json={"moments": [{**backwards[0], "item": NO_ID}]}), 404, "not-found"
    )


def test_client_writes_dubs_and_cut_lists(shared_client: TestClient, tmp_path: Path) -> None:
    with Client("http://127.0.0.1", transport=shared_client._transport) as client:
        query = client.upload(video(tmp_path / "cut.mp4", [BLUE] * 2, sound=None))
        (hit, *_) = client.search(query=query.id).hits
        request = schemas.DubRequest(
            video=schemas.MediaSource(query=query.id),
            audio=schemas.MediaSource(item=hit.item.id),
            start_seconds=hit.moment.start_seconds,
        )
        dub = client.dub(request, tmp_path / "dub.mp4")
        assert dub.video_seconds == pytest.approx(2.0, abs=0.1)
        with MediaFile.open(tmp_path / "dub.mp4") as written:
            assert written.info.audio is not None
        chosen = schemas.CutMoment(
            item=hit.item.id, start_seconds=hit.moment.start_seconds, end_seconds=hit.moment.end_seconds
        )
        assert client.cut_list(schemas.CutListRequest(moments=[chosen])).startswith("TITLE: CMMixer")
