"""A decoder that reports when it starts a chunk and may be slow; decoder processes import it."""

from __future__ import annotations

import os
import time

from cmmixer.data.chunks import Chunk, DecodedChunk, decode_chunk
from cmmixer.data.segments import SegmentSpec

# Each started chunk leaves a file; a file beside the video, written by the test, says how long it takes.
BEGUN, SECONDS = "begun-", "seconds"


def slow_decode_chunk(chunk: Chunk, spec: SegmentSpec) -> DecodedChunk:
    """`decode_chunk`, after a file `begun-NUMBER-FIRST` and as many seconds as the video's file `NAME.seconds` says."""
    folder = os.path.dirname(os.path.dirname(chunk.path))
    with open(os.path.join(folder, f"{BEGUN}{chunk.number}-{chunk.first}"), "w"):
        pass
    message = f"{chunk.path}.{SECONDS}"
    if os.path.exists(message):
        with open(message) as file:
            time.sleep(float(file.read()))
    return decode_chunk(chunk, spec)
