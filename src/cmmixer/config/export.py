"""What `cmmixer export` takes."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of

EXPORT_FORMATS = ("onnx",)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write both towers as files that run without torch, checked against it.

    Attributes:
        model: run or checkpoint of finetune
        out: new folder for video.onnx, audio.onnx and export.json
        format: onnx
        seed: of the clips that the check is made with
    """

    model: str
    out: str
    format: str = "onnx"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("format", self.format, EXPORT_FORMATS)
        at_least("seed", self.seed, 0)
