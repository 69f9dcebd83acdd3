"""Scenes of chosen causes, and measurements on their audio."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from cmmixer.synthetic.scene import Scene, draw_scene
from cmmixer.synthetic.world import Body, Causes, Wave, Wheel

RATE = 16000


def still(value: float) -> Wave:
    """A wave that does not move."""
    return Wave(value, (0.0, 0.0), (0.1, 0.1), (0.0, 0.0))


def body_of(**changes: object) -> Body:
    """A disc that floats in the middle of the frame, with some attributes changed."""
    disc = Body("disc", 0.18, 0.0, u=still(0.5), height=still(0.5), bounce_seconds=None, bounce_phase=0.0)
    return dataclasses.replace(disc, **changes)  # type: ignore[arg-type]


def scene_of(*bodies: Body, wheel: Wheel | None = None) -> Scene:
    """A scene of chosen causes, without noise, echoes or camera movement."""
    scene = draw_scene(0, 0, "easy")
    audio_nuisance = dataclasses.replace(scene.audio_nuisance, gain=1.0, noise=0.0, echoes=())
    frame_nuisance = dataclasses.replace(
        scene.frame_nuisance, noise=0.0, offset=(0.0, 0.0), shake=(still(0.0), still(0.0))
    )
    return Scene(Causes(bodies, wheel), frame_nuisance, audio_nuisance)


def strongest_hz(samples: NDArray[np.int16]) -> float:
    """Frequency of the highest peak of the spectrum, to a quarter of a hertz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 4 * RATE))
    return float(spectrum.argmax()) / 4


def energy(samples: NDArray[np.int16], start_seconds: float, seconds: float) -> float:
    """Mean square of a stretch."""
    part = samples[round(start_seconds * RATE) : round((start_seconds + seconds) * RATE)].astype(float)
    return float(np.mean(part**2))
