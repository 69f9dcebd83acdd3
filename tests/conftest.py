"""What many tests share: where the real films are, and a few small clips."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import numpy as np
import pytest

from cmmixer import checkpoint
from cmmixer.config import ClipSettings, ModelSettings, preset
from cmmixer.data.dataset import ArrayClips
from cmmixer.types import Statistics

# Before anything is imported that remembers it: what tests and the processes they kill leave lies here, and goes with the session.
_TEMPORARY = tempfile.mkdtemp(prefix="cmmixer-tests-")
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.tempdir = _TEMPORARY
# Behind multiprocessing's own folder, which goes at -100.
Finalize(None, shutil.rmtree, args=(_TEMPORARY,), kwargs={"ignore_errors": True}, exitpriority=-200)

# A shell ignores Ctrl-C for what it starts in the background, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_MEDIA = Path(__file__).resolve().parents[1].parent / "shared" / "data"

NANO = ClipSettings(frames=4, height=64, width=64, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000)
# Small enough that a training step takes milliseconds.
PICO = ClipSettings(frames=2, height=32, width=32, clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000)


@pytest.fixture(scope="session")
def real_media() -> Path:
    """The folder of real films and sounds; skips, visibly, where it is absent."""
    if not REAL_MEDIA.is_dir():
        pytest.skip("the real films of ../shared/data are not here")
    return REAL_MEDIA


def random_clips(count: int, clip: ClipSettings = PICO, seed: int = 0) -> ArrayClips:
    """Clips of noise whose loudness follows the brightness, so that there is something to learn."""
    chance = np.random.default_rng(seed)
    level = chance.uniform(0.1, 0.9, (count, 1, 1, 1, 1))
    pixels = chance.uniform(0, 1, (count, clip.frames, clip.height, clip.width, 3)) * level
    samples = chance.normal(size=(count, clip.frames, clip.window_samples)) * level[..., 0, 0] * 3000
    return ArrayClips((pixels * 255).astype(np.uint8).transpose(0, 1, 4, 2, 3), samples.astype(np.int16))


def untrained_run(
    folder: Path,
    clip: ClipSettings,
    *,
    model: ModelSettings | None = None,
    embed_dim: int = 16,
    mel_mean: float = -50.0,
    frames_apart: bool = False,
) -> Path:
    """A retriever that has learnt nothing, as the folder of a run."""
    card = checkpoint.Card(
        kind="retriever",
        model=model or preset("nano").model,
        clip=clip,
        statistics=Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), mel_mean, 20.0, clips=1),
        options={"embed_dim": embed_dim, "frames_apart": frames_apart},
        settings={},
    )
    checkpoint.save(folder, card, checkpoint.build(card).state_dict(), keep=1)
    return folder
