"""The example programs run as their docstrings say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmmixer.config import SynthesizeSettings
from cmmixer.synthetic.generate import synthesize
from tests.support.small_runs import NANO, untrained_run

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def _run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    synthesize(SynthesizeSettings(clips=3, out=str(folder), seed=5, workers=1))
    return sorted(folder.glob("*.mp4"))


def test_sounds_are_ranked_best_first(videos: list[Path], tmp_path: Path) -> None:
    out = _run("rank_sounds.py", untrained_run(tmp_path / "run", NANO), videos[0], *videos)
    rows = [line.split() for line in out.splitlines()]
    assert sorted(name for _, name in rows) == [video.name for video in videos]
    cosines = [float(cosine) for cosine, _ in rows]
    assert cosines == sorted(cosines, reverse=True)
    assert all(-1 <= cosine <= 1 for cosine in cosines)


@pytest.mark.parametrize("mode", ["pixel", "patch", "image", "video"])
def test_mixed_image_contains_both_modalities(videos: list[Path], tmp_path: Path, mode: str) -> None:
    _run("mix_a_video.py", videos[0], tmp_path / "mixed.png", "--mode", mode, "--seed", 1)
    sheet = np.asarray(Image.open(tmp_path / "mixed.png")).astype(int)
    assert sheet.shape == (3 * 224, 4 * 224, 3)
    frames, mel, mixed = sheet[:224], sheet[224:448], sheet[448:]
    assert np.abs(mixed - frames).mean() > 1
    assert np.abs(mixed - mel).mean() > 1
    # A mix lies between its two sources, up to rounding.
    assert (mixed >= np.minimum(frames, mel) - 1).all()
    assert (mixed <= np.maximum(frames, mel) + 1).all()


def test_every_example_says_how_to_run_it() -> None:
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert names == ["mix_a_video.py", "rank_sounds.py"]
    for name in names:
        assert re.search(rf"^    python examples/{re.escape(name)} ", (EXAMPLES / name).read_text(), re.MULTILINE)
