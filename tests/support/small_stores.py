"""Clip stores of small videos, and comparisons of what is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import torch

from cmmixer.config import PrepareSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import StoreClips, open_clips
from cmmixer.types import Batch
from tests.support.small_runs import PICO

GEOMETRY: dict[str, Any] = {
    "frames": PICO.frames,
    "height": PICO.height,
    "width": PICO.width,
    "clip_seconds": PICO.clip_seconds,
    "window_seconds": PICO.window_seconds,
    "sample_rate_hz": PICO.sample_rate_hz,
}
GEOMETRY_FLAGS = [word for name, value in GEOMETRY.items() for word in (f"--{name}", str(value))]


def prepare_settings(data: Path, out: Path | str, **changes: Any) -> PrepareSettings:
    """Settings of `prepare` for clips of PICO's geometry, with one decoder process."""
    return PrepareSettings(**{"data": str(data), "out": str(out), "workers": 1, **GEOMETRY, **changes})


def open_store(store: Path) -> StoreClips:
    """The clips of a store, as training opens them."""
    clips = open_clips(DataSettings(data=str(store)), PICO)
    assert isinstance(clips, StoreClips)
    return clips


def table_rows(folder: Path, table: str = "clips.lance") -> pa.Table:
    """All rows of a table, with the values of its blobs."""
    return lance.dataset(str(folder / table)).to_table(scan_in_order=True, blob_handling="all_binary")


def same_batch(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same clips and values."""
    return (
        (one.ids, one.labels) == (other.ids, other.labels)
        and torch.equal(one.video_BTCHW, other.video_BTCHW)
        and torch.equal(one.audio_BTN, other.audio_BTN)
    )
