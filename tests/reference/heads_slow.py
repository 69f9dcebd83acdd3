"""Canonical correlations by the definition: a generalized eigenvalue problem, covariances pair by pair."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def covariance(left: Matrix, right: Matrix) -> Matrix:
    """The mean outer product of normalized pairs, one pair at a time."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for left_row, right_row in zip(left, right, strict=True):
        total += np.outer(left_row, right_row)
    return total / len(left)


def normalized(features: Matrix) -> Matrix:
    return (features - features.mean(axis=0)) / features.std(axis=0)


def correlations(video: Matrix, audio: Matrix, shrinkage: float) -> Matrix:
    """C_va C_aa^-1 C_av w = s^2 C_vv w; the largest s first."""
    video, audio = normalized(video), normalized(audio)
    own_video = covariance(video, video) + shrinkage * np.eye(video.shape[1])
    own_audio = covariance(audio, audio) + shrinkage * np.eye(audio.shape[1])
    across = covariance(video, audio)
    squares = scipy.linalg.eigh(across @ np.linalg.inv(own_audio) @ across.T, own_video, eigvals_only=True)
    return np.sqrt(np.clip(squares[::-1], 0.0, None))
