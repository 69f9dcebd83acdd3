"""What do the features of a run know about labels? Linear probes and fine-tuning on sounds, videos and both. Writes docs/transfer.md.

    python -m benchmarks.transfer --esc50 ../shared/data/esc50 --runs runs/quickstart/pretrain runs/quickstart/finetune
    python -m benchmarks.transfer --mode finetune --runs runs/quickstart/pretrain
    python -m benchmarks.transfer --table             # writes the document from the stored results, probes nothing

Data sets: ESC-10 with its official five folds; fold 4 of ESC-50, split by source recording; and synthetic videos with another seed
than any training set (class: shape of the sounding body), as a Kinetics list and twice as long as a clip. Ten clips of each file are
averaged. Results are stored in `benchmarks/results/transfer.json` one by one, and the next call skips them.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.modalities import RESULT as MODALITIES_RESULT
from benchmarks.modalities import table_lines
from cmmixer import ProbeSettings, SynthesizeSettings, checkpoint, probe, synthesize

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "transfer.json", ROOT / "docs" / "transfer.md"
VIDEOS, VIDEO_SEED, VIDEO_SECONDS = 300, 9_001, 8.0
COLUMNS = {
    "linear": ("towers of the run", "untrained towers (baseline)", "plain statistics, no network"),
    "finetune": ("towers of the run, fine-tuned", "no pre-training (baseline)", "plain statistics, no network"),
}
FEATURES = ("trained", "untrained", "statistics")
# Of fine-tuning.
EPOCHS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Probes every run on every data set, then writes the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--esc50", type=Path, default=ROOT.parent / "shared" / "data" / "esc50")
    parser.add_argument("--runs", nargs="+", default=[], help="runs of pretrain or finetune")
    parser.add_argument("--mode", choices=tuple(COLUMNS), default="linear")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "transfer")
    parser.add_argument(
        "--table", action="store_true", help="write the document from the stored results, probe nothing"
    )
    options = parser.parse_args(arguments)
    if not options.table:
        data_sets = _data_sets(options.esc50, options.work)
        for run in options.runs:
            for name, data, task, label in data_sets:
                _probe_once(run, options.mode, name, data, task, label, options.work)
    DOCUMENT.write_text(document(_rows()))


def _rows() -> list[dict[str, Any]]:
    return list(json.loads(RESULT.read_text())) if RESULT.exists() else []


def _probe_once(run: str, mode: str, name: str, data: Path, task: str, label: str, work: Path) -> None:
    metadata, rows = checkpoint.load_metadata(run), _rows()
    if any((row["set"], row["mode"], row["model_id"]) == (name, mode, metadata.model_id) for row in rows):
        return
    settings = ProbeSettings(
        model=run, data=str(data), task=task, label=label, mode=mode, epochs=EPOCHS, out=str(work / "probe"),
        overwrite=True, workers=1,
    )  # fmt: skip
    result = probe(settings).result
    rows.append(
        {
            "set": name,
            "run": f"{metadata.kind}, {metadata.clips_seen:,} clips seen, trained on {(metadata.data or {}).get('clips')} clips",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            **{key: value for key, value in result.items() if key not in ("out", "data", "model")},
        }
    )
    # One line per row: confusion matrices would fill thousands of lines.
    RESULT.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def _data_sets(esc50: Path, work: Path) -> list[tuple[str, Path, str, str]]:
    """Prepares the data sets and returns name, path, task and label column of each."""
    work.mkdir(parents=True, exist_ok=True)
    with (esc50 / "esc50.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ten = [row for row in rows if row["esc10"] == "True"]
    four = [row for row in rows if row["fold"] == "4"]
    # A class whose sounds all come from one recording cannot be split into training and test set.
    recordings: dict[str, set[str]] = {}
    for row in four:
        recordings.setdefault(row["category"], set()).add(row["src_file"])
    several = {category for category, files in recordings.items() if len(files) > 1}
    four = [row for row in four if row["category"] in several]
    official = _manifest(work / "esc10.csv", esc50, ten, folds=True)
    split = _manifest(work / "esc50-fold4.csv", esc50, four, folds=False)
    videos = work / "videos"
    synthesize(
        SynthesizeSettings(clips=VIDEOS, out=str(videos), seed=VIDEO_SEED, seconds=VIDEO_SECONDS, difficulty="easy")
    )
    with (videos / "manifest.csv").open(newline="") as file:
        listed = [f"videos/{row['path']} {row['label']}" for row in csv.DictReader(file)]
    (work / "videos.list").write_text("\n".join(listed) + "\n")
    return [
        ("ESC-10, 5 official folds", official, "audio", "label"),
        (
            f"ESC-50, fold 4 in 5 folds by source recording, the {len(several)} classes with more than one",
            split,
            "audio",
            "label",
        ),
        *(
            (f"{VIDEOS} synthetic videos, {task}, in 5 folds", work / "videos.list", task, "label")
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
    """Returns the document."""
    first = rows[0]
    lines = [
        "# What the features know about labels",
        "",
        "Written by `python -m benchmarks.transfer`; do not edit. Accuracy over all files, each tested with a classifier trained on the other folds, with a 95 % bootstrap interval",
        f"over files. The features of a file are the mean over {first['clips']} center-cropped clips, evenly from its start to its end. No run was trained on these sounds or videos, but on other,",
        "synthetic videos. The synthetic videos here are given as a Kinetics list (`path label` lines), have other seeds and are twice as long as a clip; their classes are the shapes of the sounding body.",
        "`cmmixer probe` also writes metrics per class and a confusion matrix, and mean average precision if files have several classes.",
        "",
        f"{first['machine']['cores']} cores, GPU: {first['machine']['cuda']}, torch {first['machine']['torch']}; {', '.join(sorted({row['date'] for row in rows}))}.",
        "",
        "## Linear probes",
        "",
        "`cmmixer probe`: multinomial logistic regression on frozen features; the penalty is chosen within the training files.",
        "",
        *_table(rows, "linear"),
        "",
    ]
    if any(row["mode"] == "finetune" for row in rows):
        lines += [
            "## Fine-tuning",
            "",
            f"`cmmixer probe --mode finetune`: the towers are fine-tuned, with a head initialized by their linear probe; every clip of the training files is seen {EPOCHS} times, with the default augmentation.",
            "The last column repeats the linear classifier on plain statistics.",
            "",
            *_table(rows, "finetune"),
            "",
        ]
    if MODALITIES_RESULT.exists():
        lines += table_lines(json.loads(MODALITIES_RESULT.read_text()))
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]], mode: str) -> list[str]:
    lines = [
        f"| data set | files | run | {' | '.join(COLUMNS[mode])} | chance |",
        f"|---|---|---|{'---|' * len(FEATURES)}---|",
    ]
    for row in rows:
        if row["mode"] != mode:
            continue
        cells = []
        for features in FEATURES:
            low, high = row[features]["interval"]
            cells.append(f"{row[features][row['metric']]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {row['set']} | {row['files']} | {row['run']} | {' | '.join(cells)} | {row['chance']:.3f} |")
    return lines


if __name__ == "__main__":
    main()
