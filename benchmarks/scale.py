"""Writes the section "To a billion clips" of docs/scale.md: arithmetic on the stored figures of one machine.

    python -m benchmarks.scale

All numbers are derived from `benchmarks/results/`. Assumptions are in `Assumptions` and in the section.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search_scale import START

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results", ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- figures: arithmetic -->", "<!-- end of arithmetic -->"
SIZES = (10**6, 10**8, 10**9)
HOUR_SECONDS, DAY_SECONDS = 3600.0, 86400.0
Figures = dict[str, Any]


@dataclass(frozen=True)
class Assumptions:
    """What was not measured.

    Attributes:
        machine_cores: cores of a machine, each as fast as a measured one.
        days: time in which the machines have to finish.
        gpu_teraflops: dense bfloat16 TFLOP/s of a GPU by its data sheet (H100 SXM).
        gpu_utilization: fraction of that in model FLOP; a target, not measured.
        epochs: of pre-training.
        part_rows: moments of a part of the index, as many as measured.
    """

    machine_cores: int = 64
    days: float = 7.0
    gpu_teraflops: float = 989.0
    gpu_utilization: float = 0.45
    epochs: int = 10
    part_rows: int = 10**6


@dataclass(frozen=True)
class Measured:
    """Cost of one clip or moment.

    Attributes:
        prepare_core_seconds: to decode a clip into the store.
        store_bytes: of a clip in the store.
        read_core_seconds: to load a clip from the store into a batch.
        step_core_seconds: of a training step on a CPU, per clip.
        step_teraflop: of a training step, per clip.
        embed_core_seconds: of a moment, from video to vectors; None if not measured.
        row_bytes: of a moment in the index.
        hot_bytes: the part of `row_bytes` that queries scan, which should be in memory.
        build_core_seconds: to build the index, per moment.
        query_core_seconds: of a query, per moment of the library.
        query_bytes: read by a query, per moment of the library.
    """

    prepare_core_seconds: float
    store_bytes: float
    read_core_seconds: float
    step_core_seconds: float
    step_teraflop: float
    embed_core_seconds: float | None
    row_bytes: float
    hot_bytes: float
    build_core_seconds: float
    query_core_seconds: float
    query_bytes: float

    @classmethod
    def of(cls, data: Figures, step: Figures, search: Figures, embed: Figures | None) -> Measured:
        """Derives the costs from the stored figures."""
        prepared, rows = data["prepare"], search["rows"]
        ours = step["steps"]["network and its inputs"]
        engine = next(row for row in search["engines"] if row["name"] == f"cmmixer, {search['ann_settings']['kind']}")
        embedded = None
        if embed is not None:
            per_video = embed["cpu_seconds_per_video"]
            embedded = (per_video["decoding"] + per_video["model"]) * embed["videos"] / embed["moments"]
        return cls(
            prepare_core_seconds=prepared["cpu_seconds"] / prepared["clips"],
            store_bytes=data["store"]["bytes_per_clip"],
            read_core_seconds=1 / data["reading"]["store"]["clips_per_cpu_second"],
            step_core_seconds=ours["cpu_seconds"] / step["batch_size"],
            step_teraflop=ours["teraflop"] / step["batch_size"],
            embed_core_seconds=embedded,
            row_bytes=engine["bytes_per_row"],
            hot_bytes=search["ann_settings"]["bytes_per_row"],
            build_core_seconds=60 * engine["build_minutes"] * search["machine"]["cores"] / rows,
            query_core_seconds=engine["p50_ms"] / 1000 * search["machine"]["cores"] / rows,
            query_bytes=engine["bound_ms"] / 1000 * search["machine_rates"]["bytes_per_second"] / rows,
        )


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: of the row.
        per_clip: cost of one clip in readable units; empty if there is none.
        total: cost of many clips.
    """

    title: str
    per_clip: Callable[[Measured, Assumptions], str]
    total: Callable[[Measured, Assumptions, int], str]


def _empty(measured: Measured, assumed: Assumptions) -> str:
    return ""


ROWS = (
    Row(
        "`prepare`: core-hours",
        lambda m, a: f"{1000 * m.prepare_core_seconds:.0f} core-ms",
        lambda m, a, n: _count(n * m.prepare_core_seconds / HOUR_SECONDS),
    ),
    Row("`prepare`: machines", _empty, lambda m, a, n: _machines(n * m.prepare_core_seconds, a)),
    Row("clip store: bytes", lambda m, a: _bytes(m.store_bytes), lambda m, a, n: _bytes(n * m.store_bytes)),
    Row(
        "pre-training, all epochs: EFLOP",
        lambda m, a: f"{1000 * m.step_teraflop:.0f} GFLOP per epoch",
        lambda m, a, n: _count(a.epochs * n * m.step_teraflop / 1e6),
    ),
    Row(
        "pre-training: GPU-hours (assumed)",
        lambda m, a: f"{1000 / _clips_per_gpu_second(m, a):.2f} GPU-ms per epoch",
        lambda m, a, n: _count(_gpu_seconds(m, a, n) / HOUR_SECONDS),
    ),
    Row(
        "pre-training: GPUs",
        _empty,
        lambda m, a, n: _count(_round_up(_gpu_seconds(m, a, n) / (a.days * DAY_SECONDS))),
    ),
    Row(
        "data loading for each GPU: cores",
        lambda m, a: f"{1000 * m.read_core_seconds:.1f} core-ms",
        lambda m, a, n: f"{_clips_per_gpu_second(m, a) * m.read_core_seconds:.1f}",
    ),
    Row(
        "data loading for each GPU: bytes per second",
        lambda m, a: _bytes(m.store_bytes),
        lambda m, a, n: _bytes(_clips_per_gpu_second(m, a) * m.store_bytes),
    ),
    Row(
        "pre-training on CPUs instead: core-hours",
        lambda m, a: f"{m.step_core_seconds:.2f} core-s per epoch",
        lambda m, a, n: _count(a.epochs * n * m.step_core_seconds / HOUR_SECONDS),
    ),
    Row(
        "`embed`: core-hours",
        lambda m, a: "" if m.embed_core_seconds is None else f"{1000 * m.embed_core_seconds:.0f} core-ms",
        lambda m, a, n: _or_not_measured(m.embed_core_seconds, lambda seconds: _count(n * seconds / HOUR_SECONDS)),
    ),
    Row(
        "`embed`: machines",
        _empty,
        lambda m, a, n: _or_not_measured(m.embed_core_seconds, lambda seconds: _machines(n * seconds, a)),
    ),
    Row("index: bytes", lambda m, a: _bytes(m.row_bytes), lambda m, a, n: _bytes(n * m.row_bytes)),
    Row(
        "index: of these, in memory",
        lambda m, a: _bytes(m.hot_bytes),
        lambda m, a, n: _bytes(n * m.hot_bytes),
    ),
    Row("index: parts", _empty, lambda m, a, n: _count(n / a.part_rows)),
    Row(
        "index: core-hours to build",
        lambda m, a: f"{1e6 * m.build_core_seconds:.0f} core-µs",
        lambda m, a, n: _count(n * m.build_core_seconds / HOUR_SECONDS),
    ),
    Row(
        "query of all parts: core-seconds",
        lambda m, a: f"{1e9 * m.query_core_seconds:.0f} core-ns",
        lambda m, a, n: _count(n * m.query_core_seconds),
    ),
    Row(
        "query of all parts: bytes read",
        lambda m, a: f"{m.query_bytes:.0f} B",
        lambda m, a, n: _bytes(n * m.query_bytes),
    ),
    Row(
        "query of all parts: machines to answer within a second",
        _empty,
        lambda m, a, n: _count(_round_up(n * m.query_core_seconds / a.machine_cores)),
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the section and leaves the rest of the document as it is."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    text = DOCUMENT.read_text() if DOCUMENT.exists() else START
    DOCUMENT.write_text(with_section(text, section(*load_figures())))


def load_figures() -> tuple[Figures, Figures, Figures, Figures | None]:
    """Loads the figures of data, of the step of `base`, of search, and of embedding, if it was measured."""
    embed = _read("embed.json") if (RESULTS / "embed.json").exists() else {}
    return (
        _read("data.json"),
        _read("step.json")["base-bf16-mixed"],
        _read("search.json"),
        embed.get("base", embed.get("nano")),
    )


def with_section(text: str, figures: str) -> str:
    """Returns the document with the section between its markers, or at its end if it has no markers."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def section(data: Figures, step: Figures, search: Figures, embed: Figures | None) -> str:
    """Returns the section, in Markdown."""
    measured, assumed = Measured.of(data, step, search, embed), Assumptions()
    prepared, machine = data["prepare"], data["machine"]
    clip_seconds = prepared["video_seconds"] / prepared["clips"]
    lines = [
        "## To a billion clips",
        "",
        "Written by `python -m benchmarks.scale`: arithmetic on figures of one machine; nothing at this size was run. All figures except those of the index are the CPU time that one clip took on "
        f"{machine['cores']} cores (GPU: {machine['cuda']}) times the number of clips; other work on the machine does not change CPU time. A clip is "
        f"{clip_seconds:g} s of video, {data['frames']} frames of {data['height']} x {data['width']} and an audio window for each; a moment of the index counts as one clip.",
        "",
        f"| | per clip | {' | '.join(f'10^{len(str(size)) - 1} clips' for size in SIZES)} |",
        f"|---|---|{'---|' * len(SIZES)}",
        *(
            f"| {row.title} | {row.per_clip(measured, assumed)} | {' | '.join(row.total(measured, assumed, size) for size in SIZES)} |"
            for row in ROWS
        ),
        "",
        "Measured:",
        "",
        f"- preparing, reading the store, bytes of a clip: `{data['command']}`, {data['date']}, {prepared['videos']} videos{' (synthetic)' if data['synthetic'] else ''}, "
        f"{data['workers']} processes; in wall time {prepared['videos_per_second']:.1f} videos/s at a load average of {data['load_average']:.0f}. Loading from the store reaches "
        f"{data['store_share_of_ceiling_cpu']:.0%} of the rate of decoding its JPEGs alone, in CPU time (target 80%), and yields "
        f"{data['store_times_videos_cpu']:.0f} times the clips of loading from videos (target 5); {_compared_with_ffmpeg(prepared)};",
        f"- a training step: `{step['command']}`, {step['date']}: {1000 * measured.step_teraflop:.0f} GFLOP per clip, counted, and {measured.step_core_seconds:.2f} core-seconds with its inputs;",
        f"- the index: `{search['command']}`, {search['date']}: {search['rows']:,} rows of {search['dim']} values in {measured.row_bytes:,.0f} bytes each; building it and the "
        f"median query are in wall time of {search['machine']['cores']} cores, at a load average of {search['load_average']:.0f}, so rather too high than too low;",
        f"- embedding: `{embed['command']}`, {embed['date']}, preset {embed['preset']}."
        if embed is not None
        else "- embedding: not measured.",
        "",
        "Assumed:",
        "",
        f"- a machine has {assumed.machine_cores} cores, each as fast as one of these, and the machines in the table finish in {assumed.days:g} days; twice as many take half as long, because videos are independent;",
        "- videos cost as much as these; decoding takes longer with more pixels and with more distance between key frames;",
        f"- a GPU computes {assumed.gpu_teraflops:g} TFLOP/s in bfloat16 (the data sheet of an H100), of which training uses {assumed.gpu_utilization:.0%}: a target of this project, "
        f"not a measurement; pre-training takes {assumed.epochs} epochs;",
        f"- the index is divided into parts of {assumed.part_rows:,} moments, as many as were measured, each built and searched by itself, so that the cost grows linearly; "
        "a query that is restricted to some parts (a source, a year) costs only those;",
        "- storage and network are fast enough: the table has the bytes per second of each GPU and the bytes of a query; full vectors, of which a query reads a hundred per part, are on fast disks.",
        "",
        f"One machine of {assumed.machine_cores} cores prepares {_count(assumed.machine_cores * DAY_SECONDS / measured.prepare_core_seconds)} clips a day. More machines divide the work by videos: "
        "each part of a manifest is prepared, embedded and indexed by itself.",
    ]
    return "\n".join(lines)


def _compared_with_ffmpeg(prepared: Figures) -> str:
    if prepared["ffmpeg"] is None:
        return "`prepare` was not compared with FFmpeg, which was not installed"
    return (
        f"`prepare` takes {prepared['times_ffmpeg']:.2f} times as long as FFmpeg's own command with the same seeks and scaling, "
        f"{prepared['times_ffmpeg_cpu']:.2f} times its CPU time (limit 1.25)"
    )


def _clips_per_gpu_second(measured: Measured, assumed: Assumptions) -> float:
    return assumed.gpu_teraflops * assumed.gpu_utilization / measured.step_teraflop


def _gpu_seconds(measured: Measured, assumed: Assumptions, clips: int) -> float:
    return assumed.epochs * clips / _clips_per_gpu_second(measured, assumed)


def _or_not_measured(measured: float | None, show: Callable[[float], str]) -> str:
    return "not measured" if measured is None else show(measured)


def _machines(core_seconds: float, assumed: Assumptions) -> str:
    return _count(_round_up(core_seconds / (assumed.machine_cores * assumed.days * DAY_SECONDS)))


def _round_up(number: float) -> int:
    return max(1, -int(-number // 1))


def _count(number: float) -> str:
    """Rounds to two significant digits; more would be false precision."""
    if number >= 100:
        digits = len(f"{number:.0f}") - 2
        return f"{round(number, -digits):,.0f}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{_count(number)} PB"


def _read(name: str) -> Figures:
    values: Figures = json.loads((RESULTS / name).read_text())
    return values


if __name__ == "__main__":
    main()
