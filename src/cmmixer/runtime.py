"""The machine a process runs on: choice of the device, memory reuse of the C library, and a description for stored results."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

from cmmixer.errors import SettingsError

# <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD = -1, -3, 32 << 20


def select_device(name: str) -> torch.device:
    """Returns the device for `--device`: cpu, cuda, or auto, which takes CUDA where torch sees it.

    Raises:
        SettingsError: cuda was asked for and torch sees no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device: got cuda, but torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Makes the C library of this process reuse freed memory instead of returning it to the system; no effect without glibc.

    A training step, like reading a batch, allocates and frees megabytes again and again. If they are returned to the system,
    each page must be mapped again at the next allocation, which takes microseconds on a virtual machine
    (docs/lab-notebook.md, 2026-11-25 and 26).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not the GNU C library
        return
    mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def describe_machine() -> dict[str, str | int]:
    """Describes the machine for stored results: system, cores this process may use, versions of Python and torch, GPU."""
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
