"""A look, not a benchmark: a retriever trained on synthetic films meets real ones, before and after fine-tuning on a few.

    python -m benchmarks.quickstart_real_videos --model runs/quickstart/finetune --films ../shared/data/films/manifest.csv

The manifest's column `split` says which films are to train on (each cut into clips a second apart) and which to find among
(one clip each; films shorter than a clip are left out and counted). Figures go to `benchmarks/results/real-videos.json`, from
which `python -m benchmarks.study --budget cpu --table` writes the study's section.
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
from cmmixer.runtime import machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "real-films.json"
FINETUNING = {"epochs": 24, "batch_size": 32, "lr": 3e-4, "warmup_epochs": 2, "num_workers": 0, "keep_gb": 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates, fine-tunes under each seed, evaluates again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a run of finetune, trained on synthetic films")
    parser.add_argument("--films", type=Path, default=ROOT.parent / "shared" / "data" / "films" / "manifest.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "real-films")
    options = parser.parse_args(arguments)
    stores = {split: options.out / f"store-{split}" for split in ("train", "gallery")}
    clip = dataclasses.asdict(checkpoint.load_card(options.model).clip)
    for split, store in stores.items():
        stride = {"stride_seconds": 1.0} if split == "train" else {}
        _cmmixer("prepare", data=options.films, split=split, out=store, **clip, **stride)
    gallery = {"data": stores["gallery"], "gallery": options.out / "gallery.json", "num_workers": 0}
    before = _evaluated(options.out / "before", model=options.model, **gallery)
    after = []
    for seed in options.seeds:
        run = options.out / f"finetune-seed-{seed}"
        _cmmixer("finetune", init=options.model, data=stores["train"], out=run, seed=seed, **FINETUNING)
        after.append({"seed": seed, **_evaluated(run, model=run, **gallery)})
    learnt = checkpoint.load_card(options.out / f"finetune-seed-{options.seeds[0]}").data or {}
    result = {
        "command": f"python -m benchmarks.quickstart_real_videos --model {options.model}",
        "train": {name: value for name, value in learnt.items() if name != "path"},
        "finetuning": FINETUNING,
        "gallery_films": len(read_manifest(options.films, "gallery")),
        "before": before,
        "after": after,
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def _evaluated(folder: Path, model: Path, **settings: Any) -> dict[str, Any]:
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
