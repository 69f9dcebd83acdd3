"""Labelled videos and tones for the tests of probes: three colors, each with its tone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from cmmixer.config import ClipSettings, ProbeSettings
from tests.support.coloured_videos import BLUE, GREEN, RED, sound, video

COLORS = {"red": RED, "green": GREEN, "blue": BLUE}
SMALL = ClipSettings(frames=2, height=32, width=32, clip_seconds=1.0, window_seconds=0.4, sample_rate_hz=8000)


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def make_colored_videos(folder: Path, per_class: int = 6) -> Path:
    """Makes videos of three colors with their tones and random brightness, in three folds."""
    generator, rows = np.random.default_rng(0), []
    for name, colour in COLORS.items():
        for number in range(per_class):
            level = float(generator.uniform(0.6, 1.0))
            shade = (level * colour[0], level * colour[1], level * colour[2])
            video(folder / f"{name}-{number}.mp4", [shade])
            rows.append(
                {"path": f"{name}-{number}.mp4", "colour": name, "fold": 1 + number % 3, "take": f"{name}{number}"}
            )
    return write_manifest(folder, rows)


def columns_to_rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def finetune_settings(tmp_path: Path, data: Path, **options: Any) -> ProbeSettings:
    values = {
        "model": str(tmp_path / "run"), "data": str(data), "task": "audiovisual", "mode": "finetune", "label": "colour",
        "source": "take", "clips": 2, "epochs": 2, "batch_size": 6, "out": str(tmp_path / "out"), "workers": 1,
        "bootstrap": 10, "flip_prob": 0.0, "crop_scale_min": 1.0, "gain_db": 0.0,
    }  # fmt: skip
    return ProbeSettings(**{**values, **options})


def make_tones(folder: Path, *, short: int, start: str = "") -> Path:
    """Makes 24 tones of 1 s; the first `short` ones of each class last 0.5 s."""
    content = []
    for name, colour in COLORS.items():
        for number in range(8):
            sound(folder / f"{name}{number}.wav", [colour], seconds_each=0.5 if number < short else 1.0)
            content.append({"path": f"{name}{number}.wav", "label": name, "start_seconds": start})
    return write_manifest(folder, content)
