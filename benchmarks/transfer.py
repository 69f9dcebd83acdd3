"""What the encoder tells about labels it was never given: linear probes on sounds, films and both.

    python -m benchmarks.transfer --esc50 ../shared/data/esc50 --runs runs/quickstart/pretrain runs/quickstart/finetune

ESC-10 with its official five folds, fold 4 of ESC-50 split by source recording, and made-up films of another seed than any
training (class: shape of the body that sounds), as a Kinetics list and twice as long as a clip, so that several clips of a
film are averaged. Figures go to `benchmarks/results/transfer.json`; `docs/transfer.md` is written from that file.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.senses import RESULT as SENSES
from benchmarks.senses import table
from cmmixer import ProbeSettings, SynthesizeSettings, checkpoint, probe, synthesize

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "transfer.json", ROOT / "docs" / "transfer.md"
FILMS, FILM_SEED, FILM_SECONDS = 300, 9_001, 8.0
KINDS = {
    "trained": "its towers",
    "untrained": "the same, untrained",
    "statistics": "means and spreads, no network",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Probes every run on every set, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--esc50", type=Path, default=ROOT.parent / "shared" / "data" / "esc50")
    parser.add_argument("--runs", nargs="+", default=[], help="runs of pretrain or finetune")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "transfer")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    if not options.table:
        rows = []
        sets = _sets(options.esc50, options.work)
        for run in options.runs:
            for words, data, task, label in sets:
                settings = ProbeSettings(
                    model=run, data=str(data), task=task, label=label, out=str(options.work / "probe"), workers=1
                )
                result = probe(settings).result
                card = checkpoint.load_card(run)
                rows.append(
                    {
                        "set": words,
                        "run": f"{card.kind}, {card.clips_seen:,} clips seen, trained on {(card.data or {}).get('clips')} clips",
                        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                        **{name: value for name, value in result.items() if name not in ("out", "data", "model")},
                    }
                )
        # A line for each row: confusion tables would fill thousands.
        RESULT.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    DOCUMENT.write_text(document(json.loads(RESULT.read_text())))


def _sets(esc50: Path, work: Path) -> list[tuple[str, Path, str, str]]:
    """What it is, where, task, column of the class."""
    work.mkdir(parents=True, exist_ok=True)
    with (esc50 / "esc50.csv").open(newline="") as file:
        sounds = list(csv.DictReader(file))
    ten = [row for row in sounds if row["esc10"] == "True"]
    four = [row for row in sounds if row["fold"] == "4"]
    # A class whose sounds are all of one recording cannot be tested by what was learnt from others.
    recordings: dict[str, set[str]] = {}
    for row in four:
        recordings.setdefault(row["category"], set()).add(row["src_file"])
    several = {category for category, found in recordings.items() if len(found) > 1}
    four = [row for row in four if row["category"] in several]
    official = _manifest(work / "esc10.csv", esc50, ten, folds=True)
    made = _manifest(work / "esc50-fold4.csv", esc50, four, folds=False)
    films = work / "films"
    synthesize(SynthesizeSettings(clips=FILMS, out=str(films), seed=FILM_SEED, seconds=FILM_SECONDS, difficulty="easy"))
    with (films / "manifest.csv").open(newline="") as file:
        listed = [f"films/{row['path']} {row['label']}" for row in csv.DictReader(file)]
    (work / "films.list").write_text("\n".join(listed) + "\n")
    return [
        ("ESC-10, 5 official folds", official, "audio", "label"),
        (
            f"ESC-50, fold 4 in 5 folds by source recording, the {len(several)} classes with more than one",
            made,
            "audio",
            "label",
        ),
        *(
            (f"{FILMS} made-up films, {task}, in 5 folds", work / "films.list", task, "label")
            for task in ("video", "audio", "audiovisual")
        ),
    ]


def _manifest(path: Path, esc50: Path, rows: Sequence[dict[str, str]], *, folds: bool) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "source", *(["fold"] if folds else [])])
        for row in rows:
            where = (esc50 / "audio" / row["filename"]).resolve()
            table.writerow([where, row["category"], row["src_file"], *([row["fold"]] if folds else [])])
    return path


def document(rows: Sequence[dict[str, Any]]) -> str:
    """The document, made from the stored rows."""
    first = rows[0]
    lines = [
        "# What the encoder tells about labels",
        "",
        "Written by `python -m benchmarks.transfer`; do not edit. Linear probes (`cmmixer probe`): multinomial logistic regression on features that stay as",
        "they are, each file's the mean over its clips; the penalty is chosen within the training files. Accuracy over all files, each tested by what was learnt",
        "from the other folds, with a 95 % bootstrap interval over files. Nothing here was trained on these sounds: the runs learnt from small made-up films.",
        "",
        f"{first['machine']['cores']} cores, GPU: {first['machine']['cuda']}, torch {first['machine']['torch']}; {first['date']}.",
        "",
        f"| set | files | run | {' | '.join(KINDS.values())} | guessing |",
        f"|---|---|---|{'---|' * len(KINDS)}---|",
    ]
    for row in rows:
        cells = []
        for kind in KINDS:
            low, high = row[kind]["interval"]
            cells.append(f"{row[kind][row['metric']]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {row['set']} | {row['files']} | {row['run']} | {' | '.join(cells)} | {row['chance']:.3f} |")
    lines.append("")
    if SENSES.exists():
        lines += table(json.loads(SENSES.read_text()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
