"""The report of the quickstart: its sentences and curves, from given metrics and logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmmixer.analysis.plots import Curves
from cmmixer.analysis.report import Estimate
from cmmixer.demo import report
from cmmixer.evaluation.evaluate import Evaluation

METRICS: dict[str, Any] = {
    "train_clips": 1200,
    "candidates": 200,
    "pretraining_gain": {"video_to_audio": 0.0123, "audio_to_video": -0.02},
    "shuffled_pairs": {"video_to_audio": {"R@1": 0.005}, "audio_to_video": {"R@1": 0.01}},
    "chance": {"R@1": 0.005},
}


def test_summary_names_the_data() -> None:
    synthetic, own = report._summary(METRICS, None), report._summary(METRICS, "~/videos")
    assert synthetic.startswith(
        "CMMixer learned from 1200 clips of small synthetic videos in which the picture causes the sound, "
    )
    assert own.startswith("CMMixer learned from 1200 clips of the videos of ~/videos, without any labels, ")
    assert "tested on 200 unseen clips" in own


def test_notes_state_gain_control_and_limits() -> None:
    gain, control, limits = report._notes(METRICS, None)
    assert gain.startswith("Pre-training changed R@1 by +1.2 points (video to sound) and -2.0 points (sound to video) ")
    assert control == (
        "Control: with randomly shuffled pairs, R@1 is 0.5 % and 1.0 %, and chance is 0.5 %. So only the content reveals the right one."
    )
    assert limits.startswith("The videos are synthetic and easy on purpose.")
    assert report._notes(METRICS, "~/videos")[2].endswith("They are no benchmark.")


def test_run_metrics_have_the_intervals_of_the_evaluation() -> None:
    metrics = {
        "video_to_audio": {"R@1": 0.5, "MedR": 2.0},
        "audio_to_video": {"R@1": 0.25},
        "intervals": {
            "video_to_audio": {"R@1": [0.4, 0.6], "MedR": [1.0, 3.0]},
            "audio_to_video": {"R@1": [0.2, 0.3]},
        },
    }
    evaluated = cast(Evaluation, SimpleNamespace(metrics=metrics))
    run = report._run("with pre-training", evaluated, "a note")
    assert run.video_to_audio == {"R@1": Estimate(0.5, 0.4, 0.6), "MedR": Estimate(2.0, 1.0, 3.0)}
    assert run.audio_to_video == {"R@1": Estimate(0.25, 0.2, 0.3)}
    assert (run.name, run.note) == ("with pre-training", "a note")


def test_curves_join_the_logs_of_both_fine_tunings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = SimpleNamespace(settings={"batch_size": 64})
    monkeypatch.setattr(report.checkpoint, "load_metadata", lambda run: metadata)
    drawn: list[Sequence[Curves]] = []

    def loss_curves(panels: Sequence[Curves], dark: bool = False) -> bytes:
        drawn.append(panels)
        return b"dark" if dark else b"light"

    monkeypatch.setattr(report, "loss_curves", loss_curves)
    logs = {
        "pretrain": [{"step": 1, "loss_video": 0.5, "loss_audio": 0.4}],
        "finetune": [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}],
        "baseline": [{"step": 1, "loss": 4.1}],
    }
    for run, rows in logs.items():
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot = report._curves(tmp_path)
    assert (plot.png, plot.png_dark) == (b"light", b"dark")
    pretraining, contrastive = drawn[0]
    assert pretraining.rows == logs["pretrain"]
    assert contrastive.rows == [{"step": 1, "loss": 4.0, "baseline": 4.1}, {"step": 2, "loss": 3.0}]
    assert contrastive.level == (pytest.approx(4.1588831), "chance")  # ln 64
