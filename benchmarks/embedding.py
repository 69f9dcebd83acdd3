"""How fast are videos embedded, and what do stored vectors lose? Writes docs/embedding.md.

    OMP_NUM_THREADS=1 python -m benchmarks.embedding --run runs/quickstart    # measures what is missing, writes the document
    OMP_NUM_THREADS=1 python -m benchmarks.embedding --only nano base         # measures these again
    python -m benchmarks.embedding --run runs/quickstart --only stored
    python -m benchmarks.embedding --table                                    # writes the document from the stored results

`nano` and `base` are runs of `python -m benchmarks.speed embed`, each in its own process; `stored` embeds the gallery of a
quickstart. Results are stored in `benchmarks/results/embed.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cmmixer.config.retrieval import VECTOR_BYTES
from cmmixer.data.manifest import read_layout
from cmmixer.embedding.parquet import parquet_writer
from cmmixer.embedding.pipeline import embed_moments
from cmmixer.embedding.read import read_vectors
from cmmixer.encoders.loading import load_encoder
from cmmixer.evaluation.metrics import retrieval_metrics
from cmmixer.runtime import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "embed.json", ROOT / "docs" / "embedding.md"
# Moments per batch, turns and videos, chosen for two cores.
SIZES = {"nano": (32, 7, 24), "base": (2, 2, 4)}
STORED = "stored"
PRECISIONS = ("32-true", "bf16-mixed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the rows that are missing or named, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", default="runs/quickstart", help="folder of a quickstart, for `stored`")
    parser.add_argument("--only", nargs="+", choices=[*SIZES, STORED], help="measure these, even if they are stored")
    parser.add_argument("--table", action="store_true", help="write the document from the stored results, run nothing")
    options = parser.parse_args(arguments)
    rows: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    wanted = [] if options.table else options.only or [name for name in [*SIZES, STORED] if name not in rows]
    for name in wanted:
        print(name, file=sys.stderr)
        rows[name] = measure_storage(Path(options.run)) if name == STORED else measure_speed(name)
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    DOCUMENT.write_text(document(rows))


def measure_speed(preset: str) -> dict[str, Any]:
    """Runs the benchmark once on the CPU."""
    batch, rounds, videos = SIZES[preset]
    command = [sys.executable, "-m", "benchmarks.speed", "embed", "--preset", preset, "--batch_size", str(batch)]
    command += ["--rounds", str(rounds), "--synthetic_videos", str(videos), "--compile", "--device", "cpu", "--json"]
    completed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(completed.stdout)
    return row


def measure_storage(quickstart: Path) -> dict[str, Any]:
    """Embeds the gallery in both precisions, writes and reads the vectors in every storage type, and ranks them."""
    videos = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            encoder = load_encoder(quickstart / "finetune", "cpu", precision)
            entries = read_layout(quickstart / "videos" / "gallery").entries
            videos[precision] = sorted(embed_moments(entries, encoder), key=lambda embedded: embedded.number)
        loaded = {}
        for precision in PRECISIONS:
            for kind in VECTOR_BYTES:
                path = Path(folder) / f"{precision}-{kind}.parquet"
                with parquet_writer(path, encoder, kind, frames=False) as writer:
                    for video in videos[precision]:
                        writer.write(video)
                table = read_vectors(path, ["video", "audio"])
                loaded[precision, kind] = {
                    "bytes": path.stat().st_size,
                    **{
                        modality: np.array(table.column(modality).to_pylist(), np.float32)
                        for modality in ("video", "audio")
                    },
                }
    first = loaded["32-true", "fp32"]
    ways = {}
    for (precision, kind), vectors in loaded.items():
        both = [(vectors[modality].astype(np.float64) * first[modality]).sum(axis=1) for modality in ("video", "audio")]
        metrics = retrieval_metrics(vectors["video"], vectors["audio"], gallery="", resamplings=100)
        ways[f"{precision}, {kind}"] = {
            "bytes_per_value": vectors["bytes"] / (2 * first["video"].size),
            "least_cosine": float(min(part.min() for part in both)),
            "median_cosine": float(np.median(np.concatenate(both))),
            "R@1": {way: metrics[way]["R@1"] for way in ("video_to_audio", "audio_to_video")},
            "R@10": {way: metrics[way]["R@10"] for way in ("video_to_audio", "audio_to_video")},
        }
    return {
        "moments": len(first["video"]),
        "dim": int(first["video"].shape[1]),
        "ways": ways,
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


# --------------------------------------------------------------------------------------------------------- the document


def document(rows: dict[str, Any]) -> str:
    """docs/embedding.md."""
    lines = [
        *HEAD.splitlines(),
        "",
        "## Videos per second",
        "",
        *_pipeline_lines(rows),
        "",
        "## Ways to run the model",
        "",
    ]
    lines += [*_runtime_lines(rows), "", "## Loss of stored vectors", "", *_storage_lines(rows.get(STORED)), ""]
    return "\n".join([*lines, "## Findings", "", *_findings(rows), ""])


HEAD = """# How fast videos are embedded

Written by `python -m benchmarks.embedding` from `benchmarks/results/embed.json`. `cmmixer embed` and `cmmixer index` decode in separate processes, which run ahead of the model by a bounded
number of chunks. Moments of all videos fill the batches of the model. The model runs in its own thread while the next batch is filled and finished videos are written. Order and values do not
depend on timing."""


def _pipeline_lines(rows: dict[str, Any]) -> list[str]:
    lines = [
        "- **model only**: `embed_batch` on moments that are ready in memory. **decoding only**: the same decoder processes without a model.",
        "- **cores shared evenly**: the CPU time of decoding and model, divided by the cores. If both compute on the same cores, nothing can be faster.",
        "- **overlap efficiency**: time of the slower of the two over the time end to end, median of the turns; in brackets, with evenly shared cores. Videos of 20 s, 256 x 256, H.264 and AAC.",
        "",
        "| preset, videos, moments, batch | end to end videos/s | decoding only | model only | cores shared evenly | share of decoding | CPU ms per video: decoding, transfer, model | overlap efficiency | without overlap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset in SIZES:
        if preset not in rows:
            lines.append(f"| {preset} | not measured | | | | | | | |")
            continue
        row = rows[preset]
        cpu_seconds = row["cpu_seconds_per_video"]
        cells = [
            f"{preset}, {row['videos']}, {row['moments']}, {row['batch_size']}",
            *(
                f"{row['parts'][name]['videos_per_second']:.2f}"
                for name in ("end to end", "decoding only", "model only")
            ),
            f"{row['shared_cores_videos_per_second']:.2f}",
            f"{row['decode_share']:.0%}",
            " + ".join(f"{1000 * cpu_seconds[name]:.0f}" for name in ("decoding", "transfer", "model")),
            f"{row['overlap_efficiency']:.0%} ({row['share_of_bound']:.0%})",
            f"{row['times_one_after_the_other']:.2f} times as long",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("| on a GPU | not measured: no GPU available | | | | | | | |")
    for preset, row in rows.items():
        if preset in SIZES:
            lines += ["", _measured_with(preset, row)]
    return lines


def _measured_with(preset: str, row: dict[str, Any]) -> str:
    machine_ = row["machine"]
    load = f"(load average {row['load_average']:.1f})"
    other_work = f"the machine otherwise idle {load}"
    if row["load_average"] > machine_["cores"]:
        other_work = f"beside other work {load}: wall times are too long, and not evenly so"
    return f"`{preset}`: {row['workers']} decoders, {row['threads']} thread{'s' * (row['threads'] > 1)} for the model, {machine_['cores']} cores, no GPU, torch {machine_['torch']}, {row['date']}, {other_work}. `{row['command']}`"


def _runtime_lines(rows: dict[str, Any]) -> list[str]:
    lines = [
        "CPU milliseconds per moment, video and audio, from decoded media to vectors, measured in turns in one process; in 32 bits except the last. The lower bound is the FLOP of the matrix products at the",
        "rate of the machine's fastest product. `embed`, `index`, `search`, `serve` and `evaluate` use `oneDNN` on a CPU; `bfloat16` is `--precision bf16-mixed`.",
        "",
        "| preset | way | video ms | audio ms | times torch, video | times torch, audio | lower bound / measured, video / audio | max difference to torch | seconds to start |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset in SIZES:
        for name, runtime in rows.get(preset, {}).get("runtimes", {}).items():
            modalities = [runtime["video"], runtime["audio"]]
            bounds = [
                rows[preset]["flop_per_moment"][modality] / rows[preset]["peak_flops_per_core"]
                for modality in ("video", "audio")
            ]
            shares = [bound / it["cpu_seconds_per_moment"] for bound, it in zip(bounds, modalities, strict=True)]
            cells = [
                preset,
                name,
                *(f"{1000 * it['cpu_seconds_per_moment']:.2f}" for it in modalities),
                *(f"{it['times_eager_cpu']:.2f}" for it in modalities),
                " / ".join(f"{share:.0%}" for share in shares),
                "" if name == "torch" else f"{max(it['most_difference'] for it in modalities):.0e}",
                f"{runtime['start_seconds']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _storage_lines(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["Not measured."]
    lines = [
        f"The {row['moments']} videos of the gallery of a quickstart, {row['dim']} values per vector, embedded in both precisions, written and read in each storage type, and ranked; cosines to the first row. {row['date']}.",
        "",
        "| precision, storage | bytes per value on disk | min cosine | median cosine | R@1 video to audio / audio to video | R@10 |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in row["ways"].items():
        rates = [" / ".join(f"{rate:.3f}" for rate in figures[at].values()) for at in ("R@1", "R@10")]
        cells = [
            f"{figures['bytes_per_value']:.2f}",
            f"{figures['least_cosine']:.6f}",
            f"{figures['median_cosine']:.6f}",
            *rates,
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _findings(rows: dict[str, Any]) -> list[str]:
    if "nano" not in rows or STORED not in rows:
        return ["None yet: `nano` or `stored` was not measured."]
    nano, ways = rows["nano"], rows[STORED]["ways"]
    spent = nano["cpu_seconds_per_video"]
    times = {
        name: [runtime[modality]["times_eager_cpu"] for modality in ("video", "audio")]
        for name, runtime in nano["runtimes"].items()
    }
    lost = max(
        abs(ways["32-true, int8"][at][way] - ways["32-true, fp32"][at][way])
        for at in ("R@1", "R@10")
        for way in ("video_to_audio", "audio_to_video")
    )
    lines = [
        f"- **Decoding is {nano['decode_share']:.0%}** of the CPU time for `nano`; transferring decoded frames between processes costs {spent['transfer'] / spent['decoding']:.0%} of it. If the model and the",
        "  decoders share cores, the lower bound of the time is the sum of both over the cores; with a GPU it would be the slower of the two.",
        f"- **oneDNN is worth it**, and is used: {times['oneDNN'][0]:.1f} times the speed of torch for the video of `nano`, {times['oneDNN'][1]:.1f} for its audio, of which spectrograms, which are not matrix products, take much of the time.",
        f"- **torch.compile is not** ({times['compiled'][0]:.2f} and {times['compiled'][1]:.2f} times): the compiled towers call the same matrix products of oneDNN. **ONNX Runtime** ({times['ONNX Runtime'][0]:.1f} and {times['ONNX Runtime'][1]:.1f} times) computes spectrograms slowly, and a tower has to be exported",
        f"  first. `embed` uses neither. **bfloat16** ({times['bfloat16'][0]:.1f} and {times['bfloat16'][1]:.1f} times) needs a CPU with bfloat16 matrix products, like this one; the last table has its effect on vectors.",
        f"- **int8 is enough for ranking**: R@1 and R@10 of {rows[STORED]['moments']} queries change by {lost:.3f} at most, that is {round(lost * rows[STORED]['moments'])} of them.",
    ]
    if nano["load_average"] > 2 * nano["machine"]["cores"]:
        lines += [
            "- **Wall times of the first table mean little**: the machine was busy. If many programs compete for cores, decoders and a model together get a larger share of them than either alone, which flatters the",
            "  ratios, and no run comes near the bound of shared cores. CPU times and the ratios of the second table are not affected.",
        ]
    return lines


if __name__ == "__main__":
    main()
