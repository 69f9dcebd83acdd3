"""The mixer alone: frames of the first four seconds of a video, mel spectrograms of its sound, and both mixed, as one PNG.

    python examples/mix_a_video.py video.mp4 mixed.png --mode image --seed 0

Rows: frames, mel spectrograms (lowest band on top, as in the model inputs), the mix.
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image

import cmmixer
from cmmixer.config import ClipSettings
from cmmixer.media.decode import read_clip
from cmmixer.media.mel import MelSpectrogram
from cmmixer.types import Span

CLIP = ClipSettings(frames=4, height=224, width=224, clip_seconds=4.0, window_seconds=2.6, sample_rate_hz=44100)


def mixed_sheet(video: str, mode: str, seed: int) -> Image.Image:
    """Returns the three rows as an image."""
    clip = read_clip(video, Span(0.0, CLIP.clip_seconds), CLIP, id="example", source=video)
    # read_clip refuses a video without either.
    assert clip.frames is not None
    assert clip.sound is not None
    video_1TCHW = torch.from_numpy(clip.frames.pixels_THWC).permute(0, 3, 1, 2)[None] / 255
    decibels_1T1HW = MelSpectrogram(CLIP)(torch.from_numpy(clip.sound.samples_TN)[None])
    low, high = decibels_1T1HW.aminmax()
    audio_1TCHW = ((decibels_1T1HW - low) / (high - low).clamp(min=1e-6)).expand_as(video_1TCHW)
    mixed = cmmixer.mix(video_1TCHW, audio_1TCHW, mode, generator=torch.Generator().manual_seed(seed)).mixed
    rows = [images_1TCHW[0].permute(2, 0, 3, 1).flatten(1, 2) for images_1TCHW in (video_1TCHW, audio_1TCHW, mixed)]
    return Image.fromarray((torch.cat(rows) * 255).round().to(torch.uint8).numpy())


def main() -> None:
    """Writes the image."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("png")
    parser.add_argument("--mode", default="image", help="pixel, patch, image or video")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    mixed_sheet(options.video, options.mode, options.seed).save(options.png)


if __name__ == "__main__":
    main()
