"""Moments and their vectors without any concurrency: one file, one moment, one modality after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cmmixer.config import SegmentSettings
from cmmixer.data.chunks import Chunk, decode_chunk
from cmmixer.data.manifest import Entry
from cmmixer.data.segments import SegmentSpec
from cmmixer.encoders.base import Encoder
from cmmixer.errors import MediaError


def embedded_one_by_one(entries: Iterable[Entry], encoder: Encoder) -> list[list[dict[str, object]] | str]:
    """Returns for each entry its moments in order of time, or the reason why there are none."""
    stride = SegmentSettings().complete(encoder.clip).stride_seconds
    assert stride is not None
    spec = SegmentSpec(encoder.clip, stride)
    answers: list[list[dict[str, object]] | str] = []
    for number, entry in enumerate(entries):
        moments: list[dict[str, object]] = []
        firsts, reason = [0], "silent"
        while firsts:
            try:
                chunk = decode_chunk(Chunk(number, entry, firsts.pop(0)), spec)
            except MediaError as error:
                reason = error.reason
                continue
            firsts += chunk.remaining
            for span, rows, audible in zip(chunk.spans, chunk.instants_MT, chunk.audible_M, strict=True):
                moment: dict[str, object] = {"start": span.start_seconds, "end": span.end_seconds}
                if chunk.pixels_UCHW is not None:
                    video = encoder.embed_video(torch.from_numpy(chunk.pixels_UCHW[rows])[None])
                    moment["video"], moment["video_frames"] = video.clip_BE[0].numpy(), video.frames_BTE[0].numpy()
                if chunk.samples_UN is not None and audible:
                    audio = encoder.embed_audio(torch.from_numpy(chunk.samples_UN[rows])[None])
                    moment["audio"], moment["audio_frames"] = audio.clip_BE[0].numpy(), audio.frames_BTE[0].numpy()
                if len(moment) > 2:
                    moments.append(moment)
        answers.append(moments or reason)
    return answers
