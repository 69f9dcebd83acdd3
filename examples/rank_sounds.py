"""Ranks sounds by how well they fit a silent video: a trained model in Python, in one page.

    python examples/rank_sounds.py runs/quickstart/finetune silent.mp4 rain.wav bell.wav door.flac

Prints each sound with its cosine similarity, best first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cmmixer


def rank_sounds(run: str, video: str, sounds: list[str]) -> list[tuple[float, str]]:
    """Returns the cosine similarity of each sound with the video's frames, best first."""
    model = cmmixer.load(run)
    video_E = model.encode_video([video])[0]
    cosines = model.encode_audio(sounds) @ video_E
    return sorted(zip(cosines.tolist(), sounds, strict=True), reverse=True)


def main() -> None:
    """Prints the ranking."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run of `cmmixer finetune`")
    parser.add_argument("video")
    parser.add_argument("sounds", nargs="+")
    options = parser.parse_args()
    for cosine, sound in rank_sounds(options.run, options.video, options.sounds):
        print(f"{cosine:+.3f}  {Path(sound).name}")


if __name__ == "__main__":
    main()
