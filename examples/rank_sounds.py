"""Which of these sounds fits this silent film best? The Python face of a trained run, in a page.

    python examples/rank_sounds.py runs/quickstart/finetune silent.mp4 rain.wav bell.wav door.flac

Prints each sound with its cosine, the best first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cmmixer


def rank_sounds(run: str, film: str, sounds: list[str]) -> list[tuple[float, str]]:
    """Cosine of the film's picture with each sound, the best first."""
    model = cmmixer.load(run)
    picture_E = model.embed_video([film])[0]
    cosines = model.embed_audio(sounds) @ picture_E
    return sorted(zip(cosines.tolist(), sounds, strict=True), reverse=True)


def main() -> None:
    """Prints the ranking."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run of `cmmixer finetune`")
    parser.add_argument("film")
    parser.add_argument("sounds", nargs="+")
    options = parser.parse_args()
    for cosine, sound in rank_sounds(options.run, options.film, options.sounds):
        print(f"{cosine:+.3f}  {Path(sound).name}")


if __name__ == "__main__":
    main()
