"""`cmmixer bench data`: how fast clips come from a clip store and from films, beside the decoding of their pictures alone.

The ceiling (`benchmarks.speed.data_ceiling`) is the rate at which as many processes decode the store's own JPEGs, with the function that
the loader calls: no clip can come faster than its pictures are decoded. The loaders are those of training, with worker processes,
epochs in their seeded order, the store read through the system's cache. All take turns. `prepare` runs in turn with FFmpeg's own
command, as many of them at once as it has processes.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.bench import BenchReport
from benchmarks.speed.cpu_time import ProcessorTime, bench_films
from benchmarks.speed.data_ceiling import ceilings, timed_ffmpeg, timed_prepare
from benchmarks.speed.settings import BenchSettings
from cmmixer.config import ClipSettings, PrepareSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import ClipDataset, FilmClips, StoreClips, open_clips
from cmmixer.data.loader import ClipBatches
from cmmixer.data.store import ClipStore
from cmmixer.media.sandbox import worker_count
from cmmixer.progress import Progress
from cmmixer.storage.files import temporary_folder

JPEG, BYTES, STORE, FILMS = "jpeg", "jpeg_and_sound", "store", "films"
NAMES = {
    JPEG: "JPEG decoding alone",
    BYTES: "and the sound's bytes read once",
    STORE: "from the clip store",
    FILMS: "from films",
}
_PREPARE_ROUNDS = 3


@dataclass
class Reader:
    """One kind of reading.

    Attributes:
        clips_per_second, clips_per_processor_second: of each turn.
    """

    clips_per_second: list[float] = field(default_factory=list)
    clips_per_processor_second: list[float] = field(default_factory=list)

    def turn(self, read: Callable[[], int]) -> None:
        """Measures what reads once and says how many clips."""
        with ProcessorTime(all_stay=True) as processor:
            begun = time.perf_counter()
            clips = read()
            seconds = time.perf_counter() - begun
        self.clips_per_second.append(clips / seconds)
        self.clips_per_processor_second.append(clips / processor.seconds)

    def figures(self) -> dict[str, Any]:
        """Medians over the turns, and their range."""
        return {
            "clips_per_second": statistics.median(self.clips_per_second),
            "clips_per_second_range": [min(self.clips_per_second), max(self.clips_per_second)],
            "clips_per_processor_second": statistics.median(self.clips_per_processor_second),
        }


def bench_data(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Prepares films beside FFmpeg, then reads them, their store and its JPEGs in turns.

    Raises:
        SettingsError: a system without /proc.
        DataError: no film that gives a clip, or the disk is full.
    """
    workers = worker_count(settings.workers)
    clip = PrepareSettings(data="films", out="store", preset=settings.preset).clip_settings(settings.preset)
    with ExitStack() as stack:
        work = stack.enter_context(temporary_folder("cmmixer-bench-"))
        films = bench_films(settings, work / "films", progress)
        # First, so that its decoder processes start as those of the command do.
        prepared = _prepared(settings, films, clip, workers, work, progress)
        store = StoreClips(ClipStore.open(work / "store"))
        direct = open_clips(DataSettings(data=films), clip, workers=workers)
        assert isinstance(direct, FilmClips)
        readers = {name: Reader() for name in NAMES}
        progress.start(settings.rounds, "reading in turns")
        for _ in range(settings.rounds):
            _round(readers, store, direct, settings, workers, work)
            progress.advance()
        figures = {
            "preset": settings.preset,
            "frames": clip.frames,
            "height": clip.height,
            "width": clip.width,
            "sound_bytes_per_clip": 2 * clip.frames * clip.window_samples,
            "batch_size": settings.batch_size,
            "workers": workers,
            "films_made": settings.films is None,
            "store": _store_size(work / "store", len(store)),
            "prepare": prepared,
            "reading": {name: reader.figures() for name, reader in readers.items()},
            **_ratios(readers),
            "load_average": os.getloadavg()[0],
        }
    return BenchReport(figures, title(figures), HEADER, table_rows(figures))


# ------------------------------------------------------------------------------------------------------------ preparing


def _prepared(
    settings: BenchSettings, films: str, clip: ClipSettings, workers: int, work: Path, progress: Progress
) -> dict[str, Any]:
    """`prepare` and FFmpeg in turn; the store stays."""
    wanted = PrepareSettings(
        data=films, out=str(work / "store"), preset=settings.preset, workers=workers, overwrite=True
    )
    rounds = min(settings.rounds, _PREPARE_ROUNDS)
    progress.start(rounds, "preparing, and FFmpeg in turn")
    timed_prepare(wanted)  # the films come into memory
    refs = [ref for ref in _used(films, clip, workers) if ref.id in set(ClipStore.open(work / "store").ids)]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed_prepare(wanted))
        theirs.append(timed_ffmpeg(refs, clip, workers, work / "ffmpeg"))
        progress.advance()
    count = len({ref.path for ref in refs})
    seconds, processor_seconds = (statistics.median(column) for column in zip(*ours, strict=True))
    told = {
        "films": count,
        "clips": len(refs),
        "film_seconds": sum(ref.span.duration_seconds for ref in refs),
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "films_per_second": count / seconds,
        "clips_per_processor_second": len(refs) / processor_seconds,
        "ffmpeg": None,
    }
    beside = [one for one in theirs if one is not None]
    if beside:
        told["ffmpeg"] = {
            "seconds": statistics.median(one[0] for one in beside),
            "processor_seconds": statistics.median(one[1] for one in beside),
        }
        told["times_ffmpeg"] = statistics.median(a[0] / b[0] for a, b in zip(ours, beside, strict=True))
        told["times_ffmpeg_processor"] = statistics.median(a[1] / b[1] for a, b in zip(ours, beside, strict=True))
    return told


def _used(films: str, clip: ClipSettings, workers: int) -> list[Any]:
    dataset = open_clips(DataSettings(data=films), clip, workers=workers)
    assert isinstance(dataset, FilmClips)
    return dataset.refs


# -------------------------------------------------------------------------------------------------------------- reading


def _round(
    readers: dict[str, Reader], store: StoreClips, direct: FilmClips, settings: BenchSettings, workers: int, work: Path
) -> None:
    """A turn of each, in processes of its own: where memory happens to lie, decoding takes a third longer in some than in others."""
    with ceilings(store, work, workers, settings.turn_seconds) as (jpeg, jpeg_and_sound):
        reads = {
            JPEG: jpeg,
            BYTES: jpeg_and_sound,
            STORE: _loader(store, settings, workers),
            FILMS: _loader(direct, settings, workers),
        }
        for read in reads.values():
            read()  # processes start, files come into memory
        for name, read in reads.items():
            readers[name].turn(read)


def _loader(dataset: ClipDataset, settings: BenchSettings, workers: int) -> Callable[[], int]:
    """Reads an epoch of about `turn_seconds` with the loader of training."""
    batch = settings.batch_size
    some = [number % len(dataset) for number in range(batch)]
    dataset.read(some)
    begun = time.perf_counter()
    dataset.read(some)
    one = (time.perf_counter() - begun) / batch
    steps = max(2 * workers, round(settings.turn_seconds * workers / one / batch))
    batches = ClipBatches(
        _over_and_over(dataset, steps * batch), batch_size=batch, seed=settings.seed, num_workers=workers
    )
    epochs = iter(range(1 << 30))

    def read() -> int:
        return sum(len(made) for made in batches.epoch(next(epochs)))

    return read


def _over_and_over(dataset: ClipDataset, count: int) -> ClipDataset:
    """The same clips, each listed as often as it takes to have `count` of them."""
    numbers = [number % len(dataset) for number in range(count)]
    if isinstance(dataset, FilmClips):
        return FilmClips([dataset.refs[number] for number in numbers], dataset.clip, file_seconds=dataset.file_seconds)
    assert isinstance(dataset, StoreClips)
    more = StoreClips(dataset.store)
    more.rows, more.ids, more.sources, more.labels = (
        [column[number] for number in numbers]
        for column in (dataset.rows, dataset.ids, dataset.sources, dataset.labels)
    )
    return more


def _store_size(folder: Path, clips: int) -> dict[str, float]:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"clips": clips, "bytes_per_clip": total / clips}


# ------------------------------------------------------------------------------------------------------------ the table


def _ratios(readers: dict[str, Reader]) -> dict[str, float]:
    """Of turns of the same round, by the clock and by processor time."""

    def median(one: str, other: str, name: str) -> float:
        pairs = zip(getattr(readers[one], name), getattr(readers[other], name), strict=True)
        return float(statistics.median(a / b for a, b in pairs))

    return {
        "store_share_of_ceiling": median(STORE, JPEG, "clips_per_second"),
        "store_share_of_ceiling_processor": median(STORE, JPEG, "clips_per_processor_second"),
        "store_share_of_ceiling_with_sound_processor": median(STORE, BYTES, "clips_per_processor_second"),
        "store_times_films": median(STORE, FILMS, "clips_per_second"),
        "store_times_films_processor": median(STORE, FILMS, "clips_per_processor_second"),
    }


HEADER = ["", "clips/s", "lowest", "highest", "clips a processor second"]


def table_rows(figures: dict[str, Any]) -> list[list[str]]:
    """Reading, a kind a row, the ceiling first; then preparing."""
    rows = []
    for name, row in figures["reading"].items():
        low, high = row["clips_per_second_range"]
        values = (row["clips_per_second"], low, high, row["clips_per_processor_second"])
        rows.append([NAMES[name], *(f"{value:.1f}" for value in values)])
    prepared = figures["prepare"]
    clips = prepared["clips"]
    for name, row in (("prepare", prepared), ("FFmpeg, the same seeks and scaling", prepared["ffmpeg"])):
        if row is None:
            rows.append([name, "not measured: ffmpeg is not installed", "", "", ""])
        else:
            rows.append([name, f"{clips / row['seconds']:.1f}", "", "", f"{clips / row['processor_seconds']:.1f}"])
    return rows


def title(figures: dict[str, Any]) -> str:
    """What the figures come to."""
    prepared = figures["prepare"]
    beside = f"; prepare takes {prepared['times_ffmpeg']:.2f}x as long as FFmpeg" if prepared["ffmpeg"] else ""
    return (
        f"{figures['preset']}, {figures['frames']} frames of {figures['height']} x {figures['width']}, {figures['workers']} processes: the store gives "
        f"{figures['store_share_of_ceiling']:.0%} of the ceiling ({figures['store_share_of_ceiling_processor']:.0%} by processor time), "
        f"{figures['store_times_films']:.1f}x reading films{beside}"
    )
