"""The examination says what works, what does not and what to do, of the machine, of a folder and of an index."""

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
from cmmixer.diagnostics.machine import Examination, Finding
from cmmixer.retrieval.build import index
from tests.support.coloured_videos import BLUE, CLIP, RED, film, sound
from tests.support.commands import cmmixer as run_cmmixer
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)


def _found(examination: Examination) -> dict[str, Finding]:
    return {finding.name: finding for finding in examination.findings}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films, a sound and what is neither; an index of it, and its model."""
    folder = tmp_path_factory.mktemp("doctor")
    film(folder / "data" / "red.mp4", [RED] * 3)
    film(folder / "data" / "mute.mp4", [BLUE] * 2, sound=None)
    sound(folder / "data" / "bell.wav", [BLUE] * 2)
    (folder / "data" / "[red]torn.mp4").write_bytes(b"no film")
    (folder / "data" / "notes.txt").write_text("not media")
    torch.manual_seed(0)
    untrained_run(folder / "run", CLIP, model=SMALL, embed_dim=12)
    untrained_run(folder / "other", CLIP, model=SMALL, embed_dim=16)
    index(IndexSettings(model=str(folder / "run"), data=str(folder / "data"), index=str(folder / "library"), workers=1))
    return folder


def test_this_machine_works() -> None:
    done = run_cmmixer("doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["works"], told["unusable"]) == (0, True, [])
    found = {finding["name"]: finding for finding in told["findings"]}
    assert found["PyTorch"]["told"] == str(torch.__version__)
    assert "H.264" in found["Reading"]["told"]
    assert found["A film"] == {
        "name": "A film",
        "state": "ok",
        "told": "written, and read in a process of its own (1.0 s)",
        "advice": "",
    }
    assert found["Packages"]["state"] == "ok"
    assert {"Python", "GPU", "Cores", "Memory", "Disk", "Temporary", "Writing", "ffmpeg", "chromium"} <= set(found)
    assert {f"Extra {extra}" for extra in ("serve", "probe", "inspect", "export", "bench", "hub", "hf")} <= set(found)


def test_every_extra_of_the_project_is_looked_at() -> None:
    every = set(metadata.metadata("cmmixer").get_all("Provides-Extra") or ())
    assert every - {"dev", "docs"} == set(machine._FOR)


def test_a_folder_and_an_index(place: Path) -> None:
    settings = DoctorSettings(data=str(place / "data"), index=str(place / "library"), workers=1)
    examination = cmmixer.doctor(settings)
    found = _found(examination)
    assert examination.exit_code == 0
    assert found["Data"].state == "warn"
    assert found["Data"].told.startswith("3 of 4 films and sounds can be used, 0.00 h; 1 with picture and sound, ")
    assert "1 silent films, 1 sounds" in found["Data"].told
    assert {(Path(skip.path).name, skip.reason) for skip in examination.skips} == {
        ("[red]torn.mp4", "unreadable"),
        ("notes.txt", "not-media"),
    }
    assert found["Index"].state == "ok"
    assert found["Index"].told.startswith("11 moments of 3 files, made by cmmixer ")
    assert found["Its files"].told == "all are where they were indexed"
    assert found["Left out"].told.startswith("1 files could not be used")
    assert found["Its model"].state == "ok"
    assert examination.as_json()["unusable"][0]["reason"] in ("unreadable", "not-media")


def test_names_that_look_like_markup_are_shown_as_they_are(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.show(doctor(DoctorSettings(data=str(place / "data"), workers=1)))
    told = capsys.readouterr().out.replace("\n", "")
    assert "[red]torn.mp4: cannot be decoded" in told
    assert told.index("[red]torn.mp4") < told.index("notes.txt")


def test_what_is_wrong_with_a_folder_or_an_index(place: Path, tmp_path: Path) -> None:
    nowhere = _found(doctor(DoctorSettings(data=str(tmp_path / "none"), index=str(tmp_path / "no-index"))))
    assert (nowhere["Data"].state, nowhere["Index"].state) == ("bad", "bad")
    assert "no such index" in nowhere["Index"].told
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.mp4").write_bytes(b"no film")
    torn = doctor(DoctorSettings(data=str(tmp_path / "torn"), workers=1))
    assert (_found(torn)["Data"].state, torn.exit_code) == ("bad", 2)
    other = doctor(DoctorSettings(index=str(place / "library"), model=str(place / "other")))
    assert (_found(other)["Its model"].state, other.exit_code) == ("bad", 2)
    assert _found(other)["Index"].state == "ok"
    shutil.copytree(place / "library", tmp_path / "damaged")
    (tmp_path / "damaged" / "index.json").write_text("{")
    assert _found(doctor(DoctorSettings(index=str(tmp_path / "damaged"))))["Index"].state == "bad"


def test_files_that_have_gone_are_counted(place: Path) -> None:
    red = place / "data" / "red.mp4"
    red.rename(place / "elsewhere.mp4")
    try:
        told = _found(doctor(DoctorSettings(index=str(place / "library"))))["Its files"]
    finally:
        (place / "elsewhere.mp4").rename(red)
    assert (told.state, told.told) == ("warn", f"1 of 3 have gone: {red}")
    assert "--sync" in told.advice


def test_packages_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def fewer(name: str) -> str:
        if name in ("lancedb", "onnxruntime"):
            raise metadata.PackageNotFoundError(name)
        return "9.0" if name == "av" else version(name)

    monkeypatch.setattr(machine.metadata, "version", fewer)
    found = {finding.name: finding for finding in machine.examine_packages()}
    assert (found["Packages"].state, found["Packages"].told) == (
        "bad",
        "av is 9.0, expected >=16; lancedb is not installed",
    )
    assert found["Extra export"] == Finding(
        "Extra export", "note", "cmmixer export: onnxruntime is not installed", "pip install 'cmmixer[export]'"
    )
    assert found["Extra serve"].state == "ok"


def test_a_machine_that_lacks_something(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_READ", {"h264": "H.264", "no_such_codec": "Nothing"})
    assert (machine._read().state, machine._read().told.endswith("; not Nothing")) == ("warn", True)
    for free, state in ((1e8, "bad"), (1e9, "warn"), (1e12, "ok")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert machine._disk("Disk", tmp_path / "not" / "there" / "yet").state == state
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert machine._cores().state == "warn"
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 1)
    about = SimpleNamespace(name="A card", total_memory=80e9)
    monkeypatch.setattr(machine.torch.cuda, "get_device_properties", lambda _: about)
    assert machine._gpu() == Finding("GPU", "ok", "A card, 80 GB")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "write_film", full)
    assert (machine._really().state, "No space left" in machine._really().told) == ("bad", True)
