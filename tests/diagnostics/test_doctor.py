"""`cmmixer doctor`: findings and advice about the machine, a folder and an index."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cmmixer
from cmmixer.cli import console
from cmmixer.config import DoctorSettings, IndexSettings, ModelSettings
from cmmixer.diagnostics import machine
from cmmixer.diagnostics.doctor import doctor
from cmmixer.diagnostics.machine import Diagnosis, Finding
from cmmixer.retrieval.build import index
from tests.support.coloured_videos import BLUE, CLIP, RED, sound, video
from tests.support.commands import cmmixer as run_cmmixer
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)


def _by_name(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, a sound and other files; an index of it, and its model."""
    folder = tmp_path_factory.mktemp("doctor")
    video(folder / "data" / "red.mp4", [RED] * 3)
    video(folder / "data" / "mute.mp4", [BLUE] * 2, sound=None)
    sound(folder / "data" / "bell.wav", [BLUE] * 2)
    (folder / "data" / "[red]torn.mp4").write_bytes(b"no video")
    (folder / "data" / "notes.txt").write_text("not media")
    torch.manual_seed(0)
    untrained_run(folder / "run", CLIP, model=SMALL, embed_dim=12)
    untrained_run(folder / "other", CLIP, model=SMALL, embed_dim=16)
    index(IndexSettings(model=str(folder / "run"), data=str(folder / "data"), index=str(folder / "library"), workers=1))
    return folder


def test_this_machine_passes() -> None:
    done = run_cmmixer("doctor", "--json")
    diagnosis = json.loads(done.stdout)
    assert (done.returncode, diagnosis["works"], diagnosis["unusable"]) == (0, True, [])
    found = {finding["name"]: finding for finding in diagnosis["findings"]}
    assert found["PyTorch"]["message"] == str(torch.__version__)
    assert "H.264" in found["Decoders"]["message"]
    assert found["Test video"] == {
        "name": "Test video",
        "state": "ok",
        "message": "written, and read in a decoder process (1.0 s)",
        "advice": "",
    }
    assert found["Packages"]["state"] == "ok"
    assert {"Python", "GPU", "Cores", "Memory", "Disk", "Temporary files", "Encoders", "ffmpeg", "chromium"} <= set(
        found
    )
    assert {f"Extra {extra}" for extra in ("serve", "probe", "inspect", "export", "bench", "hub", "hf")} <= set(found)


def test_every_extra_of_the_project_is_checked() -> None:
    every = set(metadata.metadata("cmmixer").get_all("Provides-Extra") or ())
    assert every - {"dev", "docs"} == set(machine._EXTRAS)


def test_a_folder_and_an_index(place: Path) -> None:
    settings = DoctorSettings(data=str(place / "data"), index=str(place / "library"), workers=1)
    diagnosis = cmmixer.doctor(settings)
    found = _by_name(diagnosis)
    assert diagnosis.exit_code == 0
    assert found["Data"].state == "warn"
    assert found["Data"].message.startswith("3 of 4 videos and sounds can be used, 0.00 h; 1 with video and audio, ")
    assert "1 silent videos, 1 audio files" in found["Data"].message
    assert {(Path(skip.path).name, skip.reason) for skip in diagnosis.skips} == {
        ("[red]torn.mp4", "unreadable"),
        ("notes.txt", "not-media"),
    }
    assert found["Index"].state == "ok"
    assert found["Index"].message.startswith("11 moments of 3 files, built by cmmixer ")
    assert found["Indexed files"].message == "all exist"
    assert found["Skipped files"].message.startswith("1 files could not be used")
    assert found["Index model"].state == "ok"
    assert diagnosis.as_json()["unusable"][0]["reason"] in ("unreadable", "not-media")


def test_markup_in_file_names_is_not_interpreted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.show(doctor(DoctorSettings(data=str(place / "data"), workers=1)))
    printed = capsys.readouterr().out.replace("\n", "")
    assert "[red]torn.mp4: cannot be decoded" in printed
    assert printed.index("[red]torn.mp4") < printed.index("notes.txt")


def test_problems_of_a_folder_or_an_index(place: Path, tmp_path: Path) -> None:
    nowhere = _by_name(doctor(DoctorSettings(data=str(tmp_path / "none"), index=str(tmp_path / "no-index"))))
    assert (nowhere["Data"].state, nowhere["Index"].state) == ("bad", "bad")
    assert "no index there" in nowhere["Index"].message
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.mp4").write_bytes(b"no video")
    torn = doctor(DoctorSettings(data=str(tmp_path / "torn"), workers=1))
    assert (_by_name(torn)["Data"].state, torn.exit_code) == ("bad", 2)
    other = doctor(DoctorSettings(index=str(place / "library"), model=str(place / "other")))
    assert (_by_name(other)["Index model"].state, other.exit_code) == ("bad", 2)
    assert _by_name(other)["Index"].state == "ok"
    shutil.copytree(place / "library", tmp_path / "damaged")
    (tmp_path / "damaged" / "index.json").write_text("{")
    assert _by_name(doctor(DoctorSettings(index=str(tmp_path / "damaged"))))["Index"].state == "bad"


def test_missing_files_are_counted(place: Path) -> None:
    red = place / "data" / "red.mp4"
    red.rename(place / "elsewhere.mp4")
    try:
        finding = _by_name(doctor(DoctorSettings(index=str(place / "library"))))["Indexed files"]
    finally:
        (place / "elsewhere.mp4").rename(red)
    assert (finding.state, finding.message) == ("warn", f"1 of 3 are missing: {red}")
    assert "--sync" in finding.advice


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def fewer(name: str) -> str:
        if name in ("lancedb", "onnxruntime"):
            raise metadata.PackageNotFoundError(name)
        return "9.0" if name == "av" else version(name)

    monkeypatch.setattr(machine.metadata, "version", fewer)
    found = {finding.name: finding for finding in machine.check_packages()}
    assert (found["Packages"].state, found["Packages"].message) == (
        "bad",
        "av is 9.0, expected >=16; lancedb is not installed",
    )
    assert found["Extra export"] == Finding(
        "Extra export", "note", "cmmixer export: onnxruntime is not installed", "pip install 'cmmixer[export]'"
    )
    assert found["Extra serve"].state == "ok"


def test_problems_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_DECODERS", {"h264": "H.264", "no_such_codec": "Nothing"})
    assert (machine._check_decoders().state, machine._check_decoders().message.endswith("; missing: Nothing")) == (
        "warn",
        True,
    )
    for free, state in ((1e8, "bad"), (1e9, "warn"), (1e12, "ok")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert machine._check_disk("Disk", tmp_path / "not" / "there" / "yet").state == state
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert machine._check_cores().state == "warn"
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(name="A GPU", total_memory=80e9)
    monkeypatch.setattr(machine.torch.cuda, "get_device_properties", lambda _: properties)
    assert machine._check_gpu() == Finding("GPU", "ok", "A GPU, 80 GB")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "write_video", full)
    assert (machine._check_video_round_trip().state, "No space left" in machine._check_video_round_trip().message) == (
        "bad",
        True,
    )
