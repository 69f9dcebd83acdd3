"""Films into vectors: how fast, beside which floors, and what stored vectors lose: docs/embedding.md.

    OMP_NUM_THREADS=1 python -m benchmarks.embedding --run runs/quickstart    # measures what is missing, writes the document
    OMP_NUM_THREADS=1 python -m benchmarks.embedding --only nano base         # measures these anew
    python -m benchmarks.embedding --run runs/quickstart --only stored
    python -m benchmarks.embedding --table                                    # writes the document from what is there

`nano` and `base` are one run of `cmmixer bench embed` each, in a process of its own; `stored` embeds the gallery of a quickstart.
`benchmarks/results/embed.json` holds them.
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
from cmmixer.embedding.parquet import written_parquet
from cmmixer.embedding.pipeline import embed_moments
from cmmixer.embedding.read import read_vectors
from cmmixer.encoders.loading import load_encoder
from cmmixer.evaluation.metrics import retrieval_metrics
from cmmixer.runtime import machine

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "embed.json", ROOT / "docs" / "embedding.md"
# Moments of a batch, turns and films that two cores can wait for.
SIZES = {"nano": (32, 7, 24), "base": (2, 2, 4)}
STORED = "stored"
PRECISIONS = ("32-true", "bf16-mixed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the rows that are missing, or those asked for anew, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", default="runs/quickstart", help="folder of a quickstart, for `stored`")
    parser.add_argument("--only", nargs="+", choices=[*SIZES, STORED], help="measure these, anew if they are there")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    rows: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    wanted = [] if options.table else options.only or [name for name in [*SIZES, STORED] if name not in rows]
    for name in wanted:
        print(name, file=sys.stderr)
        rows[name] = stored(Path(options.run)) if name == STORED else measured(name)
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    DOCUMENT.write_text(document(rows))


def measured(preset: str) -> dict[str, Any]:
    """One run of the command on the processor."""
    batch, rounds, films = SIZES[preset]
    command = [sys.executable, "-m", "cmmixer", "bench", "embed", "--preset", preset, "--batch_size", str(batch)]
    command += ["--rounds", str(rounds), "--made_films", str(films), "--compile", "--device", "cpu", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def stored(quickstart: Path) -> dict[str, Any]:
    """Embeds the gallery's films in both precisions, writes and reads their vectors in every storage, ranks what was read."""
    films = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            encoder = load_encoder(quickstart / "finetune", "cpu", precision)
            entries = read_layout(quickstart / "films" / "gallery").entries
            films[precision] = sorted(embed_moments(entries, encoder), key=lambda one: one.number)
        found = {}
        for precision in PRECISIONS:
            for kind in VECTOR_BYTES:
                path = Path(folder) / f"{precision}-{kind}.parquet"
                with written_parquet(path, encoder, kind, frames=False) as writer:
                    for one in films[precision]:
                        writer.write(one)
                table = read_vectors(path, ["video", "audio"])
                found[precision, kind] = {
                    "bytes": path.stat().st_size,
                    **{sense: np.array(table.column(sense).to_pylist(), np.float32) for sense in ("video", "audio")},
                }
    first = found["32-true", "fp32"]
    told = {}
    for (precision, kind), vectors in found.items():
        both = [(vectors[sense].astype(np.float64) * first[sense]).sum(axis=1) for sense in ("video", "audio")]
        metrics = retrieval_metrics(vectors["video"], vectors["audio"], gallery="", resamplings=100)
        told[f"{precision}, {kind}"] = {
            "bytes_per_value": vectors["bytes"] / (2 * first["video"].size),
            "least_cosine": float(min(part.min() for part in both)),
            "median_cosine": float(np.median(np.concatenate(both))),
            "R@1": {way: metrics[way]["R@1"] for way in ("video_to_audio", "audio_to_video")},
            "R@10": {way: metrics[way]["R@10"] for way in ("video_to_audio", "audio_to_video")},
        }
    return {
        "moments": len(first["video"]),
        "dim": int(first["video"].shape[1]),
        "ways": told,
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


# --------------------------------------------------------------------------------------------------------- the document


def document(rows: dict[str, Any]) -> str:
    """docs/embedding.md."""
    lines = [
        *HEAD.splitlines(),
        "",
        "## Films a second",
        "",
        *_speed(rows),
        "",
        "## The model, asked in several ways",
        "",
    ]
    lines += [*_runtimes(rows), "", "## What stored vectors lose", "", *_stored(rows.get(STORED)), ""]
    return "\n".join([*lines, "## What the figures say", "", *_findings(rows), ""])


HEAD = """# How fast films become vectors

Written by `python -m benchmarks.embedding` from `benchmarks/results/embed.json`. `cmmixer embed` and `cmmixer index` decode in processes of their own, which run ahead of the model by a bounded
number of pieces; moments of all films fill the model's batches; the model works in a thread of its own while the next batch is filled and the films before are written. Order and values do not
depend on who was faster."""


def _speed(rows: dict[str, Any]) -> list[str]:
    lines = [
        "- **the model alone**: `embed_batch` on moments that lie ready in memory. **decoding alone**: the same decoder processes, and nobody behind them.",
        "- **cores shared evenly**: all of the processor's time, decoding and model, over the cores. Where both compute on the same cores nothing can be faster.",
        "- **overlap efficiency**: the slower of the two alone, over end to end, median of the turns; with the shared cores in brackets. Films of 20 s, 256 x 256, H.264 and AAC.",
        "",
        "| preset, films, moments, batch | end to end films/s | decoding alone | the model alone | cores shared evenly | share of decoding | ms of processor a film: decoding, handing over, model | overlap efficiency | one after the other takes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset in SIZES:
        if preset not in rows:
            lines.append(f"| {preset} | not measured | | | | | | | |")
            continue
        row = rows[preset]
        spent = row["processor_seconds_per_film"]
        cells = [
            f"{preset}, {row['films']}, {row['moments']}, {row['batch_size']}",
            *(
                f"{row['parts'][name]['films_per_second']:.2f}"
                for name in ("end to end", "decoding alone", "the model alone")
            ),
            f"{row['shared_cores_films_per_second']:.2f}",
            f"{row['decode_share']:.0%}",
            " + ".join(f"{1000 * spent[name]:.0f}" for name in ("decoding", "handing over", "model")),
            f"{row['overlap_efficiency']:.0%} ({row['share_of_floor']:.0%})",
            f"{row['times_one_after_the_other']:.2f} times as long",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("| on a GPU | not measured: no GPU at hand | | | | | | | |")
    for preset, row in rows.items():
        if preset in SIZES:
            lines += ["", _measured_with(preset, row)]
    return lines


def _measured_with(preset: str, row: dict[str, Any]) -> str:
    machine_ = row["machine"]
    load = f"(load average {row['load_average']:.1f})"
    beside = f"the machine otherwise idle {load}"
    if row["load_average"] > machine_["cores"]:
        beside = f"with other work on the machine {load}: by the clock all of it is slow, and not evenly so"
    return f"`{preset}`: {row['workers']} decoders, {row['threads']} thread{'s' * (row['threads'] > 1)} for the model, {machine_['cores']} cores, no GPU, torch {machine_['torch']}, {row['date']}, {beside}. `{row['command']}`"


def _runtimes(rows: dict[str, Any]) -> list[str]:
    lines = [
        "Milliseconds of processor time for a moment, picture and sound, from decoded media to vectors; in turns in one process; 32-bit but for the last. The floor is the matrix products' arithmetic at the",
        "rate of the machine's best product. `oneDNN` is what `embed`, `index`, `search`, `serve` and `evaluate` use on a processor; `bfloat16` is `--precision bf16-mixed`.",
        "",
        "| preset | way | picture ms | sound ms | times torch, picture | times torch, sound | of the floor, picture / sound | differs from torch by at most | ready after s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset in SIZES:
        for name, told in rows.get(preset, {}).get("runtimes", {}).items():
            senses = [told["video"], told["audio"]]
            floors = [
                rows[preset]["flop_per_moment"][sense] / rows[preset]["peak_flops_per_core"]
                for sense in ("video", "audio")
            ]
            shares = [floor / it["processor_seconds_per_moment"] for floor, it in zip(floors, senses, strict=True)]
            cells = [
                preset,
                name,
                *(f"{1000 * it['processor_seconds_per_moment']:.2f}" for it in senses),
                *(f"{it['times_eager_processor']:.2f}" for it in senses),
                " / ".join(f"{share:.0%}" for share in shares),
                "" if name == "torch" else f"{max(it['most_difference'] for it in senses):.0e}",
                f"{told['start_seconds']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stored(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["Not measured."]
    lines = [
        f"The {row['moments']} films of a quickstart's gallery, {row['dim']} values a vector, embedded in both precisions of the model's arithmetic, written and read in each storage, and ranked; cosines to the first row. {row['date']}.",
        "",
        "| arithmetic, storage | bytes a value on disk | least cosine | median cosine | R@1 film to sound / sound to film | R@10 |",
        "|---|---|---|---|---|---|",
    ]
    for name, told in row["ways"].items():
        rates = [" / ".join(f"{rate:.3f}" for rate in told[at].values()) for at in ("R@1", "R@10")]
        cells = [
            f"{told['bytes_per_value']:.2f}",
            f"{told['least_cosine']:.6f}",
            f"{told['median_cosine']:.6f}",
            *rates,
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _findings(rows: dict[str, Any]) -> list[str]:
    if "nano" not in rows or STORED not in rows:
        return ["Not yet: `nano` or `stored` was not measured."]
    nano, ways = rows["nano"], rows[STORED]["ways"]
    spent = nano["processor_seconds_per_film"]
    times = {
        name: [told[sense]["times_eager_processor"] for sense in ("video", "audio")]
        for name, told in nano["runtimes"].items()
    }
    lost = max(
        abs(ways["32-true, int8"][at][way] - ways["32-true, fp32"][at][way])
        for at in ("R@1", "R@10")
        for way in ("video_to_audio", "audio_to_video")
    )
    lines = [
        f"- **Decoding is {nano['decode_share']:.0%}** of the processor's time for `nano`; handing decoded pictures from one process to another costs {spent['handing over'] / spent['decoding']:.0%} of it. Where the model and the",
        "  decoders share their cores the floor that counts is the sum of both over the cores; with a GPU it would be the slower of the two.",
        f"- **oneDNN's products are worth taking**, and are taken: {times['oneDNN'][0]:.1f} times torch for the picture of `nano`, {times['oneDNN'][1]:.1f} for its sound, of whose time much are spectrograms, which are not matrix products.",
        f"- **Compiling is not** ({times['compiled'][0]:.2f} and {times['compiled'][1]:.2f} times): the compiled towers call the same products of oneDNN. **ONNX Runtime** ({times['ONNX Runtime'][0]:.1f} and {times['ONNX Runtime'][1]:.1f} times) computes spectrograms slowly, and a tower must be exported",
        f"  first. Neither is built into `embed`. **bfloat16** ({times['bfloat16'][0]:.1f} and {times['bfloat16'][1]:.1f} times) needs a processor with such products, as this one is; what it changes is in the last table.",
        f"- **int8 is enough to rank with**: R@1 and R@10 of {rows[STORED]['moments']} queries change by {lost:.3f} at most, which is {round(lost * rows[STORED]['moments'])} of them.",
    ]
    if nano["load_average"] > 2 * nano["machine"]["cores"]:
        lines += [
            "- **By the clock the first table says little**: the machine was crowded. Where many programs want the same cores, decoders and a model together get a larger part of them than either alone, which flatters the",
            "  ratios, and no run comes near the floor of shared cores. Processor times, and the second table's ratios, do not suffer from that.",
        ]
    return lines


if __name__ == "__main__":
    main()
