"""`cmmixer export`: both towers as ONNX, from raw frames and sound to unit vectors.

    video.onnx   pixels   uint8 [B, T, 3, H, W]   -> clip float32 [B, E], frames float32 [B, T, E]
    audio.onnx   samples  int16 [B, T, N]         -> the same; the mel pictures are made inside

B is open. Each file is run in ONNX Runtime on clips of several kinds and batch sizes beside torch before it gets its name.

Letters: B clips, T frames, C = 3 channels, H x W pixels, N samples of a window, E = embed_dim.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxscript
import torch
from numpy.typing import NDArray
from rich.text import Text
from torch import Tensor, nn

from cmmixer.config import ClipSettings, ExportSettings
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.errors import CheckpointError, InternalError
from cmmixer.models.retriever import Retriever
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import explain_full_disk, folder_written_whole

# Unit vectors in float32 through a dozen layers: a thousand times the rounding of one number, a thousandth of a cosine.
MOST_DIFFERENCE = 1e-4
_BATCHES = (1, 3)
# Protocol buffers end at 2 GiB; larger weights stand in a file beside.
_LARGEST_ALONE_BYTES = 1_500_000_000


@dataclass(frozen=True)
class ExportedTower:
    """One file.

    Attributes:
        file: its name.
        input, dtype, shape: what it takes; the first length is open.
        outputs: names and shapes of what it gives.
        most_difference: between ONNX Runtime and torch, over all numbers of all clips checked.
        bytes: size, with that of the weights beside it.
    """

    file: str
    input: str
    dtype: str
    shape: tuple[int | str, ...]
    outputs: dict[str, tuple[int | str, ...]]
    most_difference: float
    bytes: int


@dataclass(frozen=True)
class ExportReport:
    """What `cmmixer export` wrote; the same stands in `export.json`.

    Attributes:
        out: the folder.
        model_id: of the run.
        clip: what a clip must be.
        embed_dim: E.
        towers: by sense.
        versions: of the libraries that wrote and checked it.
    """

    out: str
    model_id: str
    clip: ClipSettings
    embed_dim: int
    towers: dict[str, ExportedTower]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> Text:
        """The same for people."""
        lines = [
            f"{self.out}/{tower.file}: {tower.input} {tower.dtype} {list(tower.shape)}, {tower.bytes / 1e6:.1f} MB, differs from torch "
            f"by at most {tower.most_difference:.1e}"
            for tower in self.towers.values()
        ]
        return Text("\n".join(lines))


class _Tower(nn.Module):
    """One sense of a retriever, raw media to unit vectors."""

    def __init__(self, retriever: Retriever, sense: str) -> None:
        super().__init__()
        self.retriever = retriever
        self.sense = sense

    def forward(self, media: Tensor) -> tuple[Tensor, Tensor]:
        embed = self.retriever.embed_video if self.sense == "video" else self.retriever.embed_audio
        clip_BE, frames_BTE = embed(media)
        return clip_BE, frames_BTE


def export(settings: ExportSettings, progress: Progress | None = None) -> ExportReport:
    """Writes both towers; the folder appears when both are checked.

    Args:
        settings: of the command.
        progress: told what goes on.

    Raises:
        CheckpointError: no retriever there, or a folder that is there already or cannot be written.
        InternalError: ONNX Runtime gives other vectors than torch; nothing is left behind.
    """
    progress = progress or NoProgress()
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: is there already; choose a new folder")
    encoder = ModelEncoder.load(settings.model, torch.device("cpu"))
    generator = np.random.default_rng(settings.seed)
    progress.start(2, "exporting towers")
    with explain_full_disk(out, CheckpointError), folder_written_whole(out) as draft:
        towers = {}
        for sense in ("video", "audio"):
            towers[sense] = _write(_Tower(encoder.model, sense), encoder, draft, generator)
            progress.advance()
        versions = {name: str(module.__version__) for name, module in _LIBRARIES.items()}
        report = ExportReport(settings.out, encoder.id, encoder.clip, encoder.dim, towers, versions)
        (draft / "export.json").write_text(json.dumps({**report.as_json(), "out": out.name}, indent=1) + "\n")
    return report


# onnxscript does torch's exporting; imported here, its absence is told before any work.
_LIBRARIES: dict[str, Any] = {"torch": torch, "onnxscript": onnxscript, "onnxruntime": onnxruntime}


def _write(tower: _Tower, encoder: ModelEncoder, folder: Path, generator: np.random.Generator) -> ExportedTower:
    """One tower as a file, and the proof that it gives what torch gives."""
    name = "pixels" if tower.sense == "video" else "samples"
    batches = [_clips(tower.sense, encoder.clip, size, generator) for size in _BATCHES]
    file = folder / f"{tower.sense}.onnx"
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
        program.save(str(file), external_data=weights_bytes > _LARGEST_ALONE_BYTES)
    difference = max(_difference(tower, file, batch) for batch in batches)
    if not difference <= MOST_DIFFERENCE:
        raise InternalError(
            f"{tower.sense}.onnx: ONNX Runtime {onnxruntime.__version__} gives vectors that differ from torch's by {difference:.1e}, "
            f"expected at most {MOST_DIFFERENCE:.0e}; nothing was written"
        )
    frames, dim = encoder.clip.frames, encoder.dim
    return ExportedTower(
        file=file.name,
        input=name,
        dtype=str(batches[0].dtype),
        shape=("B", *batches[0].shape[1:]),
        outputs={"clip": ("B", dim), "frames": ("B", frames, dim)},
        most_difference=difference,
        bytes=sum(part.stat().st_size for part in folder.glob(f"{file.name}*")),
    )


def _clips(sense: str, clip: ClipSettings, batch: int, generator: np.random.Generator) -> NDArray[Any]:
    """Noise of every strength, and one clip of nothing: black, or digital silence."""
    shape: tuple[int, ...]
    if sense == "video":
        shape = (batch, clip.frames, 3, clip.height, clip.width)
        media = generator.integers(0, 256, shape).astype(np.float64)
    else:
        shape = (batch, clip.frames, clip.window_samples)
        media = generator.normal(0.0, 8000.0, shape).clip(-32768, 32767)
    strength = np.linspace(1.0, 0.0, batch).reshape(-1, *[1] * (len(shape) - 1))
    return (media * strength).astype(np.uint8 if sense == "video" else np.int16)


def _difference(tower: _Tower, file: Path, media: NDArray[Any]) -> float:
    """The largest between any two numbers; infinite where one is none."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: media})
    with torch.inference_mode():
        wanted = [part.numpy() for part in tower(torch.from_numpy(media))]
    largest = max(float(np.abs(one - other).max()) for one, other in zip(got, wanted, strict=True))
    return largest if np.isfinite(largest) else float("inf")


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells programmers which operators of libraries that are not here it does not know."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
