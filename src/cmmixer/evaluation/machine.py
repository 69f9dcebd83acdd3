"""What figures were measured on; stands beside every stored result."""

from __future__ import annotations

import os
import platform

import torch


def machine() -> dict[str, str | int]:
    """System, cores this process may use, versions, GPU."""
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
