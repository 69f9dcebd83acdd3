"""Work for actors in the tests of the cluster; they import it by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cmmixer.errors import DataError


def tenfold() -> Callable[[list[int]], list[int]]:
    """Multiplies numbers by ten; the part that holds 0 takes longest."""
    return _tenfold


def _tenfold(part: list[int]) -> list[int]:
    time.sleep(0.2 if 0 in part else 0.0)  # the first part finishes last
    return [10 * number for number in part]


def refusing() -> Callable[[list[int]], list[int]]:
    """Fails before the first part."""
    raise DataError("no model on this machine; put it there")


def deadly() -> Callable[[list[int]], list[int]]:
    """Ends the actor that gets the part with the number 2."""
    return _deadly


def _deadly(part: list[int]) -> list[int]:
    if 2 in part:
        os._exit(9)
    return part
