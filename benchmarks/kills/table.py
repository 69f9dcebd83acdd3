"""docs/kills.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kills.contents import NOTHING
from benchmarks.kills.jobs import KINDS, WORKER

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kills.md"


def document(rows: dict[str, Any]) -> str:
    """The text, from the rows of `benchmarks/results/kills.json`."""
    lines = [
        *HEAD.splitlines(),
        "",
        "| job | killed | on disk when the job was ended | went on by itself when a worker was killed | the same in the end | longest until nothing of an ended job ran |",
        "|---|---|---|---|---|---|",
        *(_row(KINDS[name].words, rows[name]) for name in KINDS if name in rows),
    ]
    first = next(iter(rows.values()), None)
    if first is not None:
        machine = first["machine"]
        lines += [
            "",
            f"{first['films']} films and a broken one; {machine['cores']} cores, no GPU, torch {machine['torch']}, {first['date']}, while other work ran (load {min(row['load'] for row in rows.values()):g} to "
            f"{max(row['load'] for row in rows.values()):g}). Uninterrupted, the jobs took {_span(row['seconds_uninterrupted'] for row in rows.values())} s.",
        ]
    return "\n".join([*lines, "", *FINDINGS.splitlines(), ""])


def _row(words: str, row: dict[str, Any]) -> str:
    kills = row["kills"]
    targets = Counter(kill["target"] for kill in kills)
    ended = [kill for kill in kills if kill["target"] != WORKER]
    survived = sum(kill["exit_code"] == 0 for kill in kills if kill["target"] == WORKER)
    same = sum(not kill["faults"] for kill in kills)
    cells = [
        words,
        ", ".join(f"{count} {target}" for target, count in targets.items()),
        _written(ended),
        f"{survived} of {targets[WORKER]}",
        f"**{same} of {len(kills)}**",
        f"{max(kill['orphans_seconds'] for kill in ended):.1f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _written(kills: list[dict[str, Any]]) -> str:
    """In how many kills nothing was there yet; of the others, from where to where."""
    told = [kill["on_disk"] for kill in kills]
    numbers = [(int(found[1]), found[2]) for text in told if (found := re.search(r"(\d+) of (\d+)", text))]
    words = [f"nothing: {told.count(NOTHING)}"] if NOTHING in told else []
    if numbers:
        unit = next((text.split()[-1] for text in told if re.fullmatch(r"\d+ of \d+ .*", text)), "steps")
        words.append(f"{min(numbers)[0]} to {max(numbers)[0]} of {numbers[0][1]} {unit}: {len(numbers)}")
    return ", ".join(words)


def _span(values: Any) -> str:
    found = sorted(values)
    return f"{found[0]:.0f} to {found[-1]:.0f}"


HEAD = """# kill -9

Written by `python -m benchmarks.kills` from `benchmarks/results/kills.json`, which has one row a kill.

Long jobs die: a machine runs out of memory, a cluster takes its node back, somebody pulls a plug. Each long command was started anew 20 times and killed with SIGKILL at a random moment (seed 0) between
its first file and its end: one of its decoding or loading processes, its own process and nothing else, one training process, torchrun and nothing else, or everything. Then:

- **what is on disk is looked at as it lies there**: a store opens and has the first clips of the uninterrupted one, each once, bit by bit; every checkpoint that shows is whole by its sha256; an index answers with
  whole files only, no moment twice; a Parquet file is there whole or not at all;
- **no process of the job goes on** by itself, to write into what the next call makes;
- **the same command is called again**, with nothing repaired by hand;
- **the result is compared with the uninterrupted one**: clips, their order and the list of films left out, bit by bit; weights, state of the optimiser and the loss of every step, bit by bit; rows of vectors in
  their order and of the index by name, values within 1e-5 (a resumed index makes other batches); no temporary file stays behind.

`prepare`, `index` and `embed` into a folder commit every 0.2 s here instead of every 10 s, and training saves every 2 steps, so that kills fall between commits. Commands are forked from a process that has the libraries loaded; two
training processes are started by torchrun as usual."""

FINDINGS = """## What it found, and what became of it

The first runs found these faults. Each has a test of its own now.

- **A decoder that was killed while it waited for work** kept all others waiting for a lock for 60 s, twice, and 10 of 40 films were left out as broken. Decoders shared one pipe; each has its own now.
- **A decoder that was killed at work** cost its film. A process that dies of SIGKILL or SIGTERM is not the film's fault: it is tried once more, in its place of the order.
- **A killed loading process** ended the training with "a fault of ours". Others now load what it would have loaded, the same batches, and batches that it had handed over and that can no longer be fetched; if they are
  killed four times in a row, it is told, with `--num_workers` as the thing to lower.
- **Loading processes outlived a killed training**, for ever, with all their memory: torch looks whether their parent lives, and their parent is the server that forks them. They now watch the process that they work for.
- **Training processes outlived a killed torchrun** and trained on, unseen (from step 14 to 86 in 20 s), into the folder that the next call writes to. They now end within seconds; and a folder of a run admits one training at a time.
- **`embed`** left a hidden temporary file for each kill. The next call with the same `--out` removes it, unless another process is writing it just now.
- **`index`** never tried a film again whose decoder was killed, unless the film changed. It does now, as `prepare` did.

## What people should know

- A job lost at most what it did since its last commit: 10 s or 64 MB of clips in `prepare`, 10 s or 2,000 rows in `index`, `--save_minutes` or `--save_steps` in training. `embed` goes on where its
  last commit was if `--out` is a folder; a Parquet file is begun again.
- A killed process cannot clear the temporary folder of the system (`TMPDIR`, mostly `/tmp`). What may stay there: `pymp-*` (a socket of Python's multiprocessing), `torchelastic_*` (logs of torchrun, which leaves
  them after every run), `cmmixer-*` (uploads of `serve`, vectors of `bench`, a query from standard input). The last go by themselves when the next process makes one of the same kind; Ctrl-C and SIGTERM leave none.
  `cmmixer-fault-*.txt` are details of errors, kept to be sent in."""
