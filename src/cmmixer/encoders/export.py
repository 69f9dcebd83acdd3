"""`cmmixer export`: both towers as ONNX files, from raw frames and audio to unit vectors.

    video.onnx   pixels   uint8 [B, T, 3, H, W]   -> clip float32 [B, E], frames float32 [B, T, E]
    audio.onnx   samples  int16 [B, T, N]         -> the same; the mel spectrograms are computed inside

B is dynamic. Each file is run in ONNX Runtime and compared with torch, on several kinds of clips and batch sizes, before it
gets its name.

Letters: B clips, T frames, C = 3 channels, H x W pixels, N samples of a window, E = embed_dim.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import onnxscript
import torch
from numpy.typing import NDArray
from rich.text import Text
from torch import Tensor, nn

from cmmixer.config import ClipSettings, ExportSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.errors import CheckpointError, InternalError
from cmmixer.models.retriever import Retriever
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import atomic_folder, explain_full_disk
from cmmixer.storage.folder import LocalFolder
from cmmixer.storage.metadata import FolderMetadata, MetadataFile

# For unit vectors in float32 after a dozen layers: a thousand times the rounding error of a number.
MAX_DIFFERENCE = 1e-4
_BATCHES = (1, 3)
# Protocol buffers are limited to 2 GiB; larger weights are in a second file.
_MAX_INLINE_BYTES = 1_500_000_000


@dataclass(frozen=True)
class ExportedTower:
    """One ONNX file.

    Attributes:
        file: its name.
        input, dtype, shape: of its input; the first dimension is dynamic.
        outputs: names and shapes of its outputs.
        max_difference: between ONNX Runtime and torch, over all values of all clips in the check.
        bytes: size, including weights in a second file.
    """

    file: str
    input: str
    dtype: str
    shape: tuple[int | str, ...]
    outputs: dict[str, tuple[int | str, ...]]
    max_difference: float
    bytes: int


@dataclass(frozen=True)
class ExportReport(FolderMetadata):
    """What `cmmixer export` wrote; also in `export.json`.

    Attributes:
        out: the folder.
        model_id: id of the run's weights.
        clip: geometry of a clip.
        embed_dim: E, length of a vector.
        towers: the files by modality.
        versions: versions of the libraries that wrote and checked them.
    """

    FILE: ClassVar[MetadataFile] = MetadataFile(
        what="export",
        name="export.json",
        format=1,
        error=CheckpointError,
        make="write one with `cmmixer export`",
        remake="export the run again",
    )

    out: str
    model_id: str
    clip: ClipSettings
    embed_dim: int
    towers: dict[str, ExportedTower]
    versions: dict[str, str]

    def render(self) -> Text:
        """Returns one line for each file."""
        lines = [
            f"{self.out}/{tower.file}: {tower.input} {tower.dtype} {list(tower.shape)}, {tower.bytes / 1e6:.1f} MB, "
            f"max difference from torch {tower.max_difference:.1e}"
            for tower in self.towers.values()
        ]
        return Text("\n".join(lines))


class _Tower(nn.Module):
    """One tower of a retriever, from raw media to unit vectors."""

    def __init__(self, retriever: Retriever, modality: str) -> None:
        super().__init__()
        self.retriever = retriever
        self.modality = modality

    def forward(self, media: Tensor) -> tuple[Tensor, Tensor]:
        embed = self.retriever.embed_video if self.modality == "video" else self.retriever.embed_audio
        clip_BE, frames_BTE = embed(media)
        return clip_BE, frames_BTE


@accepts_settings(ExportSettings)
def export(settings: ExportSettings, progress: Progress | None = None) -> ExportReport:
    """Exports both towers to ONNX. The folder appears when both are written and checked.

    Args:
        settings: settings of the command.
        progress: shows the progress.

    Raises:
        CheckpointError: there is no retriever, or the folder exists already or cannot be written.
        InternalError: ONNX Runtime computes other vectors than torch; nothing is written.
    """
    progress = progress or NoProgress()
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; choose a new folder")
    encoder = ModelEncoder.load(settings.model, torch.device("cpu"))
    generator = np.random.default_rng(settings.seed)
    progress.start(2, "exporting towers")
    with explain_full_disk(out, CheckpointError), atomic_folder(out) as draft:
        towers = {}
        for modality in ("video", "audio"):
            towers[modality] = _write(_Tower(encoder.model, modality), encoder, draft, generator)
            progress.advance()
        versions = {name: str(module.__version__) for name, module in _LIBRARIES.items()}
        report = ExportReport(settings.out, encoder.id, encoder.clip, encoder.dim, towers, versions)
        replace(report, out=out.name).write(LocalFolder(draft))
    return report


# torch exports with onnxscript; imported here, its absence is reported before any work.
_LIBRARIES: dict[str, Any] = {"torch": torch, "onnxscript": onnxscript, "onnxruntime": onnxruntime}


def _write(tower: _Tower, encoder: ModelEncoder, folder: Path, generator: np.random.Generator) -> ExportedTower:
    """Writes the file of a tower and compares it with torch."""
    name = "pixels" if tower.modality == "video" else "samples"
    batches = [_clips(tower.modality, encoder.clip, size, generator) for size in _BATCHES]
    file = folder / f"{tower.modality}.onnx"
    weights_bytes = sum(weight.nbytes for weight in tower.state_dict().values())
    with _quietly():
        program = torch.onnx.export(
            tower.eval(),
            (torch.from_numpy(batches[-1]),),
            dynamo=True,
            input_names=[name],
            output_names=["clip", "frames"],
            dynamic_shapes=({0: torch.export.Dim("B", min=1, max=1 << 16)},),
            verbose=False,
        )
        assert program is not None
        program.save(str(file), external_data=weights_bytes > _MAX_INLINE_BYTES)
    difference = max(_difference(tower, file, batch) for batch in batches)
    if not difference <= MAX_DIFFERENCE:
        raise InternalError(
            f"{tower.modality}.onnx: the vectors of ONNX Runtime {onnxruntime.__version__} differ from torch's by {difference:.1e}, "
            f"expected at most {MAX_DIFFERENCE:.0e}; nothing was written"
        )
    frames, dim = encoder.clip.frames, encoder.dim
    return ExportedTower(
        file=file.name,
        input=name,
        dtype=str(batches[0].dtype),
        shape=("B", *batches[0].shape[1:]),
        outputs={"clip": ("B", dim), "frames": ("B", frames, dim)},
        max_difference=difference,
        bytes=sum(part.stat().st_size for part in folder.glob(f"{file.name}*")),
    )


def _clips(modality: str, clip: ClipSettings, batch: int, generator: np.random.Generator) -> NDArray[Any]:
    """Returns clips of noise from full strength down to nothing: black frames, or digital silence."""
    shape: tuple[int, ...]
    if modality == "video":
        shape = (batch, clip.frames, 3, clip.height, clip.width)
        media = generator.integers(0, 256, shape).astype(np.float64)
    else:
        shape = (batch, clip.frames, clip.window_samples)
        media = generator.normal(0.0, 8000.0, shape).clip(-32768, 32767)
    strength = np.linspace(1.0, 0.0, batch).reshape(-1, *[1] * (len(shape) - 1))
    return (media * strength).astype(np.uint8 if modality == "video" else np.int16)


def _difference(tower: _Tower, file: Path, media: NDArray[Any]) -> float:
    """Returns the largest difference between ONNX Runtime and torch; infinity if a value is not finite."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: media})
    with torch.inference_mode():
        expected = [vectors.numpy() for vectors in tower(torch.from_numpy(media))]
    largest = max(float(np.abs(one - other).max()) for one, other in zip(got, expected, strict=True))
    return largest if np.isfinite(largest) else float("inf")


@contextmanager
def _quietly() -> Iterator[None]:
    """Hides the exporter's warnings about operators of libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
