"""Quantized vectors number by number: bfloat16 as the nearer of two neighbours, int8 as the nearest integer."""

from __future__ import annotations

import struct


def bf16_bits(value: float) -> int:
    """Returns the upper half of the nearest float32 whose lower half is zero, ties to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    low = bits & ~0xFFFF
    candidates = [low, low + 0x10000]
    single = struct.unpack("<f", struct.pack("<f", value))[0]

    def distance(candidate: int) -> tuple[float, int]:
        return abs(struct.unpack("<f", struct.pack("<I", candidate))[0] - single), (candidate >> 16) & 1

    return min(candidates, key=distance) >> 16


def int8_values(vector: list[float]) -> list[int]:
    """Returns 127 x / max |x|, rounded, ties to even."""
    largest = max(abs(value) for value in vector)
    return [round(127 * value / largest) for value in vector]


def unit(values: list[float]) -> list[float]:
    """Returns the vector scaled to length 1."""
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def bf16_value(bits: int) -> float:
    """Returns the value of an upper half."""
    value: float = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    return value
