"""The section "To a billion clips" of docs/scale.md: arithmetic from the stored figures of one machine.

    python -m benchmarks.scale

Every number is derived here from `benchmarks/results/`; what is assumed besides stands in `Assumed` and in the section.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
class Assumed:
    """What was not measured here.

    Attributes:
        machine_cores: of a machine, each as fast as one of those measured on.
        days: in which machines have to be done, each with its part of the work.
        gpu_teraflops: bfloat16 matrix products of a GPU by its data sheet, dense (H100 SXM).
        gpu_utilisation: share of that in model arithmetic; the target, nothing was measured.
        epochs: visits of a clip in pre-training.
        part_rows: moments of a part of the index, as large as the one that was measured.
    """

    machine_cores: int = 64
    days: float = 7.0
    gpu_teraflops: float = 989.0
    gpu_utilisation: float = 0.45
    epochs: int = 10
    part_rows: int = 10**6


@dataclass(frozen=True)
class Measured:
    """What one clip, or one moment, takes.

    Attributes:
        prepare_core_seconds: of decoding a clip into the store.
        store_bytes: of a clip in the store.
        read_core_seconds: of a clip from the store to a batch.
        step_core_seconds: of a training step, per clip, on a processor.
        step_teraflop: arithmetic of it.
        embed_core_seconds: of a moment, from film to vectors; None where it was not measured.
        row_bytes: of a moment in the index.
        quick_bytes: those of them that every query looks through, which want to be in memory.
        build_core_seconds: of a moment's share in building the index.
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
    quick_bytes: float
    build_core_seconds: float
    query_core_seconds: float
    query_bytes: float

    @classmethod
    def of(cls, data: Figures, step: Figures, search: Figures, embed: Figures | None) -> Measured:
        """From the stored figures."""
        prepared, rows = data["prepare"], search["rows"]
        ours = step["steps"]["network and its inputs"]
        engine = next(row for row in search["engines"] if row["name"] == f"cmmixer, {search['plan']['kind']}")
        embedded = None
        if embed is not None:
            per_film = embed["processor_seconds_per_film"]
            embedded = (per_film["decoding"] + per_film["model"]) * embed["films"] / embed["moments"]
        return cls(
            prepare_core_seconds=prepared["processor_seconds"] / prepared["clips"],
            store_bytes=data["store"]["bytes_per_clip"],
            read_core_seconds=1 / data["reading"]["store"]["clips_per_processor_second"],
            step_core_seconds=ours["processor_seconds"] / step["batch_size"],
            step_teraflop=ours["teraflop"] / step["batch_size"],
            embed_core_seconds=embedded,
            row_bytes=engine["bytes_per_row"],
            quick_bytes=search["plan"]["bytes_per_row"],
            build_core_seconds=60 * engine["build_minutes"] * search["machine"]["cores"] / rows,
            query_core_seconds=engine["p50_ms"] / 1000 * search["machine"]["cores"] / rows,
            query_bytes=engine["floor_ms"] / 1000 * search["floors"]["bytes_per_second"] / rows,
        )


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        what: it tells.
        one: what a single clip takes, in units one can grasp; empty where there is no such thing.
        many: what so many clips take.
    """

    what: str
    one: Callable[[Measured, Assumed], str]
    many: Callable[[Measured, Assumed, int], str]


def _nothing(measured: Measured, assumed: Assumed) -> str:
    return ""


LINES = (
    Line(
        "`prepare`: core-hours",
        lambda m, a: f"{1000 * m.prepare_core_seconds:.0f} core-ms",
        lambda m, a, n: _count(n * m.prepare_core_seconds / HOUR_SECONDS),
    ),
    Line("`prepare`: machines for it", _nothing, lambda m, a, n: _machines(n * m.prepare_core_seconds, a)),
    Line("clip store: bytes", lambda m, a: _bytes(m.store_bytes), lambda m, a, n: _bytes(n * m.store_bytes)),
    Line(
        "pre-training, all visits: EFLOP",
        lambda m, a: f"{1000 * m.step_teraflop:.0f} GFLOP a visit",
        lambda m, a, n: _count(a.epochs * n * m.step_teraflop / 1e6),
    ),
    Line(
        "pre-training: GPU-hours, assumed",
        lambda m, a: f"{1000 / _clips_per_gpu_second(m, a):.2f} GPU-ms a visit",
        lambda m, a, n: _count(_gpu_seconds(m, a, n) / HOUR_SECONDS),
    ),
    Line(
        "pre-training: GPUs for it",
        _nothing,
        lambda m, a, n: _count(_upwards(_gpu_seconds(m, a, n) / (a.days * DAY_SECONDS))),
    ),
    Line(
        "feeding each of those GPUs: cores that read the store",
        lambda m, a: f"{1000 * m.read_core_seconds:.1f} core-ms",
        lambda m, a, n: f"{_clips_per_gpu_second(m, a) * m.read_core_seconds:.1f}",
    ),
    Line(
        "feeding each of those GPUs: bytes a second",
        lambda m, a: _bytes(m.store_bytes),
        lambda m, a, n: _bytes(_clips_per_gpu_second(m, a) * m.store_bytes),
    ),
    Line(
        "pre-training on processors instead: core-hours",
        lambda m, a: f"{m.step_core_seconds:.2f} core-s a visit",
        lambda m, a, n: _count(a.epochs * n * m.step_core_seconds / HOUR_SECONDS),
    ),
    Line(
        "`embed`: core-hours",
        lambda m, a: "" if m.embed_core_seconds is None else f"{1000 * m.embed_core_seconds:.0f} core-ms",
        lambda m, a, n: _or_not(m.embed_core_seconds, lambda seconds: _count(n * seconds / HOUR_SECONDS)),
    ),
    Line(
        "`embed`: machines for it",
        _nothing,
        lambda m, a, n: _or_not(m.embed_core_seconds, lambda seconds: _machines(n * seconds, a)),
    ),
    Line("index: bytes", lambda m, a: _bytes(m.row_bytes), lambda m, a, n: _bytes(n * m.row_bytes)),
    Line(
        "index: of these, what wants memory",
        lambda m, a: _bytes(m.quick_bytes),
        lambda m, a, n: _bytes(n * m.quick_bytes),
    ),
    Line("index: parts", _nothing, lambda m, a, n: _count(n / a.part_rows)),
    Line(
        "index: core-hours to build",
        lambda m, a: f"{1e6 * m.build_core_seconds:.0f} core-µs",
        lambda m, a, n: _count(n * m.build_core_seconds / HOUR_SECONDS),
    ),
    Line(
        "a query of all parts: core-seconds",
        lambda m, a: f"{1e9 * m.query_core_seconds:.0f} core-ns",
        lambda m, a, n: _count(n * m.query_core_seconds),
    ),
    Line(
        "a query of all parts: bytes read",
        lambda m, a: f"{m.query_bytes:.0f} B",
        lambda m, a, n: _bytes(n * m.query_bytes),
    ),
    Line(
        "machines that compute it within a second",
        _nothing,
        lambda m, a, n: _count(_upwards(n * m.query_core_seconds / a.machine_cores)),
    ),
)


def main() -> None:
    """Writes the section; the rest of the document stays as it is."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else START
    DOCUMENT.write_text(with_section(text, section(*stored())))


def stored() -> tuple[Figures, Figures, Figures, Figures | None]:
    """Figures of data, of the step of `base`, of search, and of embedding where they are there."""
    embed = _read("embed.json") if (RESULTS / "embed.json").exists() else {}
    return (
        _read("data.json"),
        _read("step.json")["base-bf16-mixed"],
        _read("search.json"),
        embed.get("base", embed.get("nano")),
    )


def with_section(text: str, figures: str) -> str:
    """The document with the section between its markers; at its end if it has none yet."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def section(data: Figures, step: Figures, search: Figures, embed: Figures | None) -> str:
    """The section, in Markdown."""
    measured, assumed = Measured.of(data, step, search, embed), Assumed()
    prepared, machine = data["prepare"], data["machine"]
    clip_seconds = prepared["film_seconds"] / prepared["clips"]
    lines = [
        "## To a billion clips",
        "",
        "Written by `python -m benchmarks.scale`: arithmetic from figures of one machine, nothing of it was run. Each figure, but those of the index, is the processor time that one clip took on "
        f"{machine['cores']} cores (GPU: {machine['cuda']}), which other work on the machine takes nothing from, times the number of clips. A clip is "
        f"{clip_seconds:g} s of film, {data['frames']} frames of {data['height']} x {data['width']} and a sound window for each; a moment of the index counts as one clip.",
        "",
        f"| | a clip | {' | '.join(f'10^{len(str(size)) - 1} clips' for size in SIZES)} |",
        f"|---|---|{'---|' * len(SIZES)}",
        *(
            f"| {line.what} | {line.one(measured, assumed)} | {' | '.join(line.many(measured, assumed, size) for size in SIZES)} |"
            for line in LINES
        ),
        "",
        "What was measured:",
        "",
        f"- preparing, reading the store, bytes of a clip: `{data['command']}`, {data['date']}, {prepared['films']} films{' that were made' if data['films_made'] else ''}, "
        f"{data['workers']} processes; by the clock {prepared['films_per_second']:.1f} films/s at a load average of {data['load_average']:.0f}. Reading the store takes "
        f"{data['store_share_of_ceiling_processor']:.0%} of the rate of decoding its JPEGs alone, for the same processor time (80% wanted), and gives "
        f"{data['store_times_films_processor']:.0f} times the clips that reading films gives (5 wanted); {_beside_ffmpeg(prepared)};",
        f"- a training step: `{step['command']}`, {step['date']}: {1000 * measured.step_teraflop:.0f} GFLOP a clip, counted, and {measured.step_core_seconds:.2f} core-seconds with its inputs;",
        f"- the index: `{search['command']}`, {search['date']}: {search['rows']:,} rows of {search['dim']} values in {measured.row_bytes:,.0f} bytes each; building it and asking "
        f"it (the median query) are told by the clock, {search['machine']['cores']} cores counted, at a load average of {search['load_average']:.0f}: too much rather than too little;",
        f"- embedding: `{embed['command']}`, {embed['date']}, preset {embed['preset']}."
        if embed is not None
        else "- embedding: not measured.",
        "",
        "What is assumed:",
        "",
        f"- a machine has {assumed.machine_cores} cores, each as fast as one of these, and those in the table are to be done in {assumed.days:g} days; twice as many take half as long, since every film is by itself;",
        "- films cost what these cost: decoding grows with the pixels of a film and with the distance of its key frames;",
        f"- a GPU multiplies {assumed.gpu_teraflops:g} TFLOP/s in bfloat16 (the data sheet of an H100), of which training uses {assumed.gpu_utilisation:.0%}: the target of this project, "
        f"not a measurement; every clip is visited {assumed.epochs} times;",
        f"- the index is kept in parts of {assumed.part_rows:,} moments, as large as the one that was measured, each built and asked by itself, so that building and asking grow as the library does; "
        "a query that can be narrowed to some parts (a source, a year) costs only those;",
        "- storage and network keep up: the bytes a second that each GPU reads stand in the table, and so do those of a query; full vectors, of which a query reads a hundred a part, lie on fast disks.",
        "",
        f"One machine of {assumed.machine_cores} cores prepares {_count(assumed.machine_cores * DAY_SECONDS / measured.prepare_core_seconds)} clips a day. What does not fit one machine is divided by films: "
        "every part of a manifest is prepared, embedded and indexed by itself.",
    ]
    return "\n".join(lines)


def _beside_ffmpeg(prepared: Figures) -> str:
    if prepared["ffmpeg"] is None:
        return "FFmpeg beside `prepare` was not measured, it was not installed"
    return (
        f"`prepare` takes {prepared['times_ffmpeg']:.2f} times as long as FFmpeg's own command with the same seeks and scaling, "
        f"{prepared['times_ffmpeg_processor']:.2f} times its processor time (1.25 allowed)"
    )


def _clips_per_gpu_second(measured: Measured, assumed: Assumed) -> float:
    return assumed.gpu_teraflops * assumed.gpu_utilisation / measured.step_teraflop


def _gpu_seconds(measured: Measured, assumed: Assumed, clips: int) -> float:
    return assumed.epochs * clips / _clips_per_gpu_second(measured, assumed)


def _or_not(measured: float | None, told: Callable[[float], str]) -> str:
    return "not measured" if measured is None else told(measured)


def _machines(core_seconds: float, assumed: Assumed) -> str:
    return _count(_upwards(core_seconds / (assumed.machine_cores * assumed.days * DAY_SECONDS)))


def _upwards(number: float) -> int:
    return max(1, -int(-number // 1))


def _count(number: float) -> str:
    """Two digits that count; the rest would be made up."""
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
