"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes

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
