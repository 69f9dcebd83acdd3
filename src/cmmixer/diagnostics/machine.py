"""The checks of `cmmixer doctor` on the machine: hardware, disk space, codecs, Python packages and programs."""

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
from cmmixer.media.encode import write_video
from cmmixer.media.sandbox import SandboxPool, worker_count
from cmmixer.media.thumbnails import InfoTask, read_info
from cmmixer.version import __version__

# ok: works. note: not installed or not present, and optional. warn: works, but may cause trouble. bad: does not work.
State = Literal["ok", "note", "warn", "bad"]

_SYMBOLS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}

_MAX_SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: `ok`, `note`, `warn` or `bad`.
        message: what was found.
        advice: what to do about it, if anything.
    """

    name: str
    state: State
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The findings of all checks.

    Attributes:
        findings: in the order of the checks.
        skips: files of `--data` that cannot be used.
    """

    findings: list[Finding]
    skips: SkipReport = field(default_factory=SkipReport)

    @property
    def exit_code(self) -> int:
        """2 if something does not work, otherwise 0."""
        return 2 if any(finding.state == "bad" for finding in self.findings) else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "works": self.exit_code == 0,
            "findings": [asdict(finding) for finding in self.findings],
            "unusable": [asdict(skip) for skip in self.skips],
        }

    def render(self) -> RenderableType:
        """Returns one line per finding with the advice below it. No markup: a file may be called [red].mp4."""
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        for finding in self.findings:
            symbol, style = _SYMBOLS[finding.state]
            message = Text(finding.message)
            if finding.advice:
                message.append(f"\n→ {finding.advice}", "bold" if finding.state == "bad" else "")
            table.add_row(Text(symbol, style), Text(finding.name), message)
        # Files that are not media by their extension come last: nobody expects them to be usable.
        skips = sorted(self.skips, key=lambda skip: skip.reason == "not-media")
        listed = [Text(f"  {skip.path}: {skip.message}") for skip in skips[:_MAX_SHOWN]]
        if (more := len(skips) - len(listed)) > 0:
            listed.append(Text(f"  and {more} more; --json lists all"))
        return Group(table, *([Text("\nFiles that cannot be used:"), *listed] if listed else []))


_MIN_PYTHON = (3, 11)

_LOW_MEMORY_GB, _LOW_DISK_GB, _FULL_DISK_GB = 3.0, 5.0, 0.2

_VIDEO_SECONDS = 60.0

# FFmpeg's names of codecs -> their common names.
_DECODERS = {
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

_ENCODERS = {
    "libx264": "H.264 (synthetic videos; versions for browsers)",
    "aac": "AAC (dubbed videos)",
    "libvpx-vp9": "VP9",
    "libopus": "Opus",
}


def check_machine(folders: dict[str, Path]) -> Iterator[Finding]:
    """Checks Python, PyTorch, hardware, disk space and codecs.

    Args:
        folders: name -> folder whose free space is checked.
    """
    yield _check_python()
    yield Finding("PyTorch", "ok", str(torch.__version__))
    yield _check_gpu()
    yield _check_cores()
    yield _check_memory()
    for name, folder in folders.items():
        yield _check_disk(name, folder)
    yield _check_decoders()
    yield _check_encoders()
    yield _check_video_round_trip()


def _check_python() -> Finding:
    message = f"{platform.python_version()} on {platform.platform()}; cmmixer {__version__}"
    if sys.version_info < _MIN_PYTHON:
        return Finding("Python", "bad", message, "install Python 3.11 or newer and create a new environment with it")
    return Finding("Python", "ok", message)


def _check_gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding(
            "GPU",
            "note",
            "none that PyTorch can use; everything runs on the CPU, but training larger networks takes long",
        )
    names = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        names.append(f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    return Finding("GPU", "ok", "; ".join(names))


def _check_cores() -> Finding:
    cores, load = worker_count(0), os.getloadavg()[0]
    message = f"{cores}, load average {load:.1f}"
    if load > 2 * cores:
        return Finding(
            "Cores", "warn", message, "other programs keep them busy; everything takes longer until they finish"
        )
    return Finding("Cores", "ok", message)


def _check_memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Finding("Memory", "note", "unknown: this system has no /proc/meminfo")
    kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    free, total = kilobytes["MemAvailable"] * 1024 / 1e9, kilobytes["MemTotal"] * 1024 / 1e9
    message = f"{free:.1f} of {total:.1f} GB free"
    if free < _LOW_MEMORY_GB:
        return Finding("Memory", "warn", message, "close other programs, or use fewer --workers and smaller batches")
    return Finding("Memory", "ok", message)


def _check_disk(name: str, folder: Path) -> Finding:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        free = shutil.disk_usage(existing).free / 1e9
    except OSError as error:
        return Finding(name, "bad", f"{existing}: {error.strerror}", "choose another folder")
    message = f"{free:.1f} GB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Finding(
            name, "warn", f"{message}, which is not writable", "choose another folder, or change its permissions"
        )
    if free < _FULL_DISK_GB:
        return Finding(name, "bad", message, "free some space; the disk is full")
    if free < _LOW_DISK_GB:
        return Finding(name, "warn", message, "free some space before indexing a large library or training")
    return Finding(name, "ok", message)


def _missing_codecs(names: dict[str, str], mode: str) -> list[str]:
    missing = []
    for name, common_name in names.items():
        try:
            av.Codec(name, mode)  # type: ignore[arg-type]
        except UnknownCodecError:
            missing.append(common_name)
    return missing


def _check_decoders() -> Finding:
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    message = f"PyAV {av.__version__} with libavcodec {version}"
    if missing := _missing_codecs(_DECODERS, "r"):
        return Finding(
            "Decoders",
            "warn",
            f"{message}; missing: {', '.join(missing)}",
            "install PyAV from its own wheel: pip install av",
        )
    return Finding("Decoders", "ok", f"{message}: {', '.join(_DECODERS.values())} and more")


def _check_encoders() -> Finding:
    missing = _missing_codecs(_ENCODERS, "w")
    available = [name for name in _ENCODERS.values() if name not in missing]
    if missing:
        message = f"{', '.join(available) or 'none'}; missing: {', '.join(missing)}"
        return Finding("Encoders", "warn", message, "install PyAV from its own wheel: pip install av")
    return Finding("Encoders", "ok", ", ".join(available))


def _check_video_round_trip() -> Finding:
    """Writes a video and reads it in a decoder process, as all commands do."""
    pixels = np.zeros((5, 32, 32, 3), np.uint8)
    pool = SandboxPool(read_info, workers=1)
    try:
        with tempfile.TemporaryDirectory(prefix="cmmixer-doctor-") as folder:
            path = Path(folder) / "video.mp4"
            write_video(path, pixels, 5.0, np.zeros(16000, np.int16))
            info = pool.run(read_info, InfoTask(str(path), _VIDEO_SECONDS), seconds=_VIDEO_SECONDS)
    except (OSError, MediaError, av.FFmpegError) as error:
        return Finding("Test video", "bad", f"cannot be written and read: {error}", "fix what is marked above first")
    finally:
        pool.close()
    return Finding("Test video", "ok", f"written, and read in a decoder process ({info.duration_seconds:.1f} s)")


_EXTRAS = {
    "report": "report of the quickstart, TensorBoard",
    "probe": "cmmixer probe",
    "inspect": "cmmixer inspect",
    "serve": "cmmixer serve",
    "export": "cmmixer export",
    "bench": "python -m benchmarks.speed",
    "ray": "--engine ray",
    "s3": "stores and vectors on s3://",
    "hub": "runs on the Hugging Face Hub",
    "hf": "Meta's PE-AV",
    "mteb": "MTEB's tasks",
}

_PROGRAMS = {
    ("ffmpeg",): "optional: PyAV includes FFmpeg's libraries; useful to convert files that cannot be used",
    ("chromium", "chromium-browser", "google-chrome"): "only for the tests of the web page",
    ("c++", "g++", "clang++"): "only for --compile",
}


def check_packages() -> Iterator[Finding]:
    """Checks the packages of the project and of each of its extras, and optional programs."""
    wanted: dict[str, list[Requirement]] = {"": [], **{extra: [] for extra in _EXTRAS}}
    for line in metadata.requires("cmmixer") or ():
        requirement = Requirement(line)
        for extra, requirements in wanted.items():
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                requirements.append(requirement)
    required = {requirement.name for requirement in wanted[""]}
    yield _check_requirements("Packages", wanted[""], "", "bad")
    for extra, use in _EXTRAS.items():
        additional = [requirement for requirement in wanted[extra] if requirement.name not in required]
        yield _check_requirements(f"Extra {extra}", additional, use, "note", extra)
    for names, use in _PROGRAMS.items():
        found = next(filter(None, map(shutil.which, names)), None)
        yield Finding(names[0], "note" if found is None else "ok", f"{found or 'not found'} ({use})")


def _check_requirements(name: str, wanted: list[Requirement], use: str, state: str, extra: str = "") -> Finding:
    problems = [problem for requirement in wanted if (problem := _problem(requirement))]
    prefix = f"{use}: " if use else ""
    if not problems:
        return Finding(name, "ok", prefix + ", ".join(sorted(requirement.name for requirement in wanted)))
    install = f"pip install 'cmmixer[{extra}]'" if extra else "pip install cmmixer"
    return Finding(name, "bad" if state == "bad" else "note", prefix + "; ".join(problems), install)


def _problem(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, expected {requirement.specifier}"
    return ""
