"""Indexes a folder into FOLDER-index; prints the number of moments and the peak memory, as JSON.

A program of its own, because the system reports only the peak over the whole life of a process.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from cmmixer.config import IndexSettings
from cmmixer.models.retriever import Embedding
from cmmixer.retrieval.build import index
from tests.support.small_runs import NANO


class Shades:
    """Encodes the brightness of the frames as unit vectors."""

    dim = 4
    clip = NANO
    id = "shades"
    path = "runs/shades"

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        shades_BT1 = pixels_BTCHW.float().mean((2, 3, 4))[..., None] / 255
        frames_BTE = torch.nn.functional.normalize(
            torch.cat([shades_BT1, torch.ones(*shades_BT1.shape[:2], 3)], -1), dim=-1
        )
        return Embedding(torch.nn.functional.normalize(frames_BTE.mean(1), dim=-1), frames_BTE)

    embed_audio = embed_video


def peak_bytes() -> int:
    """Returns the peak memory of this process or of its largest child, in bytes."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main(folder: Path) -> None:
    """Indexes the videos of a folder."""
    settings = IndexSettings(model="-", data=str(folder), index=f"{folder}-index", workers=1, stride_seconds=4.0)
    moments = index(settings, encoder=Shades()).moments
    print(json.dumps({"moments": moments, "peak": peak_bytes()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
