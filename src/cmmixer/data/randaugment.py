"""RandAugment (arXiv 1909.13719) on clips: K operations out of a list, one after the other, the same for all frames.

Strength s in [-1, 1]; |s| = 1 is the paper's magnitude 10. kornia does the arithmetic; clips that drew the same operation
are done together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

OPERATIONS = (
    "brightness",  # x (1 + 0.9 s)
    "contrast",  # away from or towards the mean grey, x (1 + 0.9 s)
    "saturation",  # x (1 + 0.9 s)
    "hue",  # turned by 0.3 pi s
    "sharpness",  # 1 + 0.9 s; below 1 is blur
    "posterize",  # keeps 8 - 4 |s| bits
    "solarize",  # inverts what is brighter than 1 - |s|
    "equalize",  # the strength plays no part
    "rotate",  # by 30 s degrees
    "shear_x",  # by 0.3 s
    "shear_y",
    "translate_x",  # by 0.45 s of the width
    "translate_y",
)


def randaugment(video_BTCHW: Tensor, operations_BK: Tensor, strengths_BK: Tensor) -> Tensor:
    """Applies each clip's operations in turn.

    Args:
        video_BTCHW: float pictures in [0, 1].
        operations_BK: numbers into `OPERATIONS`, on the CPU.
        strengths_BK: in [-1, 1], on the CPU.

    Returns:
        Pictures of the same shape, in [0, 1].
    """
    frames = video_BTCHW.shape[1]
    for operations_B, strengths_B in zip(operations_BK.unbind(1), strengths_BK.unbind(1), strict=True):
        result = video_BTCHW.clone()
        for number in sorted(set(operations_B.tolist())):
            rows = (operations_B == number).nonzero().squeeze(1)
            strength_M = strengths_B[rows].to(video_BTCHW).repeat_interleave(frames)
            rows = rows.to(video_BTCHW.device)
            pictures_MCHW = video_BTCHW[rows].flatten(0, 1)
            changed = operation(OPERATIONS[number], pictures_MCHW, strength_M)
            result[rows] = changed.clamp(0.0, 1.0).reshape(len(rows), frames, *changed.shape[1:])
        video_BTCHW = result
    return video_BTCHW


def operation(name: str, pictures_MCHW: Tensor, strength_M: Tensor) -> Tensor:
    """One operation on M pictures, each with its own strength."""
    # Imported here: kornia takes seconds to import, and most runs draw no operation.
    from kornia import enhance
    from kornia.geometry.transform import affine

    factor_M = 1.0 + 0.9 * strength_M
    colour: dict[str, Callable[[], Tensor]] = {
        "brightness": lambda: enhance.adjust_brightness_accumulative(pictures_MCHW, factor_M),
        "contrast": lambda: enhance.adjust_contrast_with_mean_subtraction(pictures_MCHW, factor_M),
        "saturation": lambda: enhance.adjust_saturation(pictures_MCHW, factor_M),
        "hue": lambda: enhance.adjust_hue(pictures_MCHW, 0.3 * math.pi * strength_M),
        "sharpness": lambda: enhance.sharpness(pictures_MCHW, factor_M),
        "posterize": lambda: enhance.posterize(pictures_MCHW, (8 - 4 * strength_M.abs()).round().int()),
        "solarize": lambda: enhance.solarize(pictures_MCHW, 1.0 - strength_M.abs()),
        "equalize": lambda: enhance.equalize(pictures_MCHW),
    }
    if name in colour:
        return colour[name]()
    matrix_M23 = movement(name, strength_M, *pictures_MCHW.shape[-2:])
    moved: Tensor = affine(pictures_MCHW, matrix_M23, padding_mode="border", align_corners=True)
    return moved


def movement(name: str, strength_M: Tensor, height: int, width: int) -> Tensor:
    """Where a pixel (x, y) of the picture moves to: matrices [M, 2, 3] that turn and shear about the middle."""
    one, zero = torch.ones_like(strength_M), torch.zeros_like(strength_M)
    angle, shear, part = strength_M * math.radians(30), 0.3 * strength_M, 0.45 * strength_M
    turned = {
        "rotate": (angle.cos(), -angle.sin(), angle.sin(), angle.cos()),
        "shear_x": (one, shear, zero, one),
        "shear_y": (one, zero, shear, one),
    }
    a, b, c, d = turned.get(name, (one, zero, zero, one))
    x, y = (width - 1) / 2, (height - 1) / 2
    right = x - a * x - b * y + (part * width if name == "translate_x" else 0.0)
    down = y - c * x - d * y + (part * height if name == "translate_y" else 0.0)
    return torch.stack([torch.stack([a, b, right], dim=1), torch.stack([c, d, down], dim=1)], dim=1)
