"""Opening a thousand files leaks neither memory nor file descriptors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil

from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile
from tests.support.counting_videos import counting_pixels, tone, write

MAX_GROWTH_BYTES = 16 << 20


def test_a_thousand_files_leak_nothing(tmp_path: Path) -> None:
    pixels = counting_pixels(6, 64, 64)
    paths = [
        write(tmp_path / f"{ending}.{ending}", pixels=pixels, fps=5, samples=tone(1.2, 8000), rate=8000)
        for ending in ("mp4", "mkv", "ts")
    ]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(paths[0].read_bytes()[:700])
    paths.append(broken)
    own = psutil.Process()
    before = opened = 0
    for number in range(1000):
        if number == 200:
            before = own.memory_info().rss
        try:
            with MediaFile.open(paths[number % len(paths)]) as media:
                # One modality per file halves the work; each format still gets both.
                if number // len(paths) % 2:
                    media.frames(np.array([0.1, 0.9]), 32, 32)
                else:
                    media.audio_windows(np.array([0.5]), 0.5, 4000)
                opened += 1
        except MediaError:
            continue
    assert opened == 750
    assert own.memory_info().rss - before < MAX_GROWTH_BYTES
    assert own.num_fds() < 100
