"""Fine-tuned classifiers: initialized by the linear probe, tested on other folds, and resumed only by the same probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cmmixer import checkpoint
from cmmixer.analysis.features import TowerFeatures
from cmmixer.analysis.labels import read_labelled
from cmmixer.analysis.linear_probe import HEAD_INIT_C
from cmmixer.analysis.probe import probe
from cmmixer.analysis.probe_finetune import Finetuning
from cmmixer.data.memmap import decode_to_memmap
from cmmixer.errors import CheckpointError
from cmmixer.progress import NoProgress
from tests.support.coloured_videos import video
from tests.support.labelled_media import (
    COLORS,
    SMALL,
    finetune_settings,
    make_colored_videos,
    write_manifest,
)
from tests.support.small_runs import untrained_run


def test_finetuned_towers_are_tested_on_other_folds(tmp_path: Path) -> None:
    data = make_colored_videos(tmp_path / "videos")
    (tmp_path / "videos" / "red-0.mp4").write_bytes(b"no video")
    untrained_run(tmp_path / "run", SMALL)
    settings = finetune_settings(tmp_path, data)
    result = probe(settings).result
    assert (result["mode"], result["files"], result["skipped"]) == ("finetune", 17, 1)
    assert result["trained"]["accuracy"] >= 0.8
    assert "red-0.mp4" in (tmp_path / "out" / "skipped.txt").read_text()
    folders = sorted(path.name for path in (tmp_path / "out" / "trained").iterdir())
    assert folders == ["fold-0", "fold-1", "fold-2"]
    metadata = checkpoint.load_metadata(tmp_path / "out" / "trained" / "fold-1")
    assert metadata.options["classes"] == ["blue", "green", "red"]
    assert (metadata.kind, metadata.parent) == ("classifier", checkpoint.load_metadata(tmp_path / "run").model_id)
    assert list((tmp_path / "out").glob(".clips*")) == []


def test_finished_probe_is_reused_and_another_one_is_refused(tmp_path: Path) -> None:
    data = make_colored_videos(tmp_path / "videos", per_class=3)
    untrained_run(tmp_path / "run", SMALL)
    first = probe(finetune_settings(tmp_path, data, batch_size=3)).result
    weights = tmp_path / "out" / "trained" / "fold-0" / "latest"
    written = weights.stat().st_mtime_ns
    again = probe(finetune_settings(tmp_path, data, batch_size=3)).result
    assert weights.stat().st_mtime_ns == written
    assert again["trained"] == first["trained"]
    with pytest.raises(CheckpointError, match=r"holds a classifier of another probe \(other modality_dropout\)"):
        probe(finetune_settings(tmp_path, data, batch_size=3, modality_dropout=0.3))
    with pytest.raises(CheckpointError, match=r"holds a classifier of another probe \(other lr\)"):
        probe(finetune_settings(tmp_path, data, batch_size=3, lr=1e-3))
    fold = tmp_path / "out" / "trained" / "fold-0"
    with pytest.raises(
        CheckpointError, match=r"got a classifier \(from `cmmixer probe --mode finetune`\), expected a retr"
    ):
        probe(finetune_settings(tmp_path, data, batch_size=3, model=str(fold)))
    other = checkpoint.build(checkpoint.load_metadata(tmp_path / "run"), seed=7)
    checkpoint.save(tmp_path / "run", checkpoint.load_metadata(tmp_path / "run"), other.state_dict(), keep=1)
    with pytest.raises(CheckpointError, match=r"holds a classifier of another probe \(other model\)"):
        probe(finetune_settings(tmp_path, data, batch_size=3))


def test_finetuning_starts_at_the_linear_probe_and_averages_over_clips(tmp_path: Path) -> None:
    """With a learning rate near 0, the scores are those of a regression on the features of the training clips."""
    folder = tmp_path / "videos"
    generator, content = np.random.default_rng(0), []
    for name, colour in COLORS.items():
        for number in range(4):
            shades = [tuple(float(generator.uniform(0.4, 1.0)) * part for part in colour) for _ in range(2)]
            video(folder / f"{name}-{number}.mp4", shades)
            content.append({"path": f"{name}-{number}.mp4", "colour": name, "fold": 1 + number % 2})
    data = write_manifest(folder, content)
    untrained_run(tmp_path / "run", SMALL)
    settings = finetune_settings(
        tmp_path, data, task="video", lr=1e-12, weight_decay=0.0, epochs=1, batch_size=4, clips=3
    )
    labelled = read_labelled(str(data), label="colour", fold="fold", source="source", folds=5, seed=0)
    metadata = checkpoint.load_metadata(tmp_path / "run")
    towers = TowerFeatures.of_run(str(tmp_path / "run"), torch.device("cpu"))
    clips = decode_to_memmap(
        labelled.entries, metadata.clip, tmp_path / "spool", even=3, video=True, audio=False, workers=1,
        file_seconds=30.0, progress=NoProgress(),
    )  # fmt: skip
    finder = Finetuning(settings, labelled, clips, ("video",), metadata, NoProgress())
    got = finder.scores(towers.model, "trained")
    with torch.no_grad():
        features = towers.describe_video(torch.from_numpy(np.array(clips.pixels_RTCHW))).double().numpy()
    truth = labelled.truth_FC[clips.files_R].argmax(1)
    folds = labelled.folds_F[clips.files_R]
    expected = np.zeros_like(got)
    for fold in range(2):
        train, test = folds != fold, folds == fold
        mean, std = features[train].mean(0), features[train].std(0)
        model = LogisticRegression(max_iter=2000, C=HEAD_INIT_C)
        model.fit((features[train] - mean) / std, truth[train])
        odds = model.predict_proba((features[test] - mean) / std)
        for file in np.unique(clips.files_R[test]):
            expected[file] = odds[clips.files_R[test] == file].mean(0)
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert got.sum(1) == pytest.approx(np.ones(12))
