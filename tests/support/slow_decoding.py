"""A decoder that tells when it begins a piece and takes its time; decoder processes import it."""

from __future__ import annotations

import os
import time

from cmmixer.data.moments import Cut, DecodedPiece, Piece, decode_piece

# Where each piece that is begun leaves a file, and how long it takes: written by the test beside the film.
BEGUN, SECONDS = "begun-", "seconds"


def slow_decode_piece(piece: Piece, cut: Cut) -> DecodedPiece:
    """`decode_piece`, after a file `begun-NUMBER-FIRST` and as many seconds as the film's file `NAME.seconds` says."""
    folder = os.path.dirname(os.path.dirname(piece.path))
    with open(os.path.join(folder, f"{BEGUN}{piece.number}-{piece.first}"), "w"):
        pass
    told = f"{piece.path}.{SECONDS}"
    if os.path.exists(told):
        with open(told) as file:
            time.sleep(float(file.read()))
    return decode_piece(piece, cut)
