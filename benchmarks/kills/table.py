"""Writes docs/kills.md from the stored rows."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kills.contents import NOTHING
from benchmarks.kills.jobs import JOBS, WORKER

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kills.md"


def document(rows: dict[str, Any]) -> str:
    """Returns the document, from the rows of `benchmarks/results/kills.json`."""
    lines = [
        *HEAD.splitlines(),
        "",
        "| job | killed | on disk after the job was killed | continued by itself after a worker was killed | same result in the end | longest time until all processes of a killed job had ended |",
        "|---|---|---|---|---|---|",
        *(_table_row(JOBS[name].title, rows[name]) for name in JOBS if name in rows),
    ]
    first = next(iter(rows.values()), None)
    if first is not None:
        machine = first["machine"]
        lines += [
            "",
            f"{first['videos']} videos and a broken one; {machine['cores']} cores, no GPU, torch {machine['torch']}, {first['date']}, beside other work (load average {min(row['load'] for row in rows.values()):g} to "
            f"{max(row['load'] for row in rows.values()):g}). Uninterrupted, the jobs take {_range(row['seconds_uninterrupted'] for row in rows.values())} s.",
        ]
    return "\n".join([*lines, "", *FINDINGS.splitlines(), ""])


def _table_row(title: str, row: dict[str, Any]) -> str:
    kills = row["kills"]
    targets = Counter(kill["target"] for kill in kills)
    ended = [kill for kill in kills if kill["target"] != WORKER]
    survived = sum(kill["exit_code"] == 0 for kill in kills if kill["target"] == WORKER)
    same = sum(not kill["problems"] for kill in kills)
    cells = [
        title,
        ", ".join(f"{count} {target}" for target, count in targets.items()),
        _progress(ended),
        f"{survived} of {targets[WORKER]}",
        f"**{same} of {len(kills)}**",
        f"{max(kill['orphans_seconds'] for kill in ended):.1f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _progress(kills: list[dict[str, Any]]) -> str:
    """Summarizes how far the killed jobs got: how many had written nothing, and the range of the others."""
    progress = [kill["on_disk"] for kill in kills]
    numbers = [(int(found[1]), found[2]) for text in progress if (found := re.search(r"(\d+) of (\d+)", text))]
    parts = [f"nothing: {progress.count(NOTHING)}"] if NOTHING in progress else []
    if numbers:
        unit = next((text.split()[-1] for text in progress if re.fullmatch(r"\d+ of \d+ .*", text)), "steps")
        parts.append(f"{min(numbers)[0]} to {max(numbers)[0]} of {numbers[0][1]} {unit}: {len(numbers)}")
    return ", ".join(parts)


def _range(values: Any) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.0f} to {ordered[-1]:.0f}"


HEAD = """# kill -9

Written by `python -m benchmarks.kills` from `benchmarks/results/kills.json`, which has one row per kill.

Long jobs die: a machine runs out of memory, a cluster takes its node back, somebody pulls the plug. Each long command was started 20 times and killed with SIGKILL at a random moment (seed 0) between
its first file and its end. The target was one of its decoder or loader processes, only its main process, one training process, only torchrun, or all processes. Then:

- **The output is inspected as it is.** A store opens and has the first clips of the uninterrupted one, each once, bit by bit. Every visible checkpoint is complete by its sha256. An index answers with
  complete files only, and has no moment twice. A Parquet file is complete or absent.
- **No process of the job continues** by itself and writes into the output of the next call.
- **The same command is called again**, without any manual repair.
- **The result is compared with the uninterrupted one**, bit by bit: clips, their order and the list of skipped videos; weights, optimizer state and the loss of every step. Rows of vectors are compared in
  order, and those of the index by name, with values within 1e-5 (a resumed index forms different batches). No temporary file remains.

Here, `prepare`, `index` and `embed` into a folder commit every 0.2 s instead of every 10 s, and training saves every 2 steps, so that kills fall between commits. Commands are forked from a process that has imported the libraries; two
training processes are started by torchrun as usual."""

FINDINGS = """## Bugs found and fixed

The first runs found these bugs. Each has a test now.

- **A decoder that was killed while it waited for work** blocked all others on a lock for 60 s, twice, and 10 of 40 videos were skipped as broken. Decoders shared one pipe; each has its own now.
- **A decoder that was killed at work** cost its video. When a process dies of SIGKILL or SIGTERM, the video is not the cause: it is tried once more, at its place in the order.
- **A killed loader process** ended the training with an internal error. Now the other loaders load the same batches in its place, also those that it had handed over and that can no longer be fetched. If loaders are
  killed four times in a row, training ends with a message that suggests a lower `--num_workers`.
- **Loader processes outlived a killed training** forever, with all their memory. torch checks whether their parent is alive, but their parent is the fork server. They now watch the process that they work for.
- **Training processes outlived a killed torchrun** and trained on, unnoticed (from step 14 to 86 in 20 s), into the folder that the next call writes to. They now end within seconds, and a run folder admits one training at a time.
- **`embed`** left a hidden temporary file per kill. The next call with the same `--out` removes it, unless another process is writing it.
- **`index`** never retried a video whose decoder was killed, unless the video changed. It does now, as `prepare` did.

## What to know

- A job loses at most the work since its last commit: 10 s or 64 MB of clips in `prepare`, 10 s or 2,000 rows in `index`, `--save_minutes` or `--save_steps` in training. `embed` resumes from its
  last commit if `--out` is a folder; a Parquet file is started again.
- A killed process cannot clean up the temporary folder of the system (`TMPDIR`, usually `/tmp`). It may leave `pymp-*` (a socket of Python's multiprocessing), `torchelastic_*` (logs of torchrun, which leaves
  them after every run) and `cmmixer-*` (uploads of `serve`, vectors of the benchmarks, a query from standard input). The latter are removed when the next process makes one of the same kind; Ctrl-C and SIGTERM leave none.
  `cmmixer-error-*.txt` are details of errors, kept for bug reports."""
