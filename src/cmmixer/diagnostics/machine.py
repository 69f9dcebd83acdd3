"""The machine: processor, memory, disk, GPU, and whether films can really be written and read on it.

What an examination found, for people and for machines.

Packages that the project asks for, by its own metadata, and programs beside it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from av.codec.codec import UnknownCodecError
from packaging.requirements import Requirement
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cmmixer.data.skips import SkipReport
from cmmixer.errors import MediaError
from cmmixer.media.encode import write_film
from cmmixer.media.sandbox import IsolatedPool, worker_count
from cmmixer.media.thumbnails import LookTask, look
from cmmixer.version import __version__

# ok: works. note: not there, and only some need it. warn: works, but may soon not. bad: does not work.
State = Literal["ok", "note", "warn", "bad"]

_SIGNS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}

_MOST_SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: `ok`, `note`, `warn` or `bad`.
        told: what was found.
        advice: what to do; empty where nothing is to be done.
    """

    name: str
    state: State
    told: str
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """All that was found.

    Attributes:
        findings: in the order they are told.
        skips: files of `--data` that cannot be used.
    """

    findings: list[Finding]
    skips: SkipReport = field(default_factory=SkipReport)

    @property
    def exit_code(self) -> int:
        """2 where something does not work."""
        return 2 if any(finding.state == "bad" for finding in self.findings) else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "works": self.exit_code == 0,
            "findings": [asdict(finding) for finding in self.findings],
            "unusable": [asdict(skip) for skip in self.skips],
        }

    def render(self) -> RenderableType:
        """A line for each, with what to do below it; no markup, because a file may be called [red].mp4."""
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        for finding in self.findings:
            sign, style = _SIGNS[finding.state]
            told = Text(finding.told)
            if finding.advice:
                told.append(f"\n→ {finding.advice}", "bold" if finding.state == "bad" else "")
            table.add_row(Text(sign, style), Text(finding.name), told)
        # Files that are no films by their ending are seldom missed.
        skips = sorted(self.skips, key=lambda skip: skip.reason == "not-media")
        listed = [Text(f"  {skip.path}: {skip.message}") for skip in skips[:_MOST_SHOWN]]
        if (more := len(skips) - len(listed)) > 0:
            listed.append(Text(f"  and {more} more; --json lists all"))
        return Group(table, *([Text("\nFiles that cannot be used:"), *listed] if listed else []))


_OLDEST_PYTHON = (3, 11)

_LITTLE_MEMORY_GB, _LITTLE_DISK_GB, _NO_DISK_GB = 3.0, 5.0, 0.2

_FILM_SECONDS = 60.0

# FFmpeg's names, and what people call them.
_READ = {
    "h264": "H.264",
    "hevc": "HEVC",
    "libdav1d": "AV1",
    "vp9": "VP9",
    "prores": "ProRes",
    "dnxhd": "DNxHD",
    "mpeg4": "MPEG-4",
    "mpeg2video": "MPEG-2",
    "mjpeg": "Motion JPEG",
    "aac": "AAC",
    "mp3": "MP3",
    "opus": "Opus",
    "vorbis": "Vorbis",
    "flac": "FLAC",
    "alac": "ALAC",
    "ac3": "AC-3",
    "pcm_s24le": "PCM",
}

_WRITTEN = {
    "libx264": "H.264 (made-up films; versions for browsers)",
    "aac": "AAC (films with a new sound)",
    "libvpx-vp9": "VP9",
    "libopus": "Opus",
}


def examine_machine(folders: dict[str, Path]) -> Iterator[Finding]:
    """Looks at the machine.

    Args:
        folders: where space is needed, by what for.
    """
    yield _python()
    yield Finding("PyTorch", "ok", str(torch.__version__))
    yield _gpu()
    yield _cores()
    yield _memory()
    for name, folder in folders.items():
        yield _disk(name, folder)
    yield _read()
    yield _written()
    yield _really()


def _python() -> Finding:
    told = f"{platform.python_version()} on {platform.platform()}; cmmixer {__version__}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("Python", "bad", told, "install Python 3.11 or newer, and make the environment anew with it")
    return Finding("Python", "ok", told)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding(
            "GPU",
            "note",
            "none that PyTorch can use; all works on the processor, training of larger networks takes long",
        )
    names = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        names.append(f"{about.name}, {about.total_memory / 1e9:.0f} GB")
    return Finding("GPU", "ok", "; ".join(names))


def _cores() -> Finding:
    own, load = worker_count(0), os.getloadavg()[0]
    told = f"{own}, load {load:.1f}"
    if load > 2 * own:
        return Finding("Cores", "warn", told, "others keep them busy; everything takes longer until they are done")
    return Finding("Cores", "ok", told)


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Finding("Memory", "note", "this system does not say how much")
    kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    free, total = kilobytes["MemAvailable"] * 1024 / 1e9, kilobytes["MemTotal"] * 1024 / 1e9
    told = f"{free:.1f} of {total:.1f} GB free"
    if free < _LITTLE_MEMORY_GB:
        return Finding("Memory", "warn", told, "close something, or take fewer --workers and smaller batches")
    return Finding("Memory", "ok", told)


def _disk(name: str, folder: Path) -> Finding:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        free = shutil.disk_usage(there).free / 1e9
    except OSError as fault:
        return Finding(name, "bad", f"{there}: {fault.strerror}", "choose another folder")
    told = f"{free:.1f} GB free at {there}"
    if not os.access(there, os.W_OK):
        return Finding(name, "warn", f"{told}, which cannot be written", "choose another folder, or change its rights")
    if free < _NO_DISK_GB:
        return Finding(name, "bad", told, "free some space; nothing can be written here")
    if free < _LITTLE_DISK_GB:
        return Finding(name, "warn", told, "free some space before a large library is indexed or a run is trained")
    return Finding(name, "ok", told)


def _missing(names: dict[str, str], mode: str) -> list[str]:
    missing = []
    for name, told in names.items():
        try:
            av.Codec(name, mode)  # type: ignore[arg-type]
        except UnknownCodecError:
            missing.append(told)
    return missing


def _read() -> Finding:
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    told = f"PyAV {av.__version__} with libavcodec {version}"
    if missing := _missing(_READ, "r"):
        return Finding(
            "Reading", "warn", f"{told}; not {', '.join(missing)}", "install PyAV from its own wheel: pip install av"
        )
    return Finding("Reading", "ok", f"{told}: {', '.join(_READ.values())} and more")


def _written() -> Finding:
    missing = _missing(_WRITTEN, "w")
    there = [told for told in _WRITTEN.values() if told not in missing]
    if missing:
        told = f"{', '.join(there) or 'nothing'}; not {', '.join(missing)}"
        return Finding("Writing", "warn", told, "install PyAV from its own wheel: pip install av")
    return Finding("Writing", "ok", ", ".join(there))


def _really() -> Finding:
    """Writes a film and has a decoder process look into it, as every command does."""
    pixels = np.zeros((5, 32, 32, 3), np.uint8)
    pool = IsolatedPool(look, workers=1)
    try:
        with tempfile.TemporaryDirectory(prefix="cmmixer-doctor-") as folder:
            path = Path(folder) / "film.mp4"
            write_film(path, pixels, 5.0, np.zeros(16000, np.int16))
            info = pool.run(look, LookTask(str(path), _FILM_SECONDS), seconds=_FILM_SECONDS)
    except (OSError, MediaError, av.FFmpegError) as fault:
        return Finding("A film", "bad", f"could not be written and read: {fault}", "look at what is marked above")
    finally:
        pool.close()
    return Finding("A film", "ok", f"written, and read in a process of its own ({info.duration_seconds:.1f} s)")


_FOR = {
    "report": "the quickstart's report, TensorBoard",
    "probe": "cmmixer probe",
    "inspect": "cmmixer inspect",
    "serve": "cmmixer serve",
    "export": "cmmixer export",
    "bench": "cmmixer bench",
    "ray": "--engine ray",
    "s3": "stores and vectors on s3://",
    "hub": "runs on the Hugging Face Hub",
    "hf": "Meta's PE-AV",
    "mteb": "MTEB's tasks",
}

_PROGRAMS = {
    (
        "ffmpeg",
    ): "not needed: PyAV brings FFmpeg's libraries; handy for converting what cannot be used, and beside `bench data`",
    ("chromium", "chromium-browser", "google-chrome"): "only for the tests of the page",
    ("c++", "g++", "clang++"): "only for --compile",
}


def examine_packages() -> Iterator[Finding]:
    """Looks at the packages of the project itself and of each of its extras, then at programs."""
    wanted: dict[str, list[Requirement]] = {"": [], **{extra: [] for extra in _FOR}}
    for line in metadata.requires("cmmixer") or ():
        requirement = Requirement(line)
        for extra, requirements in wanted.items():
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                requirements.append(requirement)
    own = {requirement.name for requirement in wanted[""]}
    yield _packages("Packages", wanted[""], "", "bad")
    for extra, use in _FOR.items():
        more = [requirement for requirement in wanted[extra] if requirement.name not in own]
        yield _packages(f"Extra {extra}", more, use, "note", extra)
    for names, use in _PROGRAMS.items():
        found = next(filter(None, map(shutil.which, names)), None)
        yield Finding(names[0], "note" if found is None else "ok", f"{found or 'not there'} ({use})")


def _packages(name: str, wanted: list[Requirement], use: str, state: str, extra: str = "") -> Finding:
    faults = [fault for requirement in wanted if (fault := _fault(requirement))]
    what = f"{use}: " if use else ""
    if not faults:
        return Finding(name, "ok", what + ", ".join(sorted(requirement.name for requirement in wanted)))
    install = f"pip install 'cmmixer[{extra}]'" if extra else "pip install cmmixer"
    return Finding(name, "bad" if state == "bad" else "note", what + "; ".join(faults), install)


def _fault(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, expected {requirement.specifier}"
    return ""
