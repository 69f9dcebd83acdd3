"""What an autoencoder like the quickstart's sees and gives back: of made-up films it never met, and of three real ones.

    python -m benchmarks.inspection --run runs/quickstart/pretrain --data runs/quickstart/stores/gallery

Runs `cmmixer inspect` on both. Distances go to `benchmarks/results/inspection.json`, the sheet of a made-up film to
`docs/images/inspect-sheet.png`, and `docs/inspect.md` is written from them. The sheets and sounds of the real films stay in
`runs/inspection/real`: their pictures are not ours to publish.
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
from cmmixer.runtime import machine

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "inspection.json", ROOT / "docs" / "inspect.md"
SHEET = ROOT / "docs" / "images" / "inspect-sheet.png"
# Natural sound of one thing that is seen, one of each.
REAL_LABELS = ("tabla", "highway traffic", "train passing")
DISTANCES = ("mixed", "separated", "mixed_covered", "separated_covered")


def main(arguments: Sequence[str] | None = None) -> None:
    """Inspects, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", default="runs/quickstart/pretrain", help="a run of pretrain")
    parser.add_argument("--data", default="runs/quickstart/stores/gallery", help="made-up films it has not seen")
    parser.add_argument("--films", type=Path, default=ROOT.parent / "shared" / "data" / "films" / "manifest.csv")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "inspection")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    if not options.table:
        made_up = _inspected(options.run, options.data, options.out / "made-up", clips=200, sheets=1)
        real = _inspected(options.run, _three(options.films, options.out), options.out / "real", clips=3, sheets=3)
        shutil.copyfile(options.out / "made-up" / "sheet-0.png", SHEET)
        card = checkpoint.load_card(options.run)
        result = {
            "made_up": {name: made_up[name] for name in ("clips", *(f"{name}_db" for name in DISTANCES))},
            "real": dict(zip(REAL_LABELS, real["distances_db"].values(), strict=True)),
            "clips_seen": card.clips_seen,
            "machine": machine(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    DOCUMENT.write_text(document(json.loads(RESULT.read_text())))


def _inspected(run: str, data: str, out: Path, *, clips: int, sheets: int) -> dict[str, Any]:
    return inspect(InspectSettings(model=run, data=data, out=str(out), clips=clips, sheets=sheets)).as_json()


def _three(films: Path, out: Path) -> str:
    """A manifest of one real film of each label."""
    with films.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [next(row for row in rows if row["label"] == label) for label in REAL_LABELS]
    out.mkdir(parents=True, exist_ok=True)
    # From the middle: some begin with a title.
    with (out / "three.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "start_seconds", "end_seconds"])
        table.writerows([(films.parent / row["path"]).resolve(), 3.0, 7.0] for row in chosen)
    return str(out / "three.csv")


def document(result: dict[str, Any]) -> str:
    """The page, as Markdown."""
    made_up = result["made_up"]
    lines = [
        "# What the network sees and gives back",
        "",
        "Written by `python -m benchmarks.inspection`; do not edit. `cmmixer inspect RUN --data FILMS` makes such sheets of any run of pretrain and any films, with",
        "the sounds to listen to (a mel picture keeps no phase; Griffin-Lim finds one), and of a retriever the nearest neighbours and a map.",
        "",
        f"An autoencoder like the quickstart's, which has seen {result['clips_seen']:,} clips of 1,200 made-up films (the quickstart's sees 9,600). From above: frames, mel pictures of their sound, what is mixed, what of it is left",
        "after masking, and both given back.",
        "",
        "![A made-up film it never met](images/inspect-sheet.png)",
        "",
        "How far the sound that comes back is from the clean one: mean absolute difference of the mel pictures in decibels, beside that of the mix itself. Covered:",
        "only where the mix shows the picture, so that the sound there has to be inferred.",
        "",
        "| film | mix, all places | given back, all places | mix, covered | given back, covered |",
        "|---|---|---|---|---|",
        f"| {made_up['clips']} made-up films it never met, mean | {' | '.join(_told(made_up[f'{name}_db']) for name in DISTANCES)} |",
    ]
    for label, found in result["real"].items():
        lines.append(f"| a real one: {label} | {' | '.join(_told(found[name]) for name in DISTANCES)} |")
    cores, date = result["machine"]["cores"], result["date"]
    lines += [
        "",
        "What comes back is near the middle of all films, at this little training: nearer to a covered sound than the picture over it was, and no better than the mix where the",
        "sound was visible. The real films are far from anything it has learnt from. Their pictures are not ours to publish. Their sheets, sounds and figures are made by",
        "",
        "```sh",
        "python -m benchmarks.inspection --run runs/quickstart/pretrain --films ../shared/data/films/manifest.csv",
        "```",
        "",
        "which takes 4 s of one film of each label from a manifest with the columns `path` and `label`, and leaves them in `runs/inspection/real/inspect.html`.",
        "",
        f"{cores} cores, GPU: {result['machine']['cuda']}, torch {result['machine']['torch']}; {date}.",
    ]
    return "\n".join(lines) + "\n"


def _told(decibels: float | None) -> str:
    return "none" if decibels is None else f"{decibels:.1f}"


if __name__ == "__main__":
    main()
