"""How fast is a pre-training step, next to transformers' `ViTMAEForPreTraining` with the same tokens and width?

Both use the same optimizer and gradient clipping and run in turns in one process, so that other work on the machine affects both.
The lower bound of the time is arithmetic: the FLOP of the step's matrix products, at the rate of the machine's fastest matrix
product in the same precision, measured in the same rounds.

Letters: B clips, T frames, C channels, H x W pixels, L tokens.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.speed.bench import BenchReport
from benchmarks.speed.flops import count_training_flops
from benchmarks.speed.settings import BenchSettings
from cmmixer.checkpoint import Metadata
from cmmixer.config import ClipSettings, PretrainSettings, preset
from cmmixer.config.clip import ModelSettings
from cmmixer.config.training import TrainingSettings
from cmmixer.models.onednn import HAS_ONEDNN, multiply
from cmmixer.models.patches import strip_grid
from cmmixer.models.vit import MLP_RATIO, speed_up
from cmmixer.progress import Progress
from cmmixer.runtime import keep_freed_memory, select_device
from cmmixer.train.inputs import rng_for_step
from cmmixer.train.optim import StepGuard, StepRecord, adamw, clip_gradients
from cmmixer.train.pretrain import PretrainTask
from cmmixer.types import Batch, Statistics

# Side of a matrix product that reaches the peak of the machine and takes well under a second.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}


class Peak(NamedTuple):
    """FLOP per second of the machine's fastest matrix product: by wall time, and per CPU core."""

    flops: float
    core_flops: float | None


class FastestProduct:
    """Times a large square matrix product, with each library of torch that has it.

    Args:
        device: of the matrices.
        dtype: of the matrices.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._side = PEAK_SIDE[device.type]
        self._left, self._right = (torch.randn(self._side, self._side, device=device).to(dtype) for _ in range(2))
        self._products: list[Callable[[Tensor, Tensor], Tensor]] = [torch.matmul]
        if device.type == "cpu" and dtype == torch.float32 and HAS_ONEDNN:
            self._products.append(multiply)
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []

    @torch.no_grad()
    def time(self) -> None:
        """Times the product once with each library."""
        for product in self._products:
            started, cpu_started = time.perf_counter(), time.process_time()
            product(self._left, self._right)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._seconds.append(time.perf_counter() - started)
            self._cpu_seconds.append(time.process_time() - cpu_started)

    def peak(self) -> Peak:
        """Returns the rate of the fastest run."""
        flop = 2 * self._side**3
        core = flop / min(self._cpu_seconds) if self._device.type == "cpu" else None
        return Peak(flop / min(self._seconds), core)


WARM_UP = 1

OURS, WHOLE, THEIRS = "network", "network and its inputs", "transformers"


@dataclass
class Stepper:
    """A network with its training step, and the measurements of the step.

    Attributes:
        network: the network.
        loss: runs a forward pass and returns the loss.
        flop: FLOP of the matrix products of a step, forward and backward.
        seconds, cpu_seconds: of each step.
        peak_bytes: largest memory of all tensors during a step.
    """

    network: nn.Module
    loss: Callable[[], Tensor]
    flop: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.optimizer = adamw(self.network, TrainingSettings())
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-5
        self.guard = StepGuard(self.optimizer, next(self.network.parameters()).device)

    def step(self) -> None:
        """Runs a step as the training loop does."""
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self.network, 1.0)
        self.guard.watch(StepRecord(0, {"loss": loss.detach()}, norm, 1e-5, []))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def count(self) -> None:
        """Counts the FLOP; must be called before compiling or checkpointing."""
        _, self.flop = count_training_flops(self.loss)
        self.optimizer.zero_grad(set_to_none=True)

    def time(self, device: torch.device) -> None:
        """Measures one step, by wall time and by CPU time, which other processes do not change."""
        started, cpu_started = time.perf_counter(), time.process_time()
        self.step()
        _wait(device)
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - cpu_started)

    def figures(self, clips: int, peak: Peak) -> dict[str, Any]:
        """Returns the figures of the step."""
        seconds, cpu_seconds = statistics.median(self.seconds), statistics.median(self.cpu_seconds)
        # On a CPU by CPU time: other work slows down the step and the product, but not at the same moments.
        share = (
            self.flop / seconds / peak.flops if peak.core_flops is None else self.flop / cpu_seconds / peak.core_flops
        )
        return {
            "seconds": seconds,
            "clips_per_second": clips / seconds,
            "teraflop": self.flop / 1e12,
            "share_of_peak": share,
            "bound_seconds": share * seconds,
            "cpu_seconds": cpu_seconds,
            "peak_gigabytes": self.peak_bytes / 1e9,
            "weights": sum(parameter.numel() for parameter in self.network.parameters()),
        }


def bench_step(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Measures the step of CMMixer, with and without its inputs, and that of transformers.

    Raises:
        SettingsError: the device does not exist.
    """
    device = select_device(settings.device)
    torch.manual_seed(settings.seed)
    if device.type == "cpu":
        keep_freed_memory()  # as the training loop does, for both
    model, clip = preset(settings.preset).model, _clip(settings.preset)
    half = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed")
    whole, ours = _ours(settings, model, clip, device, half)
    steppers = {OURS: ours, WHOLE: whole, THEIRS: _theirs(settings, model, clip, device, half)}
    for stepper in steppers.values():
        stepper.count()
    speed_up(ours.network, compiled=settings.compile, recompute=settings.grad_checkpointing)
    progress.start(WARM_UP + settings.rounds, f"steps of {settings.batch_size} clips, preset {settings.preset}")
    for _ in range(WARM_UP):
        for stepper in steppers.values():
            stepper.step()
        progress.advance()
    product = FastestProduct(device, torch.bfloat16 if settings.precision == "bf16-mixed" else torch.float32)
    for _ in range(settings.rounds):
        for stepper in steppers.values():
            stepper.time(device)
            product.time()
        progress.advance()
    for stepper in steppers.values():
        stepper.peak_bytes = _peak_bytes(stepper, device)
    return _report(settings, clip, model, steppers, product.peak())


def _clip(name: str) -> ClipSettings:
    return PretrainSettings(data="synthetic", preset=name).clip_settings(name)


def _ours(
    settings: BenchSettings, model: ModelSettings, clip: ClipSettings, device: torch.device, half: torch.autocast
) -> tuple[Stepper, Stepper]:
    """Builds two steps of one network: from decoded media, as in the training loop, and of the network alone."""
    metadata = Metadata(
        kind="mae",
        model=model,
        clip=clip,
        statistics=Statistics((0.5, 0.5, 0.5), (0.3, 0.3, 0.3), -40.0, 20.0, clips=1),
        options={},
        settings={},
    )
    task = PretrainTask(
        metadata, PretrainSettings(data="synthetic", preset=settings.preset, mask_ratio=settings.mask_ratio)
    )
    network = task.network.to(device).train()
    count = settings.batch_size
    batch = Batch(
        [str(number) for number in range(count)],
        [None] * count,
        torch.randint(0, 256, (count, clip.frames, 3, clip.height, clip.width), dtype=torch.uint8, device=device),
        torch.randint(-3000, 3000, (count, clip.frames, clip.window_samples), dtype=torch.int16, device=device),
    )
    rng = rng_for_step(settings.seed, 0, device=device, rank=0, world=1, batch_size=count)
    video, audio = (images.detach() for images in task.inputs(batch, rng))
    drawn = {"mask_ratio": settings.mask_ratio, "noise_BL": task.draw_noise(rng)}
    mixing_mask = task.draw_mixing_mask(rng)

    def network_alone() -> Tensor:
        with half:
            loss: Tensor = network(video, audio, mixing_mask, **drawn).loss
        return loss

    def from_media() -> Tensor:
        with half:
            return task.losses(network, batch, rng)["loss"]

    return Stepper(network, from_media), Stepper(network, network_alone)


def _theirs(
    settings: BenchSettings, model: ModelSettings, clip: ClipSettings, device: torch.device, half: torch.autocast
) -> Stepper:
    tokens = strip_grid(clip.height, clip.width, clip.frames, model.patch).tokens
    # Its images are square; four frames of H x H have as many tokens as one image of 2 H x 2 H.
    side = model.patch * math.isqrt(tokens)
    network = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=model.dim,
            num_hidden_layers=model.depth,
            num_attention_heads=model.heads,
            intermediate_size=MLP_RATIO * model.dim,
            decoder_hidden_size=model.decoder_dim,
            decoder_num_hidden_layers=model.decoder_depth,
            decoder_num_attention_heads=model.decoder_heads,
            decoder_intermediate_size=MLP_RATIO * model.decoder_dim,
            image_size=side,
            patch_size=model.patch,
            mask_ratio=settings.mask_ratio,
        )
    )
    for module in network.modules():
        # Its fixed positions are parameters without gradients, which the memory tracker does not support.
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.data)
    network = network.to(device).train()
    frames_BCHW = torch.randn(settings.batch_size, 3, side, side, device=device)
    noise_BL = torch.rand(settings.batch_size, tokens, device=device)

    def loss() -> Tensor:
        with half:
            value: Tensor = network(frames_BCHW, noise=noise_BL).loss
        return value

    return Stepper(network, loss)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(stepper: Stepper, device: torch.device) -> int:
    """Measures the largest memory of all tensors during a step: weights, moments, gradients, activations."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        others = torch.cuda.memory_allocated(device)
        stepper.step()
        own = sum(
            tensor.numel() * tensor.element_size()
            for tensor in [*stepper.network.parameters(), *_moments(stepper.optimizer)]
        )
        return torch.cuda.max_memory_allocated(device) - others + own
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    tracker.track_external(stepper.network, stepper.optimizer)
    # A compiled step cannot be tracked op by op.
    with torch.compiler.set_stance("force_eager"), tracker:
        stepper.step()
    return int(tracker.get_tracker_snapshot("peak")[device]["Total"])


def _moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]


def _report(
    settings: BenchSettings,
    clip: ClipSettings,
    model: ModelSettings,
    steppers: dict[str, Stepper],
    peak: Peak,
) -> BenchReport:
    ours, theirs = steppers[OURS], steppers[THEIRS]
    ratios = sorted(other / own for own, other in zip(ours.seconds, theirs.seconds, strict=True))
    tokens = strip_grid(clip.height, clip.width, clip.frames, model.patch).tokens
    steps = {name: stepper.figures(settings.batch_size, peak) for name, stepper in steppers.items()}
    figures = {
        "preset": settings.preset,
        "tokens": tokens,
        "mask_ratio": settings.mask_ratio,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "compiled": settings.compile,
        "threads": torch.get_num_threads(),
        "matmul_peak_teraflops": peak.flops / 1e12,
        "matmul_peak_teraflops_per_core": None if peak.core_flops is None else peak.core_flops / 1e12,
        "steps": steps,
        "times_transformers": statistics.median(ratios),
        "times_transformers_range": [ratios[0], ratios[-1]],
        "times_transformers_cpu": steps[THEIRS]["cpu_seconds"] / steps[OURS]["cpu_seconds"],
    }
    rows = [
        [
            name,
            f"{row['clips_per_second']:.2f}",
            f"{row['teraflop']:.3f}",
            f"{row['share_of_peak']:.0%}",
            f"{settings.batch_size / row['bound_seconds']:.2f}",
            f"{row['peak_gigabytes']:.2f}",
        ]
        for name, row in steps.items()
    ]
    mode = f"{settings.precision}{', compiled' if settings.compile else ''}"
    title = (
        f"{settings.preset}, {tokens} tokens, {settings.batch_size} clips, {mode}: {figures['times_transformers']:.2f}x the step of "
        f"transformers [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    )
    header = ["", "clips/s", "TFLOP per step", "of matmul peak", "clips/s at that peak", "peak GB"]
    return BenchReport(figures, title, header, rows)
