"""What does an autoencoder like that of the quickstart reconstruct, of unseen synthetic videos and of three real ones?

    python -m benchmarks.inspection --run runs/quickstart/pretrain --data runs/quickstart/stores/gallery
    python -m benchmarks.inspection --table           # writes docs/inspect.md from the stored results, runs nothing

Runs `cmmixer inspect` on both. Distances go to `benchmarks/results/inspection.json`, and the sheet of a synthetic video to
`docs/images/inspect-sheet.png`. The sheets and sounds of the real videos stay in `runs/inspection/real`, because their frames may not
be published.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmmixer import InspectSettings, checkpoint, inspect
from cmmixer.runtime import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "inspection.json", ROOT / "docs" / "inspect.md"
SHEET = ROOT / "docs" / "images" / "inspect-sheet.png"
# Videos with the natural sound of a visible source, one of each label.
REAL_LABELS = ("tabla", "highway traffic", "train passing")
DISTANCES = ("mixed", "separated", "mixed_covered", "separated_covered")


def main(arguments: Sequence[str] | None = None) -> None:
    """Inspects the run, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", default="runs/quickstart/pretrain", help="a run of pretrain")
    parser.add_argument("--data", default="runs/quickstart/stores/gallery", help="synthetic videos unseen in training")
    parser.add_argument("--videos", type=Path, default=ROOT.parent / "shared" / "data" / "films" / "manifest.csv")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "inspection")
    parser.add_argument("--table", action="store_true", help="write the document from the stored results, run nothing")
    options = parser.parse_args(arguments)
    if not options.table:
        synthetic = _inspect(options.run, options.data, options.out / "synthetic", clips=200, sheets=1)
        real = _inspect(
            options.run, _real_manifest(options.videos, options.out), options.out / "real", clips=3, sheets=3
        )
        shutil.copyfile(options.out / "synthetic" / "sheet-0.png", SHEET)
        metadata = checkpoint.load_metadata(options.run)
        result = {
            "synthetic": {name: synthetic[name] for name in ("clips", *(f"{name}_db" for name in DISTANCES))},
            "real": dict(zip(REAL_LABELS, real["distances_db"].values(), strict=True)),
            "clips_seen": metadata.clips_seen,
            "machine": describe_machine(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    DOCUMENT.write_text(document(json.loads(RESULT.read_text())))


def _inspect(run: str, data: str, out: Path, *, clips: int, sheets: int) -> dict[str, Any]:
    return inspect(InspectSettings(model=run, data=data, out=str(out), clips=clips, sheets=sheets)).as_json()


def _real_manifest(videos: Path, out: Path) -> str:
    """Writes a manifest with one real video of each label."""
    with videos.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [next(row for row in rows if row["label"] == label) for label in REAL_LABELS]
    out.mkdir(parents=True, exist_ok=True)
    # From the middle: some start with a title.
    with (out / "three.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "start_seconds", "end_seconds"])
        table.writerows([(videos.parent / row["path"]).resolve(), 3.0, 7.0] for row in chosen)
    return str(out / "three.csv")


def document(result: dict[str, Any]) -> str:
    """Returns the document."""
    synthetic = result["synthetic"]
    lines = [
        "# What the network sees and reconstructs",
        "",
        "Written by `python -m benchmarks.inspection`; do not edit. `cmmixer inspect RUN --data VIDEOS` makes such sheets of any run of pretrain and any videos, with",
        "sounds to play (a mel spectrogram has no phase; Griffin-Lim estimates one). Of a retriever it shows nearest neighbours and a map.",
        "",
        f"The sheet is of an autoencoder like that of the quickstart, which has seen {result['clips_seen']:,} clips of 1,200 synthetic videos (that of the quickstart sees 9,600). From top to bottom: frames, mel spectrograms, the mix, the visible part of the mix",
        "after masking, and both reconstructions.",
        "",
        "![An unseen synthetic video](images/inspect-sheet.png)",
        "",
        "Distance of the reconstructed audio to the clean audio: mean absolute difference of the mel spectrograms in decibels, next to that of the mix. Covered:",
        "only where the mix shows the video, so that the audio has to be inferred.",
        "",
        "| video | mix | reconstruction | mix, covered | reconstruction, covered |",
        "|---|---|---|---|---|",
        f"| {synthetic['clips']} unseen synthetic videos, mean | {' | '.join(_decibels(synthetic[f'{name}_db']) for name in DISTANCES)} |",
    ]
    for label, distances in result["real"].items():
        lines.append(f"| a real video: {label} | {' | '.join(_decibels(distances[name]) for name in DISTANCES)} |")
    cores, date = result["machine"]["cores"], result["date"]
    lines += [
        "",
        "After so little training, the reconstruction is close to the average of all videos: closer than the mix where the audio is covered, and no better than the mix where the",
        "audio is visible. The real videos are very different from the training videos. Their frames may not be published. Their sheets, sounds and figures are made by",
        "",
        "```sh",
        "python -m benchmarks.inspection --run runs/quickstart/pretrain --videos ../shared/data/films/manifest.csv",
        "```",
        "",
        "which takes 4 s of one video per label from a manifest with the columns `path` and `label`, and writes `runs/inspection/real/inspect.html`.",
        "",
        f"{cores} cores, GPU: {result['machine']['cuda']}, torch {result['machine']['torch']}; {date}.",
    ]
    return "\n".join(lines) + "\n"


def _decibels(decibels: float | None) -> str:
    return "none" if decibels is None else f"{decibels:.1f}"


if __name__ == "__main__":
    main()
