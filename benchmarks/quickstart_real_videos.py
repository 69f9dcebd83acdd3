"""A small test, not a benchmark: a retriever trained on synthetic videos, tested on real ones before and after fine-tuning on a few.

    python -m benchmarks.quickstart_real_videos --model runs/quickstart/finetune --videos ../shared/data/films/manifest.csv

The column `split` of the manifest separates the training videos (cut into clips a second apart) from the gallery (one clip each; videos
shorter than a clip are skipped and counted). Results are stored in `benchmarks/results/real-videos.json`;
`python -m benchmarks.study --budget cpu --table` writes them into docs/study.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmmixer import checkpoint
from cmmixer.data.manifest import read_manifest
from cmmixer.runtime import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "real-videos.json"
FINETUNING = {"epochs": 24, "batch_size": 32, "lr": 3e-4, "warmup_epochs": 2, "num_workers": 0, "keep_gb": 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates, fine-tunes with each seed, and evaluates again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a run of finetune, trained on synthetic videos")
    parser.add_argument("--videos", type=Path, default=ROOT.parent / "shared" / "data" / "films" / "manifest.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "real-videos")
    options = parser.parse_args(arguments)
    stores = {split: options.out / f"store-{split}" for split in ("train", "gallery")}
    clip = dataclasses.asdict(checkpoint.load_metadata(options.model).clip)
    for split, store in stores.items():
        stride = {"stride_seconds": 1.0} if split == "train" else {}
        _cmmixer("prepare", data=options.videos, split=split, out=store, **clip, **stride)
    gallery = {"data": stores["gallery"], "gallery": options.out / "gallery.json", "num_workers": 0}
    before = _evaluate(options.out / "before", model=options.model, **gallery)
    after = []
    for seed in options.seeds:
        run = options.out / f"finetune-seed-{seed}"
        _cmmixer("finetune", init=options.model, data=stores["train"], out=run, seed=seed, **FINETUNING)
        after.append({"seed": seed, **_evaluate(run, model=run, **gallery)})
    trained_on = checkpoint.load_metadata(options.out / f"finetune-seed-{options.seeds[0]}").data or {}
    result = {
        "command": f"python -m benchmarks.quickstart_real_videos --model {options.model}",
        "train": {name: value for name, value in trained_on.items() if name != "path"},
        "finetuning": FINETUNING,
        "gallery_videos": len(read_manifest(options.videos, "gallery")),
        "before": before,
        "after": after,
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def _evaluate(folder: Path, model: Path, **settings: Any) -> dict[str, Any]:
    out = folder / "metrics.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    _cmmixer("evaluate", str(model), **settings, out=out)
    metrics: dict[str, Any] = json.loads(out.read_text())
    return metrics


def _cmmixer(*command: str, **settings: Any) -> None:
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "cmmixer", *command, *flags], check=True)


if __name__ == "__main__":
    main()
