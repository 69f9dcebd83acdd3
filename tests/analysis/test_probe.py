"""`cmmixer probe` end to end on small files, with short and broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmmixer.analysis.probe import probe
from cmmixer.config import ProbeSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.errors import DataError
from tests.support.coloured_videos import CLIP, sound
from tests.support.labelled_media import (
    COLORS,
    SMALL,
    make_colored_videos,
    make_tones,
    write_manifest,
)
from tests.support.small_runs import untrained_run


@pytest.mark.parametrize("task", ["audio", "video", "audiovisual"])
def test_colors_and_tones_are_classified(tmp_path: Path, task: str) -> None:
    data = make_colored_videos(tmp_path / "videos")
    run = untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(
        model=str(run), data=str(data), task=task, label="colour", source="take", out=str(tmp_path / "out"), workers=1
    )
    report = probe(settings)
    found = report.result
    assert (found["files"], found["skipped"], found["folds"], found["metric"]) == (18, 0, ["1", "2", "3"], "accuracy")
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["statistics"]["accuracy"] >= 0.9
    assert found["trained"]["accuracy"] >= 0.6
    assert np.array(found["trained"]["confusion"]).sum() == 18
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == found
    assert (tmp_path / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "skipped.json").read_text())["files"] == []


def test_broken_file_is_skipped(tmp_path: Path) -> None:
    data = make_colored_videos(tmp_path / "videos", per_class=9)
    (tmp_path / "videos" / "red-0.mp4").write_bytes(b"no video")
    settings = ProbeSettings(
        model=str(untrained_run(tmp_path / "run", SMALL)), data=str(data), task="video", label="colour",
        out=str(tmp_path / "out"), workers=1,
    )  # fmt: skip
    report = probe(settings)
    assert (report.result["files"], report.result["skipped"]) == (26, 1)
    assert "red-0.mp4" in (tmp_path / "out" / "skipped.txt").read_text()


def test_audio_files_can_be_probed(tmp_path: Path) -> None:
    content = []
    for name, colour in COLORS.items():
        for number in range(6):
            sound(tmp_path / f"{name}{number}.wav", [colour], seconds_each=1.0 + 0.5 * (number % 2))
            content.append({"path": f"{name}{number}.wav", "label": name})
    settings = ProbeSettings(
        model=str(untrained_run(tmp_path / "run", CLIP)), data=str(write_manifest(tmp_path, content)), task="audio", folds=3,
        out=str(tmp_path / "out"), workers=1,
    )  # fmt: skip
    assert probe(settings).result["statistics"]["accuracy"] == 1.0


@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_short_files_are_refused_before_decoding(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("decoded before the lengths were checked")

    monkeypatch.setattr(chunks_module, "decode_chunk", decoded)
    data, run = make_tones(tmp_path, short=2), untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(
        model=str(run), data=str(data), task="audio", mode=mode, out=str(tmp_path / "out"), folds=2
    )
    message = (
        r"manifest.csv: 6 of 24 files are shorter than a clip of this model, 1 s, such as red0.wav \(0.50 s; all of them 0.50 to "
        r"0.50 s\); use --short use to take each as one clip of its own length, --short skip to leave them out, or a model of shorter clips"
    )
    with pytest.raises(DataError, match=message):
        probe(settings)
    assert not (tmp_path / "out").exists()


def test_short_files_are_used_or_skipped_on_request(tmp_path: Path) -> None:
    data, run = make_tones(tmp_path, short=2), untrained_run(tmp_path / "run", SMALL)
    options: dict[str, Any] = {
        "model": str(run),
        "data": str(data),
        "task": "audio",
        "folds": 2,
        "workers": 1,
        "bootstrap": 10,
    }
    used = probe(ProbeSettings(**options, short="use", out=str(tmp_path / "used"))).result
    assert (used["files"], used["short"], used["skipped"]) == (24, 6, 0)
    kept = probe(ProbeSettings(**options, short="skip", out=str(tmp_path / "kept"))).result
    assert (kept["files"], kept["short"], kept["skipped"]) == (18, 0, 6)
    listed = json.loads((tmp_path / "kept" / "skipped.json").read_text())["files"]
    assert {(skip["reason"], skip["message"]) for skip in listed} == {
        ("too-short", "it lasts 0.50 s, a clip takes 1 s")
    }
    assert probe(ProbeSettings(**{**options, "data": str(make_tones(tmp_path / "long", short=0))})).result["short"] == 0


def test_segment_length_counts_not_file_length(tmp_path: Path) -> None:
    data, run = make_tones(tmp_path, short=0, start="0.25"), untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(model=str(run), data=str(data), task="audio", out=str(tmp_path / "out"), short="skip")
    with pytest.raises(DataError, match=r"24 of 24 files are shorter .* such as red0.wav \(0.75 s; .*; none is left"):
        probe(settings)
