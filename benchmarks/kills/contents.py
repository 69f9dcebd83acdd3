"""Inspects the output of a job: is it valid, how far did the job get, and does it equal that of an uninterrupted job?

`inspect` functions take the output of an uninterrupted job and that of a killed one, and return how far the killed one got.
`differences` functions take the same after the killed job was called again, and return a list of differences.
Both raise `Damage`, or an error of CMMixer, if the output is invalid.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.data.store import METADATA, ClipStore
from cmmixer.embedding import vector_table
from cmmixer.embedding.read import read_vectors
from cmmixer.retrieval.index import MomentIndex
from cmmixer.storage.files import TEMPORARY
from cmmixer.train.resume import read_optimizer_state

NOTHING = "nothing yet"
# For the values of unit vectors: a resumed job forms different batches, whose sums are rounded differently.
VECTOR_TOLERANCE = 1e-5


class Damage(Exception):  # noqa: N818 - the name is shown in the table
    """Output that is invalid, which must not happen at any moment."""


def _clips(store: Path) -> pa.Table:
    return lance.dataset(str(store / "clips.lance")).to_table(scan_in_order=True, blob_handling="all_binary")


def inspect_store(truth: Path, killed: Path) -> str:
    """Checks that the clips of a store are the first ones of the complete store, each once."""
    if not (killed / METADATA).exists() or not (killed / "clips.lance" / "_versions").is_dir():
        return NOTHING
    ids = ClipStore.open(killed).ids
    _check_unique(ids, "clips")
    if not _clips(killed).equals(_clips(truth).slice(0, len(ids))):
        raise Damage("its clips are not the first ones of the uninterrupted store")
    return f"{len(ids)} of {len(ClipStore.open(truth))} clips"


def differences_of_stores(truth: Path, killed: Path) -> list[str]:
    """Compares all rows in order, bit by bit, and the report of skipped files."""
    found = []
    if not _clips(killed).equals(_clips(truth)):
        mine, theirs = Counter(_clips(killed)["id"].to_pylist()), Counter(_clips(truth)["id"].to_pylist())
        found.append(f"clips differ: lost {sorted(theirs - mine)}, doubled or new {sorted(mine - theirs)}, or order")
    return found + _text_differences(truth, killed, "skipped.json", "skipped.txt", METADATA)


def inspect_run(truth: Path, killed: Path) -> str:
    """Checks that every visible checkpoint is complete, and returns the step of the latest."""
    for folder in killed.glob("checkpoints/step-*"):
        checkpoint.load_weights(folder)
        _state(folder)
    if not (killed / "latest").exists():
        return NOTHING
    step, last = (checkpoint.load_progress(run)["step"] for run in (killed, truth))
    checkpoint.load_weights(killed)
    return f"step {step} of {last}"


def differences_of_runs(truth: Path, killed: Path) -> list[str]:
    """Compares weights, optimizer state and losses of all steps, bit by bit, and the lists of checkpoints and of sources."""
    found = []
    for name, tensors in (("weights", checkpoint.load_weights), ("the optimizer's state", _state)):
        mine, theirs = tensors(killed), tensors(truth)
        worst = max(float((mine[key].double() - theirs[key].double()).abs().max()) for key in theirs)
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[key], theirs[key]) for key in theirs):
            found.append(f"{name} differs by up to {worst:.2g}")
    mine_log, theirs_log = _log(killed), _log(truth)
    if [row["step"] for row in mine_log] != [row["step"] for row in theirs_log]:
        found.append(f"log has steps {[row['step'] for row in mine_log]}")
    elif mine_log != theirs_log:
        found.append("losses in the log differ")
    kept = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (killed, truth)]
    if kept[0] != kept[1]:
        found.append(f"checkpoints {kept[0]}, not {kept[1]}")
    return found + _text_differences(truth, killed, "latest", "sources.txt", "skipped.json")


def _state(run: Path) -> dict[str, Tensor]:
    return read_optimizer_state(run, checkpoint.build(checkpoint.load_metadata(run)))


def _log(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "clips_per_second"} for row in rows]


def inspect_vectors(truth: Path, killed: Path) -> str:
    """Checks that a Parquet file, if it exists, is complete."""
    if not killed.exists():
        return NOTHING
    differences = differences_of_vectors(truth, killed)
    if differences:
        raise Damage("; ".join(differences))
    return "the whole file"


def differences_of_vectors(truth: Path, killed: Path) -> list[str]:
    """Compares all rows in order; vectors within `VECTOR_TOLERANCE`."""
    mine, theirs = pq.read_table(killed), pq.read_table(truth)
    modalities = ["video", "audio"]
    if not mine.drop_columns(modalities).equals(theirs.drop_columns(modalities)):
        return ["rows differ"]
    return _vector_differences(mine.select(modalities).to_pylist(), theirs.select(modalities).to_pylist())


def inspect_vector_folder(truth: Path, killed: Path) -> str:
    """Checks that every video in a folder of vectors has all of its moments, each once."""
    if not (killed / vector_table.METADATA).exists() or not (killed / vector_table.TABLE / "_versions").is_dir():
        return NOTHING
    mine, theirs = _moments_of_videos(killed), _moments_of_videos(truth)
    for video, starts in mine.items():
        if starts != theirs.get(video):
            raise Damage(f"{video}: its moments are not those of the uninterrupted folder, each once")
    return f"{len(mine)} of {len(theirs)} videos"


def differences_of_vector_folders(truth: Path, killed: Path) -> list[str]:
    """Compares all rows, sorted by video and moment, vectors within `VECTOR_TOLERANCE`, and the report of skipped files."""
    modalities = ["video", "audio"]
    mine, theirs = (
        read_vectors(place).sort_by([("path", "ascending"), ("start_seconds", "ascending")])
        for place in (killed, truth)
    )
    if not mine.drop_columns(modalities).equals(theirs.drop_columns(modalities)):
        return ["rows differ"]
    differences = _vector_differences(mine.select(modalities).to_pylist(), theirs.select(modalities).to_pylist())
    return differences + _text_differences(truth, killed, "skipped.json", "skipped.txt")


def _moments_of_videos(place: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    rows = lance.dataset(str(place / vector_table.TABLE)).to_table(columns=["path", "start_seconds"]).to_pylist()
    for row in rows:
        found.setdefault(row["path"], []).append(row["start_seconds"])
    return {video: sorted(starts) for video, starts in found.items()}


def inspect_index(truth: Path, killed: Path) -> str:
    """Checks that every file of an index is there once, with all of its moments, as in the complete index."""
    if not all((killed / name).exists() for name in ("index.json", "files.lance/_versions", "moments.lance/_versions")):
        return NOTHING
    mine, theirs = _index(killed, only_named=True), _index(truth)
    unexpected = mine[0].keys() - theirs[0].keys() | mine[1].keys() - theirs[1].keys()
    if unexpected:
        raise Damage(f"it has rows that the uninterrupted index has not: {sorted(unexpected)[:3]}")
    for name, row in mine[0].items():
        if row["moments"] != sum(1 for moment in mine[1].values() if moment["path"] == row["path"]):
            raise Damage(f"{name}: not all of its moments are in the index")
    return f"{len(mine[0])} of {len(theirs[0])} files"


def differences_of_indexes(truth: Path, killed: Path) -> list[str]:
    """Compares all rows of files and of moments by name, vectors within `VECTOR_TOLERANCE`; every moment must belong to a file."""
    mine, theirs = _index(killed), _index(truth)
    found = []
    if mine[0] != theirs[0]:
        found.append(f"files differ: {sorted(set(mine[0]) ^ set(theirs[0]))}")
    modalities = ("video", "audio", "any")
    plain = [
        {name: {k: v for k, v in row.items() if k not in modalities} for name, row in rows.items()}
        for rows in (mine[1], theirs[1])
    ]
    if plain[0] != plain[1]:
        found.append(f"moments differ: {sorted(set(plain[0]) ^ set(plain[1]))}")
    else:
        pairs = [[{k: rows[name][k] for k in modalities} for name in sorted(rows)] for rows in (mine[1], theirs[1])]
        found += _vector_differences(*pairs)
    return found + _text_differences(truth, killed, "skipped.json", "skipped.txt")


def _index(folder: Path, *, only_named: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the rows of files by name and of moments by id, without the keys that link them, which are random."""
    index = MomentIndex.open(folder)
    files = list(index.files())
    _check_unique([row.name for row in files], "files")
    named = {row.batch for row in files}
    columns = ["id", "batch", "path", "source", "start_seconds", "end_seconds", "video", "audio", "any"]
    moments = index.moments.to_table(columns=columns).to_pylist()
    if only_named:  # other rows are invisible, and removed at the next write
        moments = [row for row in moments if row["batch"] in named]
    if not {row["batch"] for row in moments} <= named:
        raise Damage("it has moments without a file")
    _check_unique([row["id"] for row in moments], "moments")
    rows = {row.name: {name: value for name, value in vars(row).items() if name != "batch"} for row in files}
    return rows, {row.pop("id"): {k: v for k, v in row.items() if k != "batch"} for row in moments}


def _vector_differences(mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[str]:
    """Compares vectors within the tolerance; None must equal None."""
    worst = 0.0
    for row, expected in zip(mine, theirs, strict=True):
        for modality, vector in expected.items():
            if (vector is None) != (row[modality] is None):
                return [f"a vector of {modality} is in one of them only"]
            if vector is not None:
                worst = max(worst, float(np.abs(np.subtract(vector, row[modality])).max()))
    return [f"vectors differ by up to {worst:.2g}"] if worst > VECTOR_TOLERANCE else []


def _check_unique(names: Sequence[str], what: str) -> None:
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise Damage(f"duplicate {what}: {duplicates[:3]}")


def _text_differences(truth: Path, killed: Path, *names: str) -> list[str]:
    """Compares small text files, ignoring the name of the folder."""
    found = []
    for name in names:
        texts = [
            (folder / name).read_text().replace(str(folder), "OUT") if (folder / name).exists() else None
            for folder in (truth, killed)
        ]
        if texts[0] != texts[1]:
            found.append(f"{name} differs")
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files of killed writers, by name."""
    return sorted(path.name for path in folder.rglob(f"{TEMPORARY}*"))
