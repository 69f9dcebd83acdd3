"""One network, asked in several ways: as torch computes it, with oneDNN's packed products, compiled, by ONNX Runtime, in bfloat16.

Each takes decoded media and gives unit vectors. They take turns, so that whatever else the machine does meets all of them.

Letters: B moments, T frames, C channels, H x W pixels, N samples of a window, E values of a vector.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.speed.flops import multiplications
from benchmarks.speed.step import BestProduct
from cmmixer.config import ExportSettings
from cmmixer.encoders.base import Encoder, MixedEncoder
from cmmixer.encoders.export import export
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.models.onednn import HAS_ONEDNN, Linear
from cmmixer.models.vit import speed_up

EAGER, PACKED, COMPILED, ONNX, HALF = "torch", "oneDNN", "compiled", "ONNX Runtime", "bfloat16"
SENSES = ("video", "audio")
_PEAK_ROUNDS = 5
Vectors = NDArray[np.float32]
_Ask = Callable[[str, Tensor], Vectors]


@dataclass
class Runtime:
    """One way.

    Attributes:
        ask: sense and media -> the moments' unit vectors.
        start_seconds: from a loaded network to the first answers.
        seconds, processor_seconds: of each turn, by sense.
        vectors: by sense.
    """

    ask: _Ask
    start_seconds: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {sense: [] for sense in SENSES})
    processor_seconds: dict[str, list[float]] = field(default_factory=lambda: {sense: [] for sense in SENSES})
    vectors: dict[str, Vectors] = field(default_factory=dict)

    def turn(self, media: dict[str, Tensor]) -> None:
        """Answers once, and measures."""
        for sense, values in media.items():
            begun, used = time.perf_counter(), time.process_time()
            self.vectors[sense] = self.ask(sense, values)
            self.seconds[sense].append(time.perf_counter() - begun)
            self.processor_seconds[sense].append(time.process_time() - used)

    def figures(self, eager: Runtime) -> dict[str, Any]:
        """What is told of it, by sense, beside torch as it is."""
        told: dict[str, Any] = {"start_seconds": self.start_seconds}
        for sense, vectors_BE in self.vectors.items():
            theirs_BE = eager.vectors[sense].astype(np.float64)
            ratios = [a / b for a, b in zip(eager.seconds[sense], self.seconds[sense], strict=True)]
            used, theirs = (statistics.median(it.processor_seconds[sense]) for it in (self, eager))
            told[sense] = {
                "seconds_per_moment": statistics.median(self.seconds[sense]) / len(vectors_BE),
                "processor_seconds_per_moment": used / len(vectors_BE),
                "times_eager": statistics.median(ratios),
                "times_eager_processor": theirs / used,
                "most_difference": float(np.abs(vectors_BE - theirs_BE).max()),
                "least_cosine": float((vectors_BE * theirs_BE).sum(axis=1).min()),
            }
        return told


def compared(
    run: Path, device: torch.device, media: dict[str, Tensor], *, rounds: int, compile_too: bool, work: Path
) -> dict[str, Any]:
    """Asks all in turns.

    Args:
        run: a finetune run.
        device: where it computes.
        media: uint8 frames [B, T, 3, H, W] of "video", int16 windows [B, T, N] of "audio".
        rounds: turns.
        compile_too: with torch's compiler, which takes a minute to start.
        work: an empty folder for what is exported.

    Returns:
        By name the figures of each; `flop_per_moment` of its matrix products by sense, `peak_flops_per_core` of the machine's
        best one (None on a GPU).
    """
    eager = ModelEncoder.load(run, device)
    _by_torch(eager.model)
    runtimes = {EAGER: Runtime(_of_encoder(eager))}
    if device.type == "cpu":
        if HAS_ONEDNN:
            packed = ModelEncoder.load(run, device)
            packed.pack()
            runtimes[PACKED] = Runtime(_of_encoder(packed))
        begun = time.perf_counter()
        onnx = _of_onnx(run, work / "onnx")
        runtimes[ONNX] = Runtime(onnx, start_seconds=time.perf_counter() - begun)
    if compile_too:
        compiled = ModelEncoder.load(run, device)
        speed_up(compiled.model, compiled=True, recompute=False)
        runtimes[COMPILED] = Runtime(_of_encoder(compiled))
    runtimes[HALF] = Runtime(_of_encoder(MixedEncoder(ModelEncoder.load(run, device), device)))
    plain = ModelEncoder.load(run, device).model
    flop = {
        sense: multiplications(lambda sense=sense: getattr(plain, f"embed_{sense}")(media[sense][:1].to(device)))  # type: ignore[misc]
        for sense in media
    }
    for runtime in runtimes.values():
        begun = time.perf_counter()
        for sense, values in media.items():
            runtime.ask(sense, values)
        runtime.start_seconds += time.perf_counter() - begun
    for _ in range(rounds):
        for runtime in runtimes.values():
            runtime.turn(media)
    return {
        "runtimes": {name: runtime.figures(runtimes[EAGER]) for name, runtime in runtimes.items()},
        "flop_per_moment": flop,
        "peak_flops_per_core": _peak_flops_per_core(device),
    }


def _peak_flops_per_core(device: torch.device) -> float | None:
    if device.type != "cpu":
        return None
    product = BestProduct(device, torch.float32)
    for _ in range(_PEAK_ROUNDS):
        product.time()
    return product.peak().core_flops


def _by_torch(network: nn.Module) -> None:
    """Leaves the products of its linear layers to torch."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear  # type: ignore[assignment]


def _of_encoder(encoder: Encoder) -> _Ask:
    def ask(sense: str, media: Tensor) -> Vectors:
        vectors = (encoder.embed_video if sense == "video" else encoder.embed_audio)(media)
        return vectors.clip_BE.float().cpu().numpy()

    return ask


def _of_onnx(run: Path, folder: Path) -> _Ask:
    """As `cmmixer export` writes it, mel pictures and all, with as many threads as torch has."""
    export(ExportSettings(model=str(run), out=str(folder)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sessions = {
        sense: onnxruntime.InferenceSession(str(folder / f"{sense}.onnx"), options, providers=["CPUExecutionProvider"])
        for sense in SENSES
    }

    def ask(sense: str, media: Tensor) -> Vectors:
        session = sessions[sense]
        vectors: Vectors = session.run(["clip"], {session.get_inputs()[0].name: media.numpy()})[0]
        return vectors

    return ask
