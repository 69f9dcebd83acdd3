"""What the C library does with memory that was freed.

What figures were measured on; stands beside every stored result.
"""

from __future__ import annotations

import ctypes
import os
import platform

import torch

from cmmixer.errors import SettingsError

# <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD = -1, -3, 32 << 20


def keep_freed_memory() -> None:
    """Makes the C library of this process keep what it freed, where it can be told so.

    A training step, and reading a batch, takes and frees megabytes over and over; given back to the system, every page comes
    anew with the next one, some microseconds each on a virtual machine (docs/lab-notebook.md, 2026-11-25 and 26).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not the GNU C library
        return
    mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def machine() -> dict[str, str | int]:
    """System, cores this process may use, versions, GPU."""
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def device_named(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        SettingsError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device: got cuda, but torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
