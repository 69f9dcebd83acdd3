"""What a job has left on disk: is it sound, how far did it get, and is it what an uninterrupted job leaves?

`look` functions take what an uninterrupted job left and what is there after a kill, and say in words how far it got.
`differences` functions take the same two when the job has been called again; each item is one thing that is not the same.
Both raise `Damage`, or an error of CMMixer, where something cannot be read.
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
from cmmixer.data.store import CARD, ClipStore
from cmmixer.embedding import vector_table as vector_folder
from cmmixer.embedding.read import read_vectors
from cmmixer.retrieval.index import MomentIndex
from cmmixer.storage.files import TEMPORARY
from cmmixer.train.resume import read_state

NOTHING = "nothing yet"
# Of values of unit vectors: a resumed index makes other batches, and sums are rounded otherwise in these.
VECTOR_TOLERANCE = 1e-5


class Damage(Exception):  # noqa: N818 - a word for people, it ends up in the table
    """Something on disk is not what it must be at any moment."""


def _clips(store: Path) -> pa.Table:
    return lance.dataset(str(store / "clips.lance")).to_table(scan_in_order=True, blob_handling="all_binary")


def look_at_store(truth: Path, here: Path) -> str:
    """Clips that are in a store: each once, each as it will be."""
    if not (here / CARD).exists() or not (here / "clips.lance" / "_versions").is_dir():
        return NOTHING
    ids = ClipStore.open(here).ids
    _once(ids, "clips")
    if not _clips(here).equals(_clips(truth).slice(0, len(ids))):
        raise Damage("the clips that are there are not the first ones of the uninterrupted store")
    return f"{len(ids)} of {len(ClipStore.open(truth))} clips"


def differences_of_stores(truth: Path, here: Path) -> list[str]:
    """All rows in order, bit by bit, and the report of what was left out."""
    found = []
    if not _clips(here).equals(_clips(truth)):
        mine, theirs = Counter(_clips(here)["id"].to_pylist()), Counter(_clips(truth)["id"].to_pylist())
        found.append(f"clips differ: lost {sorted(theirs - mine)}, doubled or new {sorted(mine - theirs)}, or order")
    return found + _texts(truth, here, "skipped.json", "skipped.txt", CARD)


def look_at_run(truth: Path, here: Path) -> str:
    """The step that a training run stands at; every checkpoint that shows is whole."""
    for folder in here.glob("checkpoints/step-*"):
        checkpoint.load_weights(folder)
        _state(folder)
    if not (here / "latest").exists():
        return NOTHING
    step, last = (checkpoint.load_progress(run)["step"] for run in (here, truth))
    checkpoint.load_weights(here)
    return f"step {step} of {last}"


def differences_of_runs(truth: Path, here: Path) -> list[str]:
    """Weights, optimiser state, losses of every step, each bit by bit; the list of checkpoints and of sources."""
    found = []
    for name, tensors in (("weights", checkpoint.load_weights), ("the optimiser's state", _state)):
        mine, theirs = tensors(here), tensors(truth)
        worst = max(float((mine[key].double() - theirs[key].double()).abs().max()) for key in theirs)
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[key], theirs[key]) for key in theirs):
            found.append(f"{name} differs by up to {worst:.2g}")
    mine_log, theirs_log = _log(here), _log(truth)
    if [row["step"] for row in mine_log] != [row["step"] for row in theirs_log]:
        found.append(f"log has steps {[row['step'] for row in mine_log]}")
    elif mine_log != theirs_log:
        found.append("losses in the log differ")
    kept = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (here, truth)]
    if kept[0] != kept[1]:
        found.append(f"checkpoints {kept[0]}, not {kept[1]}")
    return found + _texts(truth, here, "latest", "sources.txt", "skipped.json")


def _state(run: Path) -> dict[str, Tensor]:
    return read_state(run, checkpoint.build(checkpoint.load_card(run)))


def _log(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "clips_per_second"} for row in rows]


def look_at_vectors(truth: Path, here: Path) -> str:
    """A Parquet file that is there is whole."""
    if not here.exists():
        return NOTHING
    faults = differences_of_vectors(truth, here)
    if faults:
        raise Damage("; ".join(faults))
    return "the whole file"


def differences_of_vectors(truth: Path, here: Path) -> list[str]:
    """All rows in order; vectors within `VECTOR_TOLERANCE`."""
    mine, theirs = pq.read_table(here), pq.read_table(truth)
    senses = ["video", "audio"]
    if not mine.drop_columns(senses).equals(theirs.drop_columns(senses)):
        return ["rows differ"]
    return _apart(mine.select(senses).to_pylist(), theirs.select(senses).to_pylist())


def look_at_vector_folder(truth: Path, here: Path) -> str:
    """Films that are in a folder of vectors: each with all of its moments, once."""
    if not (here / vector_folder.CARD).exists() or not (here / vector_folder.TABLE / "_versions").is_dir():
        return NOTHING
    mine, theirs = _moments_of_films(here), _moments_of_films(truth)
    for film, starts in mine.items():
        if starts != theirs.get(film):
            raise Damage(f"{film}: its moments are not those of the uninterrupted folder, each once")
    return f"{len(mine)} of {len(theirs)} films"


def differences_of_vector_folders(truth: Path, here: Path) -> list[str]:
    """All rows, in order of films and moments; vectors within `VECTOR_TOLERANCE`; the report of what was left out."""
    senses = ["video", "audio"]
    mine, theirs = (
        read_vectors(place).sort_by([("path", "ascending"), ("start_seconds", "ascending")]) for place in (here, truth)
    )
    if not mine.drop_columns(senses).equals(theirs.drop_columns(senses)):
        return ["rows differ"]
    apart = _apart(mine.select(senses).to_pylist(), theirs.select(senses).to_pylist())
    return apart + _texts(truth, here, "skipped.json", "skipped.txt")


def _moments_of_films(place: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    rows = lance.dataset(str(place / vector_folder.TABLE)).to_table(columns=["path", "start_seconds"]).to_pylist()
    for row in rows:
        found.setdefault(row["path"], []).append(row["start_seconds"])
    return {film: sorted(starts) for film, starts in found.items()}


def look_at_index(truth: Path, here: Path) -> str:
    """Files that an index answers for: each once, with all of its moments, as they will be."""
    if not all((here / name).exists() for name in ("index.json", "files.lance/_versions", "moments.lance/_versions")):
        return NOTHING
    mine, theirs = _index(here, only_named=True), _index(truth)
    strange = mine[0].keys() - theirs[0].keys() | mine[1].keys() - theirs[1].keys()
    if strange:
        raise Damage(f"there are rows that an uninterrupted index has not: {sorted(strange)[:3]}")
    for name, row in mine[0].items():
        if row["moments"] != sum(1 for moment in mine[1].values() if moment["path"] == row["path"]):
            raise Damage(f"{name}: not all of its moments are there")
    return f"{len(mine[0])} of {len(theirs[0])} files"


def differences_of_indexes(truth: Path, here: Path) -> list[str]:
    """All rows of files and of moments, by name; no moment that no file names; vectors within `VECTOR_TOLERANCE`."""
    mine, theirs = _index(here), _index(truth)
    found = []
    if mine[0] != theirs[0]:
        found.append(f"files differ: {sorted(set(mine[0]) ^ set(theirs[0]))}")
    senses = ("video", "audio", "film")
    plain = [
        {name: {k: v for k, v in row.items() if k not in senses} for name, row in rows.items()}
        for rows in (mine[1], theirs[1])
    ]
    if plain[0] != plain[1]:
        found.append(f"moments differ: {sorted(set(plain[0]) ^ set(plain[1]))}")
    else:
        pairs = [[{k: rows[name][k] for k in senses} for name in sorted(rows)] for rows in (mine[1], theirs[1])]
        found += _apart(*pairs)
    return found + _texts(truth, here, "skipped.json", "skipped.txt")


def _index(folder: Path, *, only_named: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows of files by name and of moments by id, without the keys that tie them, which are drawn at random."""
    index = MomentIndex.open(folder)
    files = list(index.files())
    _once([row.name for row in files], "files")
    named = {row.batch for row in files}
    columns = ["id", "batch", "path", "source", "start_seconds", "end_seconds", "video", "audio", "film"]
    moments = index.moments.to_table(columns=columns).to_pylist()
    if only_named:  # what else is there does not count, and goes when the index is next written
        moments = [row for row in moments if row["batch"] in named]
    if not {row["batch"] for row in moments} <= named:
        raise Damage("there are moments that no file names")
    _once([row["id"] for row in moments], "moments")
    rows = {row.name: {name: value for name, value in vars(row).items() if name != "batch"} for row in files}
    return rows, {row.pop("id"): {k: v for k, v in row.items() if k != "batch"} for row in moments}


def _apart(mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[str]:
    """Whether vectors are the same within the tolerance, None where None is."""
    worst = 0.0
    for one, other in zip(mine, theirs, strict=True):
        for sense, vector in other.items():
            if (vector is None) != (one[sense] is None):
                return [f"a vector of {sense} is there in one only"]
            if vector is not None:
                worst = max(worst, float(np.abs(np.subtract(vector, one[sense])).max()))
    return [f"vectors differ by up to {worst:.2g}"] if worst > VECTOR_TOLERANCE else []


def _once(names: Sequence[str], what: str) -> None:
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise Damage(f"{what} are there twice: {double[:3]}")


def _texts(truth: Path, here: Path, *names: str) -> list[str]:
    """Small files that must be the same to the letter, but for the name of the folder."""
    found = []
    for name in names:
        texts = [
            (folder / name).read_text().replace(str(folder), "OUT") if (folder / name).exists() else None
            for folder in (truth, here)
        ]
        if texts[0] != texts[1]:
            found.append(f"{name} differs")
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files of killed writers, by name."""
    return sorted(path.name for path in folder.rglob(f"{TEMPORARY}*"))
