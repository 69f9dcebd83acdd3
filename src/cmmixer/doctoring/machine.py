"""The machine: processor, memory, disk, GPU, and whether films can really be written and read on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from av.codec.codec import UnknownCodecError

from cmmixer.doctoring.findings import Finding
from cmmixer.errors import MediaError
from cmmixer.media.encode import write_film
from cmmixer.media.isolate import IsolatedPool, worker_count
from cmmixer.media.previews import LookTask, look
from cmmixer.version import __version__

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
