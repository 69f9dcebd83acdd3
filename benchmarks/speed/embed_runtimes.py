"""Compares ways to run the towers: torch, oneDNN's packed products, torch.compile, ONNX Runtime, and bfloat16.

Each maps decoded media to unit vectors. They take turns, so that other work on the machine affects all of them.

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

from benchmarks.speed.flops import count_flops
from benchmarks.speed.step import FastestProduct
from cmmixer.config import ExportSettings
from cmmixer.encoders.base import Encoder, MixedPrecisionEncoder
from cmmixer.encoders.export import export
from cmmixer.encoders.loading import ModelEncoder
from cmmixer.models.onednn import HAS_ONEDNN, Linear
from cmmixer.models.vit import speed_up

EAGER, PACKED, COMPILED, ONNX, HALF = "torch", "oneDNN", "compiled", "ONNX Runtime", "bfloat16"
MODALITIES = ("video", "audio")
_PEAK_ROUNDS = 5
Vectors = NDArray[np.float32]
_Embed = Callable[[str, Tensor], Vectors]


@dataclass
class Runtime:
    """One way to run the towers, and its measurements.

    Attributes:
        embed: modality and media -> unit vectors of the moments.
        start_seconds: from a loaded network to the first vectors.
        seconds, cpu_seconds: of each turn, by modality.
        vectors: of the last turn, by modality.
    """

    embed: _Embed
    start_seconds: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {modality: [] for modality in MODALITIES})
    cpu_seconds: dict[str, list[float]] = field(default_factory=lambda: {modality: [] for modality in MODALITIES})
    vectors: dict[str, Vectors] = field(default_factory=dict)

    def turn(self, media: dict[str, Tensor]) -> None:
        """Embeds the media once, and measures."""
        for modality, values in media.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            self.vectors[modality] = self.embed(modality, values)
            self.seconds[modality].append(time.perf_counter() - started)
            self.cpu_seconds[modality].append(time.process_time() - cpu_started)

    def figures(self, eager: Runtime) -> dict[str, Any]:
        """Returns the figures by modality, relative to eager torch."""
        figures: dict[str, Any] = {"start_seconds": self.start_seconds}
        for modality, vectors_BE in self.vectors.items():
            eager_BE = eager.vectors[modality].astype(np.float64)
            ratios = [a / b for a, b in zip(eager.seconds[modality], self.seconds[modality], strict=True)]
            cpu, eager_cpu = (statistics.median(it.cpu_seconds[modality]) for it in (self, eager))
            figures[modality] = {
                "seconds_per_moment": statistics.median(self.seconds[modality]) / len(vectors_BE),
                "cpu_seconds_per_moment": cpu / len(vectors_BE),
                "times_eager": statistics.median(ratios),
                "times_eager_cpu": eager_cpu / cpu,
                "most_difference": float(np.abs(vectors_BE - eager_BE).max()),
                "least_cosine": float((vectors_BE * eager_BE).sum(axis=1).min()),
            }
        return figures


def compare_runtimes(
    run: Path, device: torch.device, media: dict[str, Tensor], *, rounds: int, compile_too: bool, work: Path
) -> dict[str, Any]:
    """Runs all ways in turns.

    Args:
        run: a run of finetune.
        device: of the networks.
        media: uint8 frames [B, T, 3, H, W] of "video", int16 windows [B, T, N] of "audio".
        rounds: number of turns.
        compile_too: include torch.compile, which takes a minute to start.
        work: an empty folder for the exported model.

    Returns:
        `runtimes`: figures by name; `flop_per_moment` of the matrix products by modality; `peak_flops_per_core` of the machine's
        fastest matrix product (None on a GPU).
    """
    eager = ModelEncoder.load(run, device)
    _use_torch_linear(eager.model)
    runtimes = {EAGER: Runtime(_of_encoder(eager))}
    if device.type == "cpu":
        if HAS_ONEDNN:
            packed = ModelEncoder.load(run, device)
            packed.pack()
            runtimes[PACKED] = Runtime(_of_encoder(packed))
        started = time.perf_counter()
        onnx = _of_onnx(run, work / "onnx")
        runtimes[ONNX] = Runtime(onnx, start_seconds=time.perf_counter() - started)
    if compile_too:
        compiled = ModelEncoder.load(run, device)
        speed_up(compiled.model, compiled=True, recompute=False)
        runtimes[COMPILED] = Runtime(_of_encoder(compiled))
    runtimes[HALF] = Runtime(_of_encoder(MixedPrecisionEncoder(ModelEncoder.load(run, device), device)))
    plain = ModelEncoder.load(run, device).model
    flop = {
        modality: count_flops(
            lambda modality=modality: getattr(plain, f"embed_{modality}")(media[modality][:1].to(device))
        )  # type: ignore[misc]
        for modality in media
    }
    for runtime in runtimes.values():
        started = time.perf_counter()
        for modality, values in media.items():
            runtime.embed(modality, values)
        runtime.start_seconds += time.perf_counter() - started
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
    product = FastestProduct(device, torch.float32)
    for _ in range(_PEAK_ROUNDS):
        product.time()
    return product.peak().core_flops


def _use_torch_linear(network: nn.Module) -> None:
    """Replaces the linear layers by those of torch."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear  # type: ignore[assignment]


def _of_encoder(encoder: Encoder) -> _Embed:
    def embed(modality: str, media: Tensor) -> Vectors:
        vectors = (encoder.embed_video if modality == "video" else encoder.embed_audio)(media)
        return vectors.clip_BE.float().cpu().numpy()

    return embed


def _of_onnx(run: Path, folder: Path) -> _Embed:
    """Exports the run with `cmmixer export` and runs it in ONNX Runtime, with as many threads as torch."""
    export(ExportSettings(model=str(run), out=str(folder)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sessions = {
        modality: onnxruntime.InferenceSession(
            str(folder / f"{modality}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for modality in MODALITIES
    }

    def embed(modality: str, media: Tensor) -> Vectors:
        session = sessions[modality]
        vectors: Vectors = session.run(["clip"], {session.get_inputs()[0].name: media.numpy()})[0]
        return vectors

    return embed
