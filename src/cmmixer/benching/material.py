"""The films that `bench data` and `bench embed` work on."""

from __future__ import annotations

from pathlib import Path

from cmmixer.config import BenchSettings, SynthesizeSettings
from cmmixer.media.synthetic.films import synthesize
from cmmixer.progress import Progress


def bench_films(settings: BenchSettings, folder: Path, progress: Progress) -> str:
    """The folder of films that was given, or `folder` with films of 20 s made into it."""
    if settings.films is not None:
        return settings.films
    made = SynthesizeSettings(
        clips=settings.made_films, out=str(folder), seed=settings.seed, seconds=20.0, size=256, fps=25.0
    )
    synthesize(made, progress)
    return str(folder)
