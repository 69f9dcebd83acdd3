"""How fast are videos embedded end to end, next to decoding only, the model only, and the cores they share?

No pipeline can be faster than these upper bounds: the same decoder processes without a model; the model on batches that are ready in
memory; and, if both compute on the same cores, their CPU time divided evenly over the cores. All take turns. Decoder processes are
started beforehand, as in a long run. The network is untrained, which costs the same.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.bench import BenchReport
from benchmarks.speed.cpu_time import bench_videos
from benchmarks.speed.embed_runtimes import EAGER, compare_runtimes
from benchmarks.speed.settings import BenchSettings
from cmmixer import checkpoint
from cmmixer.config import ClipSettings, PretrainSettings, SegmentSettings, preset
from cmmixer.data.chunks import Chunk, DecodedChunk, DecodedSegment, decode_chunk, decode_chunks
from cmmixer.data.manifest import Entry, read_layout
from cmmixer.data.segments import SegmentSpec
from cmmixer.embedding.pipeline import embed_batch, embed_moments
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import DataError, MediaError
from cmmixer.media.sandbox import SandboxPool
from cmmixer.progress import Progress
from cmmixer.runtime import select_device
from cmmixer.types import Statistics

WHOLE, DECODING, MODEL = "end to end", "decoding only", "model only"
_EMBED_DIM = 256


@dataclass
class _Part:
    """One kind of work, and the seconds of each turn."""

    work: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Runs one turn; the CPU time is that of this process only, without the decoders."""
        started, cpu_started = time.perf_counter(), time.process_time()
        self.work()
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - cpu_started)


def bench_embed(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Embeds videos, only decodes them, and only runs the model, in turns; then compares ways to run the model.

    Raises:
        DataError: no video gives a moment.
        SettingsError: the device does not exist.
    """
    device = select_device(settings.device)
    with tempfile.TemporaryDirectory(prefix="cmmixer-bench-") as folder:
        work = Path(folder)
        entries = read_layout(bench_videos(settings, work / "videos", progress)).entries
        run = _write_untrained(settings, work / "run")
        encoder = load_encoder(run, settings.device, settings.precision)
        stride = SegmentSettings().complete(encoder.clip).stride_seconds
        assert stride is not None
        spec = SegmentSpec(encoder.clip, stride)
        with closing(SandboxPool(decode_chunk, workers=settings.workers)) as pool:
            progress.start(None, "decoding once to start the decoders")
            media, used = _decode_all(entries, spec, pool)
            decoding_cpu = _decoding_cpu_seconds(used, spec)
            size = settings.batch_size
            batches = [media[start : start + size] for start in range(0, len(media), size)]

            def whole() -> None:
                for _ in embed_moments(used, encoder, batch_size=size, pool=pool):
                    pass

            def decoding() -> None:
                for _ in decode_chunks(used, spec, pool=pool):
                    pass

            def model() -> None:
                for batch in batches:
                    embed_batch(batch, encoder)

            parts = {WHOLE: _Part(whole), DECODING: _Part(decoding), MODEL: _Part(model)}
            progress.start(settings.rounds + 1, f"embedding {len(used)} videos, preset {settings.preset}")
            model()
            progress.advance()
            for _ in range(settings.rounds):
                for part in parts.values():
                    part.turn()
                progress.advance()
            workers = pool.workers
        progress.start(None, "running the model in other ways")
        batch = _one_batch(media, settings.batch_size)
        runtimes = compare_runtimes(run, device, batch, rounds=settings.rounds, compile_too=settings.compile, work=work)
    figures = {
        "preset": settings.preset,
        "frames": encoder.clip.frames,
        "height": encoder.clip.height,
        "width": encoder.clip.width,
        "precision": settings.precision,
        "batch_size": settings.batch_size,
        "workers": workers,
        "threads": torch.get_num_threads(),
        "synthetic": settings.videos is None,
        "videos": len(used),
        "moments": len(media),
        **_pipeline(parts, decoding_cpu, len(used), device),
        **runtimes,
        "load_average": os.getloadavg()[0],
    }
    return BenchReport(figures, title(figures), HEADER, table_rows(figures))


def _write_untrained(settings: BenchSettings, folder: Path) -> Path:
    """Writes an untrained retriever as the folder of a run, so that it is loaded like any run."""
    torch.manual_seed(settings.seed)
    metadata = checkpoint.Metadata(
        kind="retriever",
        model=preset(settings.preset).model,
        clip=_clip(settings.preset),
        statistics=Statistics((0.5, 0.5, 0.5), (0.3, 0.3, 0.3), -40.0, 20.0, clips=1),
        options={"embed_dim": _EMBED_DIM},
        settings={},
    )
    checkpoint.save(folder, metadata, checkpoint.build(metadata).state_dict(), keep=1)
    return folder


def _clip(name: str) -> ClipSettings:
    return PretrainSettings(data="synthetic", preset=name).clip_settings(name)


def _decode_all(
    entries: Sequence[Entry], spec: SegmentSpec, pool: SandboxPool
) -> tuple[list[DecodedSegment], list[Entry]]:
    """Decodes all moments into memory, and returns them with the entries that have some.

    Raises:
        DataError: there are none.
    """
    media: list[DecodedSegment] = []
    used: dict[int, Entry] = {}
    for chunk, result in decode_chunks(entries, spec, pool=pool):
        if isinstance(result, DecodedChunk):
            media += result.segments()
            used[chunk.number] = chunk.entry
    if not media:
        raise DataError("benchmarks.speed embed: no video gives a moment; give --videos that can be decoded")
    return media, [used[number] for number in sorted(used)]


def _decoding_cpu_seconds(entries: Sequence[Entry], spec: SegmentSpec) -> float:
    """Measures the CPU time of decoding: decodes each entry again, in this process."""
    started = time.process_time()
    for number, entry in enumerate(entries):
        firsts = [0]
        while firsts:
            try:
                firsts += decode_chunk(Chunk(number, entry, firsts.pop(0)), spec).remaining
            except MediaError:  # a later chunk, where the video is damaged
                continue
    return time.process_time() - started


def _one_batch(media: Sequence[DecodedSegment], count: int) -> dict[str, Tensor]:
    """Returns a batch of each modality that exists."""
    video = [moment.pixels_TCHW for moment in media if moment.pixels_TCHW is not None]
    audio = [moment.samples_TN for moment in media if moment.samples_TN is not None]
    by_modality: dict[str, list[Any]] = {"video": video[:count], "audio": audio[:count]}
    return {modality: torch.from_numpy(np.stack(values)) for modality, values in by_modality.items() if values}


def _pipeline(parts: dict[str, _Part], decoding_cpu: float, videos: int, device: torch.device) -> dict[str, Any]:
    """Computes rates and upper bounds; ratios are the medians over the turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    model_cpu = statistics.median(parts[MODEL].cpu_seconds)
    transfer_cpu = statistics.median(parts[DECODING].cpu_seconds)
    # The work of a GPU does not slow down the decoders.
    shared_cpu = decoding_cpu + (model_cpu if device.type == "cpu" else 0.0)
    turns = list(zip(*(parts[name].seconds for name in (WHOLE, DECODING, MODEL)), strict=True))
    efficiency = [max(decoding, model) / whole for whole, decoding, model in turns]
    of_bound = [max(decoding, model, shared_cpu / cores) / whole for whole, decoding, model in turns]
    return {
        "parts": {
            name: {
                "seconds": statistics.median(part.seconds),
                "videos_per_second": videos / statistics.median(part.seconds),
                "range_videos_per_second": [videos / max(part.seconds), videos / min(part.seconds)],
            }
            for name, part in parts.items()
        },
        "cpu_seconds_per_video": {
            "decoding": decoding_cpu / videos,
            "transfer": transfer_cpu / videos,
            "model": model_cpu / videos,
        },
        "decode_share": decoding_cpu / (decoding_cpu + model_cpu),
        "shared_cores_videos_per_second": videos * cores / shared_cpu,
        "overlap_efficiency": statistics.median(efficiency),
        "share_of_bound": statistics.median(of_bound),
        "times_one_after_the_other": statistics.median((decoding + model) / whole for whole, decoding, model in turns),
    }


HEADER = ["", "videos/s", "ms per video moment", "per audio moment", "times torch, video", "audio", "max difference"]


def title(figures: dict[str, Any]) -> str:
    """Summarizes the figures in one line."""
    return (
        f"{figures['preset']}, {figures['videos']} videos, {figures['moments']} moments, {figures['workers']} decoders: "
        f"{figures['parts'][WHOLE]['videos_per_second']:.2f} videos/s, {figures['decode_share']:.0%} of the CPU time is decoding, "
        f"{figures['share_of_bound']:.0%} of the upper bound"
    )


def table_rows(figures: dict[str, Any]) -> list[list[str]]:
    """Returns the rows of the pipeline and its upper bounds, then those of the runtimes, by CPU time."""
    rows = [[name, f"{part['videos_per_second']:.2f}", *[""] * 5] for name, part in figures["parts"].items()]
    rows.append(["cores shared evenly", f"{figures['shared_cores_videos_per_second']:.2f}", *[""] * 5])
    for name, runtime in figures["runtimes"].items():
        modalities = [runtime.get(modality) for modality in ("video", "audio")]
        rows.append(
            [
                f"model with {name}",
                "",
                *("" if it is None else f"{1000 * it['cpu_seconds_per_moment']:.2f}" for it in modalities),
                *("" if it is None else f"{it['times_eager_cpu']:.2f}" for it in modalities),
                "" if name == EAGER else f"{max(it['most_difference'] for it in modalities if it is not None):.0e}",
            ]
        )
    return rows
