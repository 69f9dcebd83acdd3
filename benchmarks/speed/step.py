"""A pre-training step, beside that of transformers' `ViTMAEForPreTraining` with the same tokens and width.

Both take the same optimiser, clip their gradients alike and run in turn in one process, so that whatever else the machine does
meets both. The floor is arithmetic: the step's matrix products, counted, at the rate of the machine's own best matrix product
in the same precision, measured in the same rounds.

Letters: B clips, T frames, C channels, H x W pixels, L tokens.

The machine's own best matrix product: what no network, made of products, can be faster than.
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
from benchmarks.speed.flops import counted
from benchmarks.speed.settings import BenchSettings
from cmmixer.checkpoint import Card
from cmmixer.config import ClipSettings, PretrainSettings, preset
from cmmixer.config.clip import ModelSettings
from cmmixer.config.training import TrainingSettings
from cmmixer.models.onednn import HAS_ONEDNN, multiply
from cmmixer.models.patches import strip_grid
from cmmixer.models.vit import MLP_RATIO, speed_up
from cmmixer.progress import Progress
from cmmixer.runtime import device_named, keep_freed_memory
from cmmixer.train.inputs import chance_of_step
from cmmixer.train.optim import Attempt, StepGuard, adamw, clip_gradients
from cmmixer.train.pretrain import PretrainTask
from cmmixer.types import Batch, Statistics

# A side at which the machine's matrix products are at their best and still take well under a second.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}


class Peak(NamedTuple):
    """Floating-point operations a second of the machine's best matrix product: by the clock, and of a processor's core."""

    flops: float
    core_flops: float | None


class BestProduct:
    """A large square product, timed as often as is asked, by each of torch's libraries that has it.

    Args:
        device: where it is multiplied.
        kind: of the numbers.
    """

    def __init__(self, device: torch.device, kind: torch.dtype) -> None:
        self._device = device
        self._side = PEAK_SIDE[device.type]
        self._left, self._right = (torch.randn(self._side, self._side, device=device).to(kind) for _ in range(2))
        self._ways: list[Callable[[Tensor, Tensor], Tensor]] = [torch.matmul]
        if device.type == "cpu" and kind == torch.float32 and HAS_ONEDNN:
            self._ways.append(multiply)
        self._seconds: list[float] = []
        self._processor_seconds: list[float] = []

    @torch.no_grad()
    def time(self) -> None:
        """Once more."""
        for way in self._ways:
            begun, used = time.perf_counter(), time.process_time()
            way(self._left, self._right)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._seconds.append(time.perf_counter() - begun)
            self._processor_seconds.append(time.process_time() - used)

    def peak(self) -> Peak:
        """Of the fastest."""
        flop = 2 * self._side**3
        core = flop / min(self._processor_seconds) if self._device.type == "cpu" else None
        return Peak(flop / min(self._seconds), core)


WARM_UP = 1

OURS, WHOLE, THEIRS = "network", "network and its inputs", "transformers"


@dataclass
class Stepper:
    """One way of making a step.

    Attributes:
        network: what is trained.
        loss: one forward pass.
        flop: floating-point operations of a step's matrix products, forward and backward.
        seconds, processor_seconds: of each step.
        peak_bytes: of all tensors at the fullest moment of a step.
    """

    network: nn.Module
    loss: Callable[[], Tensor]
    flop: int = 0
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.optimizer = adamw(self.network, TrainingSettings())
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-5
        self.guard = StepGuard(self.optimizer, next(self.network.parameters()).device)

    def step(self) -> None:
        """As the training loop does it."""
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self.network, 1.0)
        self.guard.watch(Attempt(0, {"loss": loss.detach()}, norm, 1e-5, []))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def count(self) -> None:
        """Counts the arithmetic; before anything is compiled or computed twice."""
        _, self.flop = counted(self.loss)
        self.optimizer.zero_grad(set_to_none=True)

    def time(self, device: torch.device) -> None:
        """One step, by the clock and by the processor's time, which other processes take nothing from."""
        begun, used = time.perf_counter(), time.process_time()
        self.step()
        _wait(device)
        self.seconds.append(time.perf_counter() - begun)
        self.processor_seconds.append(time.process_time() - used)

    def figures(self, clips: int, peak: Peak) -> dict[str, Any]:
        """What is told of it."""
        seconds, used = statistics.median(self.seconds), statistics.median(self.processor_seconds)
        # On a processor by its time: a busy machine takes as much from the step as from the product, but not at once.
        share = self.flop / seconds / peak.flops if peak.core_flops is None else self.flop / used / peak.core_flops
        return {
            "seconds": seconds,
            "clips_per_second": clips / seconds,
            "teraflop": self.flop / 1e12,
            "share_of_peak": share,
            "floor_seconds": share * seconds,
            "processor_seconds": used,
            "peak_gigabytes": self.peak_bytes / 1e9,
            "weights": sum(parameter.numel() for parameter in self.network.parameters()),
        }


def bench_step(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Times our step, with and without its inputs, and the other one's.

    Raises:
        SettingsError: a device that is not there.
    """
    device = device_named(settings.device)
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
    product = BestProduct(device, torch.bfloat16 if settings.precision == "bf16-mixed" else torch.float32)
    for _ in range(settings.rounds):
        for stepper in steppers.values():
            stepper.time(device)
            product.time()
        progress.advance()
    for stepper in steppers.values():
        stepper.peak_bytes = _peak_bytes(stepper, device)
    return _report(settings, clip, model, steppers, product.peak())


def _clip(name: str) -> ClipSettings:
    return PretrainSettings(data="made", preset=name).clip_settings(name)


def _ours(
    settings: BenchSettings, model: ModelSettings, clip: ClipSettings, device: torch.device, half: torch.autocast
) -> tuple[Stepper, Stepper]:
    """The whole step of the training loop from decoded media on, and the network's alone, of one network."""
    card = Card(
        kind="mae",
        model=model,
        clip=clip,
        statistics=Statistics((0.5, 0.5, 0.5), (0.3, 0.3, 0.3), -40.0, 20.0, clips=1),
        options={},
        settings={},
    )
    task = PretrainTask(card, PretrainSettings(data="made", preset=settings.preset, mask_ratio=settings.mask_ratio))
    network = task.network.to(device).train()
    count = settings.batch_size
    batch = Batch(
        [str(number) for number in range(count)],
        [None] * count,
        torch.randint(0, 256, (count, clip.frames, 3, clip.height, clip.width), dtype=torch.uint8, device=device),
        torch.randint(-3000, 3000, (count, clip.frames, clip.window_samples), dtype=torch.int16, device=device),
    )
    chance = chance_of_step(settings.seed, 0, device=device, rank=0, world=1, batch_size=count)
    video, audio = (pictures.detach() for pictures in task.inputs(batch, chance))
    drawn = {"mask_ratio": settings.mask_ratio, "noise_BL": task.noise(chance)}
    share = task.share(chance)

    def network_alone() -> Tensor:
        with half:
            loss: Tensor = network(video, audio, share, **drawn).loss
        return loss

    def from_media() -> Tensor:
        with half:
            return task.losses(network, batch, chance)["loss"]

    return Stepper(network, from_media), Stepper(network, network_alone)


def _theirs(
    settings: BenchSettings, model: ModelSettings, clip: ClipSettings, device: torch.device, half: torch.autocast
) -> Stepper:
    tokens = strip_grid(clip.height, clip.width, clip.frames, model.patch).tokens
    # Its pictures are square; four frames of H x H make as many tokens as one of 2 H x 2 H.
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
        # Its fixed positions are parameters without gradients, which the counting of memory does not know.
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.data)
    network = network.to(device).train()
    pictures_BCHW = torch.randn(settings.batch_size, 3, side, side, device=device)
    noise_BL = torch.rand(settings.batch_size, tokens, device=device)

    def loss() -> Tensor:
        with half:
            value: Tensor = network(pictures_BCHW, noise=noise_BL).loss
        return value

    return Stepper(network, loss)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(stepper: Stepper, device: torch.device) -> int:
    """Bytes of all tensors at the fullest moment of a step: weights, moments, gradients, activations."""
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
    # A compiled step cannot be watched op by op.
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
    told = {name: stepper.figures(settings.batch_size, peak) for name, stepper in steppers.items()}
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
        "steps": told,
        "times_transformers": statistics.median(ratios),
        "times_transformers_range": [ratios[0], ratios[-1]],
        "times_transformers_processor": told[THEIRS]["processor_seconds"] / told[OURS]["processor_seconds"],
    }
    rows = [
        [
            name,
            f"{row['clips_per_second']:.2f}",
            f"{row['teraflop']:.3f}",
            f"{row['share_of_peak']:.0%}",
            f"{settings.batch_size / row['floor_seconds']:.2f}",
            f"{row['peak_gigabytes']:.2f}",
        ]
        for name, row in told.items()
    ]
    how = f"{settings.precision}{', compiled' if settings.compile else ''}"
    title = (
        f"{settings.preset}, {tokens} tokens, {settings.batch_size} clips, {how}: {figures['times_transformers']:.2f}x the step of "
        f"transformers [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    )
    header = ["", "clips/s", "TFLOP a step", "of matmul peak", "clips/s at that peak", "peak GB"]
    return BenchReport(figures, title, header, rows)
