"""Moments of films and their vectors with nothing at the same time: a film, a moment, a sense after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cmmixer.config import CuttingSettings
from cmmixer.data.manifest import Entry
from cmmixer.data.moments import Cut, Piece, decode_piece
from cmmixer.encoders.base import Encoder
from cmmixer.errors import MediaError


def embedded_one_by_one(entries: Iterable[Entry], encoder: Encoder) -> list[list[dict[str, object]] | str]:
    """For each entry its moments in order of time, or the reason why there are none."""
    stride = CuttingSettings().of(encoder.clip).stride_seconds
    assert stride is not None
    cut = Cut(encoder.clip, stride)
    answers: list[list[dict[str, object]] | str] = []
    for number, entry in enumerate(entries):
        moments: list[dict[str, object]] = []
        firsts, reason = [0], "silent"
        while firsts:
            try:
                piece = decode_piece(Piece(number, entry, firsts.pop(0)), cut)
            except MediaError as fault:
                reason = fault.reason
                continue
            firsts += piece.further
            for span, rows, heard in zip(piece.spans, piece.instants_MT, piece.heard_M, strict=True):
                moment: dict[str, object] = {"start": span.start_seconds, "end": span.end_seconds}
                if piece.pixels_UCHW is not None:
                    picture = encoder.embed_video(torch.from_numpy(piece.pixels_UCHW[rows])[None])
                    moment["video"], moment["video_frames"] = picture.clip_BE[0].numpy(), picture.frames_BTE[0].numpy()
                if piece.samples_UN is not None and heard:
                    sound = encoder.embed_audio(torch.from_numpy(piece.samples_UN[rows])[None])
                    moment["audio"], moment["audio_frames"] = sound.clip_BE[0].numpy(), sound.frames_BTE[0].numpy()
                if len(moment) > 2:
                    moments.append(moment)
        answers.append(moments or reason)
    return answers
