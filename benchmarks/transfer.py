"""What the encoder tells about labels it was never given: linear probes and fine-tuning on sounds, films and both.

    python -m benchmarks.transfer --esc50 ../shared/data/esc50 --runs runs/quickstart/pretrain runs/quickstart/finetune
    python -m benchmarks.transfer --mode finetune --runs runs/quickstart/pretrain

ESC-10 with its official five folds, fold 4 of ESC-50 split by source recording, and made-up films of another seed than any
training (class: shape of the body that sounds), as a Kinetics list and twice as long as a clip; ten clips of each file are
averaged. Each row is written to `benchmarks/results/transfer.json` at once and left out by the next call for the same run;
`docs/transfer.md` is written from that file.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.modalities import RESULT as SENSES
from benchmarks.modalities import table
from cmmixer import ProbeSettings, SynthesizeSettings, checkpoint, probe, synthesize

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "transfer.json", ROOT / "docs" / "transfer.md"
FILMS, FILM_SEED, FILM_SECONDS = 300, 9_001, 8.0
KINDS = {
    "linear": ("its towers", "the same, untrained", "means and spreads, no network"),
    "finetune": ("its towers, trained on", "the same, from scratch", "means and spreads, no network"),
}
WAYS = ("trained", "untrained", "statistics")
# Of fine-tuning: every clip of every training file is seen so often.
EPOCHS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Probes every run on every set, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--esc50", type=Path, default=ROOT.parent / "shared" / "data" / "esc50")
    parser.add_argument("--runs", nargs="+", default=[], help="runs of pretrain or finetune")
    parser.add_argument("--mode", choices=tuple(KINDS), default="linear")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "transfer")
    parser.add_argument("--table", action="store_true", help="write the document from what is there, run nothing")
    options = parser.parse_args(arguments)
    if not options.table:
        sets = _sets(options.esc50, options.work)
        for run in options.runs:
            for words, data, task, label in sets:
                _probe_once(run, options.mode, words, data, task, label, options.work)
    DOCUMENT.write_text(document(_rows()))


def _rows() -> list[dict[str, Any]]:
    return list(json.loads(RESULT.read_text())) if RESULT.exists() else []


def _probe_once(run: str, mode: str, words: str, data: Path, task: str, label: str, work: Path) -> None:
    card, rows = checkpoint.load_card(run), _rows()
    if any((row["set"], row["mode"], row["model_id"]) == (words, mode, card.model_id) for row in rows):
        return
    settings = ProbeSettings(
        model=run, data=str(data), task=task, label=label, mode=mode, epochs=EPOCHS, out=str(work / "probe"),
        overwrite=True, workers=1,
    )  # fmt: skip
    result = probe(settings).result
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
    """The page, as Markdown."""
    first = rows[0]
    lines = [
        "# What the encoder tells about labels",
        "",
        "Written by `python -m benchmarks.transfer`; do not edit. Accuracy over all files, each tested by what was learnt from the other folds, with a 95 % bootstrap interval",
        f"over files. {first['clips']} clips of each file, evenly from its start to its end, cropped at the centre, are averaged. No run here was trained on these sounds or films: they learnt from other,",
        "made-up films. The made-up films here are a Kinetics list (`path label` lines), of other seeds and twice as long as a clip; their classes are the shapes of the body that sounds.",
        "`cmmixer probe` also writes a table of every class and a confusion picture, and the mean average precision where files have several classes.",
        "",
        f"{first['machine']['cores']} cores, GPU: {first['machine']['cuda']}, torch {first['machine']['torch']}; {', '.join(sorted({row['date'] for row in rows}))}.",
        "",
        "## Linear probes",
        "",
        "`cmmixer probe`: multinomial logistic regression on features that stay as they are; its penalty is chosen within the training files.",
        "",
        *_table(rows, "linear"),
        "",
    ]
    if any(row["mode"] == "finetune" for row in rows):
        lines += [
            "## Fine-tuning",
            "",
            f"`cmmixer probe --mode finetune`: the towers are trained on, from their own linear probe on; every clip of the training files is seen {EPOCHS} times, with the default augmentation.",
            "The last column is the linear classifier on plain statistics again.",
            "",
            *_table(rows, "finetune"),
            "",
        ]
    if SENSES.exists():
        lines += table(json.loads(SENSES.read_text()))
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]], mode: str) -> list[str]:
    lines = [
        f"| set | files | run | {' | '.join(KINDS[mode])} | guessing |",
        f"|---|---|---|{'---|' * len(WAYS)}---|",
    ]
    for row in rows:
        if row["mode"] != mode:
            continue
        cells = []
        for way in WAYS:
            low, high = row[way]["interval"]
            cells.append(f"{row[way][row['metric']]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {row['set']} | {row['files']} | {row['run']} | {' | '.join(cells)} | {row['chance']:.3f} |")
    return lines


if __name__ == "__main__":
    main()
