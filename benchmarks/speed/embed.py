"""`cmmixer bench embed`: films into vectors end to end, beside its floors: decoding alone, the model alone, and the cores they share.

The floors are what the pipeline cannot be faster than: the same decoder processes with nothing behind them; the model on batches
that are ready in memory; and, where both compute on the same cores, their processor time shared out evenly. All take turns. The
decoder processes are started beforehand, as those of a long run are. The network has learnt nothing, which costs the same.
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
from benchmarks.speed.cpu_time import bench_films
from benchmarks.speed.embed_runtimes import EAGER, compared
from benchmarks.speed.settings import BenchSettings
from cmmixer import checkpoint
from cmmixer.config import ClipSettings, CuttingSettings, PretrainSettings, preset
from cmmixer.data.manifest import Entry, read_layout
from cmmixer.data.moments import Cut, DecodedPiece, MomentMedia, Piece, decode_films, decode_piece
from cmmixer.embedding.pipeline import embed_batch, embed_moments
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import DataError, MediaError
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.progress import Progress
from cmmixer.runtime import device_named
from cmmixer.types import Statistics

WHOLE, DECODING, MODEL = "end to end", "decoding alone", "the model alone"
_EMBED_DIM = 256


@dataclass
class _Part:
    """One kind of work, and what each turn of it took."""

    work: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Works once; the processor's time is that of this process, without the decoders'."""
        begun, used = time.perf_counter(), time.process_time()
        self.work()
        self.seconds.append(time.perf_counter() - begun)
        self.processor_seconds.append(time.process_time() - used)


def bench_embed(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Embeds films, decodes them, embeds what is decoded, in turns; then asks the model in other ways.

    Raises:
        DataError: no film that gives a moment.
        SettingsError: a device that is not there.
    """
    device = device_named(settings.device)
    with tempfile.TemporaryDirectory(prefix="cmmixer-bench-") as folder:
        work = Path(folder)
        entries = read_layout(bench_films(settings, work / "films", progress)).entries
        run = _untrained(settings, work / "run")
        encoder = load_encoder(run, settings.device, settings.precision)
        stride = CuttingSettings().of(encoder.clip).stride_seconds
        assert stride is not None
        cut = Cut(encoder.clip, stride)
        with closing(IsolatedPool(decode_piece, workers=settings.workers)) as pool:
            progress.start(None, "decoding once, which also starts the decoders")
            media, used = _decoded(entries, cut, pool)
            decoding_processor = _processor_seconds(used, cut)
            size = settings.batch_size
            batches = [media[start : start + size] for start in range(0, len(media), size)]

            def whole() -> None:
                for _ in embed_moments(used, encoder, batch_size=size, pool=pool):
                    pass

            def decoding() -> None:
                for _ in decode_films(used, cut, pool=pool):
                    pass

            def model() -> None:
                for batch in batches:
                    embed_batch(batch, encoder)

            parts = {WHOLE: _Part(whole), DECODING: _Part(decoding), MODEL: _Part(model)}
            progress.start(settings.rounds + 1, f"embedding {len(used)} films, preset {settings.preset}")
            model()
            progress.advance()
            for _ in range(settings.rounds):
                for part in parts.values():
                    part.turn()
                progress.advance()
            workers = pool.workers
        progress.start(None, "asking the model in other ways")
        some = _some_media(media, settings.batch_size)
        runtimes = compared(run, device, some, rounds=settings.rounds, compile_too=settings.compile, work=work)
    figures = {
        "preset": settings.preset,
        "frames": encoder.clip.frames,
        "height": encoder.clip.height,
        "width": encoder.clip.width,
        "precision": settings.precision,
        "batch_size": settings.batch_size,
        "workers": workers,
        "threads": torch.get_num_threads(),
        "films_made": settings.films is None,
        "films": len(used),
        "moments": len(media),
        **_pipeline(parts, decoding_processor, len(used), device),
        **runtimes,
        "load_average": os.getloadavg()[0],
    }
    return BenchReport(figures, title(figures), HEADER, table_rows(figures))


def _untrained(settings: BenchSettings, folder: Path) -> Path:
    """A retriever as a run's folder, so that it is loaded as every run is."""
    torch.manual_seed(settings.seed)
    card = checkpoint.Card(
        kind="retriever",
        model=preset(settings.preset).model,
        clip=_clip(settings.preset),
        statistics=Statistics((0.5, 0.5, 0.5), (0.3, 0.3, 0.3), -40.0, 20.0, clips=1),
        options={"embed_dim": _EMBED_DIM},
        settings={},
    )
    checkpoint.save(folder, card, checkpoint.build(card).state_dict(), keep=1)
    return folder


def _clip(name: str) -> ClipSettings:
    return PretrainSettings(data="made", preset=name).clip_settings(name)


def _decoded(entries: Sequence[Entry], cut: Cut, pool: IsolatedPool) -> tuple[list[MomentMedia], list[Entry]]:
    """All moments, in memory, and the entries that gave some.

    Raises:
        DataError: none did.
    """
    media: list[MomentMedia] = []
    used: dict[int, Entry] = {}
    for piece, result in decode_films(entries, cut, pool=pool):
        if isinstance(result, DecodedPiece):
            media += result.media()
            used[piece.number] = piece.entry
    if not media:
        raise DataError("bench embed: no film gives a moment; give --films with some that can be decoded")
    return media, [used[number] for number in sorted(used)]


def _processor_seconds(entries: Sequence[Entry], cut: Cut) -> float:
    """What decoding costs a processor: each entry once more, in this process."""
    used = time.process_time()
    for number, entry in enumerate(entries):
        firsts = [0]
        while firsts:
            try:
                firsts += decode_piece(Piece(number, entry, firsts.pop(0)), cut).further
            except MediaError:  # a later piece of a film that is damaged there
                continue
    return time.process_time() - used


def _some_media(media: Sequence[MomentMedia], count: int) -> dict[str, Tensor]:
    """A batch of each sense that is there."""
    video = [moment.pixels_TCHW for moment in media if moment.pixels_TCHW is not None]
    audio = [moment.samples_TN for moment in media if moment.samples_TN is not None]
    both: dict[str, list[Any]] = {"video": video[:count], "audio": audio[:count]}
    return {sense: torch.from_numpy(np.stack(values)) for sense, values in both.items() if values}


def _pipeline(parts: dict[str, _Part], decoding_processor: float, films: int, device: torch.device) -> dict[str, Any]:
    """Rates, shares and floors; ratios are taken within each turn, and the median is told."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    model_processor = statistics.median(parts[MODEL].processor_seconds)
    handing_over = statistics.median(parts[DECODING].processor_seconds)
    # A GPU's work takes nothing from the decoders.
    together = decoding_processor + (model_processor if device.type == "cpu" else 0.0)
    turns = list(zip(*(parts[name].seconds for name in (WHOLE, DECODING, MODEL)), strict=True))
    efficiency = [max(decoding, model) / whole for whole, decoding, model in turns]
    of_floor = [max(decoding, model, together / cores) / whole for whole, decoding, model in turns]
    return {
        "parts": {
            name: {
                "seconds": statistics.median(part.seconds),
                "films_per_second": films / statistics.median(part.seconds),
                "range_films_per_second": [films / max(part.seconds), films / min(part.seconds)],
            }
            for name, part in parts.items()
        },
        "processor_seconds_per_film": {
            "decoding": decoding_processor / films,
            "handing over": handing_over / films,
            "model": model_processor / films,
        },
        "decode_share": decoding_processor / (decoding_processor + model_processor),
        "shared_cores_films_per_second": films * cores / together,
        "overlap_efficiency": statistics.median(efficiency),
        "share_of_floor": statistics.median(of_floor),
        "times_one_after_the_other": statistics.median((decoding + model) / whole for whole, decoding, model in turns),
    }


HEADER = ["", "films/s", "ms a moment, picture", "sound", "times torch, picture", "sound", "differs by"]


def title(figures: dict[str, Any]) -> str:
    """One line."""
    return (
        f"{figures['preset']}, {figures['films']} films, {figures['moments']} moments, {figures['workers']} decoders: "
        f"{figures['parts'][WHOLE]['films_per_second']:.2f} films/s, {figures['decode_share']:.0%} of the processor's time is decoding, "
        f"{figures['share_of_floor']:.0%} of the floor"
    )


def table_rows(figures: dict[str, Any]) -> list[list[str]]:
    """The pipeline and its floors, then the ways to ask the model, by the processor's time."""
    rows = [[name, f"{part['films_per_second']:.2f}", *[""] * 5] for name, part in figures["parts"].items()]
    rows.append(["cores shared evenly", f"{figures['shared_cores_films_per_second']:.2f}", *[""] * 5])
    for name, told in figures["runtimes"].items():
        senses = [told.get(sense) for sense in ("video", "audio")]
        rows.append(
            [
                f"model by {name}",
                "",
                *("" if it is None else f"{1000 * it['processor_seconds_per_moment']:.2f}" for it in senses),
                *("" if it is None else f"{it['times_eager_processor']:.2f}" for it in senses),
                "" if name == EAGER else f"{max(it['most_difference'] for it in senses if it is not None):.0e}",
            ]
        )
    return rows
