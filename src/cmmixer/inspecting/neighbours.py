"""Who lies next to whom: the nearest sounds of pictures and pictures of sounds, and a map of both.

Letters: N clips, E length of an embedding, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from cmmixer.report.plots import Neighbours, map_picture, neighbours_picture
from cmmixer.report.sheets import Sheet
from cmmixer.types import Clip

HITS = 5
_CAPTION = 16


def neighbour_sheets(
    clips: Sequence[Clip],
    mels: Sequence[NDArray[np.floating]],
    video_NE: NDArray[np.float32],
    audio_NE: NDArray[np.float32],
    queries: Sequence[int],
) -> list[Sheet]:
    """One sheet each way, and the map.

    Args:
        clips: N, with pictures.
        mels: mel pictures of each clip's sound, side by side, [H, T*W].
        video_NE, audio_NE: their unit vectors.
        queries: which clips ask.
    """
    scores = video_NE.astype(np.float64) @ audio_NE.T.astype(np.float64)
    pictures = [_middle_frame(clip) for clip in clips]
    sheets = []
    for words, asked, found, scores_NN in (
        ("Pictures and their nearest sounds", pictures, mels, scores),
        ("Sounds and their nearest pictures", mels, pictures, scores.T),
    ):
        rows = []
        for query in queries:
            best = np.argsort(-scores_NN[query], kind="stable")[:HITS].tolist()
            captions = [_short(clips[query]), *(f"{scores_NN[query, one]:.2f} {_short(clips[one])}" for one in best)]
            partner = best.index(query) if query in best else None
            rows.append(Neighbours(asked[query], [found[one] for one in best], captions, partner))
        own = sum(row.partner is not None for row in rows)
        told = f"Each row: a query and its {HITS} nearest of {len(clips)}, best first. Framed in green: its own ({own} of {len(rows)} found)."
        sheets.append(Sheet(words, told, neighbours_picture(rows), told))
    both = np.concatenate([video_NE, audio_NE]).astype(np.float64)
    pca = PCA(n_components=2).fit(both)
    labels = [clip.label or "no label" for clip in clips]
    share = 100 * float(pca.explained_variance_ratio_.sum())
    told = f"The vectors of {len(clips)} clips in their two directions of largest spread, which hold {share:.0f} % of it. Round: pictures, pointed: sounds; colour: label."
    marks = ["video"] * len(clips) + ["audio"] * len(clips)
    return [*sheets, Sheet("A map of both senses", told, map_picture(pca.transform(both), labels * 2, marks), told)]


def _middle_frame(clip: Clip) -> NDArray[np.uint8]:
    assert clip.frames is not None
    middle: NDArray[np.uint8] = clip.frames.pixels_THWC[len(clip.frames.pixels_THWC) // 2]
    return middle


def _short(clip: Clip) -> str:
    """The file's name without its ending, cut to what fits over a picture."""
    stem = clip.id.rpartition("#")[0].rpartition("/")[2].rpartition(".")[0]
    return stem if len(stem) <= _CAPTION else f"{stem[: _CAPTION // 2]}…{stem[-_CAPTION // 2 + 1 :]}"
