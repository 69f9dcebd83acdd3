"""The evaluation protocol: metrics depend on the clips and the model, and on nothing else."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from cmmixer import checkpoint
from cmmixer.config import EvaluateSettings
from cmmixer.errors import DataError, MediaError
from cmmixer.evaluation.evaluate import Evaluation, choose_clips, evaluate, ranking_rows
from cmmixer.models.rerank import sequence_scores
from tests.support.small_runs import PICO, ArrayClips, random_clips, untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retriever of random weights."""
    return untrained_run(tmp_path_factory.mktemp("run"), PICO, mel_mean=-30.0)


def settings(run: Path, **changes: Any) -> EvaluateSettings:
    return EvaluateSettings(
        **{"model": str(run), "data": "arrays", "num_workers": 0, "bootstrap": 20, "device": "cpu", **changes}
    )


def _arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    clips = random_clips(count)
    return clips.video_NTCHW, clips.audio_NTS


def reordered(clips: ArrayClips, order: np.ndarray) -> ArrayClips:
    return ArrayClips(clips.video_NTCHW[order], clips.audio_NTS[order], ids=[clips.ids[position] for position in order])


def test_metrics_depend_on_neither_batch_size_nor_order(run: Path) -> None:
    clips = random_clips(23)
    results = [evaluate(settings(run, batch_size=size), dataset=clips) for size in (1, 7, 32)]
    results.append(evaluate(settings(run), dataset=reordered(clips, np.random.default_rng(0).permutation(23))))
    for other in results[1:]:
        assert other.metrics == results[0].metrics
        np.testing.assert_allclose(other.video.clip_NE, results[0].video.clip_NE, atol=1e-6)


def test_metrics_are_json_in_their_documented_form(run: Path) -> None:
    metrics = evaluate(settings(run), dataset=random_clips(20)).metrics
    assert metrics["candidates"] == 20
    assert metrics["chance"]["R@1"] == pytest.approx(1 / 20)
    for direction in ("video_to_audio", "audio_to_video"):
        assert list(metrics[direction]) == ["R@1", "R@5", "R@10", "MedR", "MRR"]
        assert all(0 <= metrics[direction][name] <= 1 for name in ("R@1", "R@5", "R@10", "MRR"))
        low, high = metrics["intervals"][direction]["R@5"]
        assert low <= metrics[direction]["R@5"] <= high
    assert json.loads(json.dumps(metrics)) == metrics


def test_a_collapsed_encoder_ranks_last(run: Path, tmp_path: Path) -> None:
    weights = checkpoint.load_weights(run)
    for modality in ("video", "audio"):
        # All clips on one point: nothing of the clip gets through, only the same direction.
        weights[f"heads.{modality}.project.weight"] = torch.zeros_like(weights[f"heads.{modality}.project.weight"])
    metadata = dataclasses.replace(checkpoint.load_metadata(run), step=1)
    checkpoint.save(tmp_path, metadata, weights, keep=1)
    metrics = evaluate(settings(tmp_path), dataset=random_clips(20)).metrics
    assert metrics["video_to_audio"]["R@1"] == metrics["audio_to_video"]["R@10"] == 0.0
    assert metrics["video_to_audio"]["MedR"] == 20


def test_shuffled_pairs_sit_at_chance(run: Path) -> None:
    metrics = evaluate(settings(run), dataset=random_clips(60)).metrics
    for direction in ("video_to_audio", "audio_to_video"):
        # The mean of 10 shuffles of 60 queries: five standard deviations around 10 / 60.
        assert abs(metrics["shuffled_pairs"][direction]["R@10"] - 10 / 60) < 5 * np.sqrt(1 / 6 * 5 / 6 / 600)


def test_a_gallery_is_frozen_once_and_then_kept(run: Path, tmp_path: Path) -> None:
    clips, file = random_clips(12), tmp_path / "gallery.json"
    first = evaluate(settings(run, gallery=str(file)), dataset=clips)
    more = random_clips(15)
    again = evaluate(settings(run, gallery=str(file)), dataset=more)
    assert again.metrics["gallery"] == first.metrics["gallery"]
    assert again.metrics["candidates"] == 12
    with pytest.raises(DataError, match="the data lacks 4 of the gallery's 12 clips"):
        evaluate(settings(run, gallery=str(file)), dataset=reordered(clips, np.arange(8)))


class Broken(ArrayClips):
    """Two of its clips cannot be decoded."""

    def read(self, indices: Any) -> Any:
        return [
            MediaError(f"{index}.mp4", "unreadable", "cut off") if index in (3, 5) else self[index] for index in indices
        ]


def test_broken_clips_are_skipped_but_never_from_a_frozen_gallery(run: Path, tmp_path: Path) -> None:
    clips, file = random_clips(12), tmp_path / "gallery.json"
    broken = Broken(clips.video_NTCHW, clips.audio_NTS)
    result = evaluate(settings(run), dataset=broken)
    assert (result.metrics["candidates"], result.metrics["skipped"]) == (10, 2)
    assert result.skips.counts == {"unreadable": 2}
    evaluate(settings(run, gallery=str(file)), dataset=clips)
    with pytest.raises(DataError, match="2 of its clips can no longer be decoded: 2 files left out: 2 unreadable"):
        evaluate(settings(run, gallery=str(file)), dataset=broken)


def test_videos_that_were_trained_on_are_counted(run: Path) -> None:
    (run / "sources.txt").write_text("3\n7\n99\n")
    try:
        found: Evaluation = evaluate(settings(run), dataset=random_clips(12))
        assert found.metrics["overlap"] == 2
    finally:
        (run / "sources.txt").unlink()


def test_rankings_name_every_query_with_its_rank(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "rankings.jsonl"
    found = evaluate(settings(run, rankings=str(file), out=str(tmp_path / "metrics.json")), dataset=random_clips(9))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 18
    forward = [row for row in rows if row["direction"] == "video_to_audio"]
    assert np.mean([row["rank"] <= 5 for row in forward]) == pytest.approx(found.metrics["video_to_audio"]["R@5"])
    for row in rows:
        assert row["candidates"][row["rank"] - 1][0] == row["query"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == found.metrics


def test_reranked_scores_are_reported_without_their_lift(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "rankings.jsonl"
    found = evaluate(
        settings(run, rankings=str(file), rerank="sequence", rerank_top=4, out=str(tmp_path / "metrics.json")),
        dataset=random_clips(9),
    )
    video, audio = found.video, found.audio
    cosines_NN = video.clip_NE.astype(np.float64) @ audio.clip_NE.T.astype(np.float64)
    for line in file.read_text().splitlines()[:9]:
        row = json.loads(line)
        query = found.gallery.ids.index(row["query"])
        numbers = [found.gallery.ids.index(name) for name, _ in row["candidates"]]
        cosines_N = cosines_NN[query, numbers]
        timed = sequence_scores(cosines_N[:4], video.frames_NTE[query], audio.frames_NTE[numbers[:4]])
        assert [score for _, score in row["candidates"]] == pytest.approx([*timed, *cosines_N[4:]], abs=1e-5)


def test_clips_of_a_video_are_evenly_spaced() -> None:
    ids = [f"a#{start}.000-{start + 4}.000" for start in range(5)] + ["b#0.000-4.000", "b#4.000-8.000"]
    assert choose_clips(ids, 1) == [2, 6]
    assert choose_clips(ids, 2) == [1, 3, 5, 6]
    assert choose_clips(ids, 0) == list(range(7))
    assert choose_clips(["whole video"], 3) == [0]  # an id without a span is a video of its own
    assert choose_clips([], 2) == []


def test_the_printed_table(run: Path) -> None:
    (run / "sources.txt").write_text("3\n")
    try:
        result = evaluate(settings(run), dataset=Broken(*_arrays(12)))
    finally:
        (run / "sources.txt").unlink()
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(result.render())
    text = console.export_text()
    assert f"10 candidates, gallery {result.gallery.sha256[:12]}" in text
    (row,) = [line for line in text.splitlines() if "R@5" in line]
    value, (low, high) = result.metrics["video_to_audio"]["R@5"], result.metrics["intervals"]["video_to_audio"]["R@5"]
    assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in row
    assert row.rstrip(" │").endswith("0.500")  # chance
    (row,) = [line for line in text.splitlines() if "MedR" in line]
    assert row.rstrip(" │").endswith("5.5")
    assert "2 files left out: 2 unreadable" in text
    assert result.metrics["overlap"] == 0  # clip 3 is broken


def test_an_overlap_with_the_training_data_is_printed(run: Path) -> None:
    (run / "sources.txt").write_text("0\n1\n")
    try:
        result = evaluate(settings(run), dataset=random_clips(4))
    finally:
        (run / "sources.txt").unlink()
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(result.render())
    note = "note: the model was trained on 2 videos of this gallery, so these metrics are too high"
    assert note in " ".join(console.export_text().split())


def test_nothing_to_rank_is_an_error(run: Path) -> None:
    class AllBroken(ArrayClips):
        def read(self, indices: Any) -> Any:
            return [MediaError(f"{index}.mp4", "silent", "below the threshold") for index in indices]

    with pytest.raises(DataError, match=r"^arrays: no clip could be decoded; 3 files left out: 3 silent$"):
        evaluate(settings(run), dataset=AllBroken(*_arrays(3)))


def test_scores_are_those_of_the_rankings(run: Path) -> None:
    result = evaluate(settings(run), dataset=random_clips(7))
    video_to_audio_NN, audio_to_video_NN = result.scores()
    np.testing.assert_array_equal(audio_to_video_NN, video_to_audio_NN.T)
    np.testing.assert_allclose(
        video_to_audio_NN, result.video.clip_NE.astype(np.float64) @ result.audio.clip_NE.T, rtol=1e-6
    )
    rows = list(ranking_rows(result, best=2))
    assert [row["direction"] for row in rows] == ["video_to_audio"] * 7 + ["audio_to_video"] * 7
    for row, scores_N in zip(rows, [*video_to_audio_NN, *audio_to_video_NN], strict=True):
        best = np.sort(scores_N)[::-1][:2]
        assert [score for _, score in row["candidates"]] == pytest.approx(best.tolist(), abs=1e-6)


def test_reranked_metrics_name_the_second_stage(run: Path) -> None:
    clips = random_clips(9)
    assert evaluate(settings(run), dataset=clips).metrics["rerank"] is None
    metrics = evaluate(settings(run, rerank="sequence", rerank_top=4), dataset=clips).metrics
    assert metrics["rerank"] == {"by": "sequence", "top": 4}


def test_vectors_are_in_the_order_of_the_gallery(run: Path) -> None:
    clips = random_clips(5)
    straight = evaluate(settings(run), dataset=clips)
    backwards = evaluate(settings(run), dataset=reordered(clips, np.arange(5)[::-1]))
    assert straight.gallery == backwards.gallery
    np.testing.assert_allclose(straight.audio.frames_NTE, backwards.audio.frames_NTE, atol=1e-6)
    assert straight.video.frames_NTE.shape == (5, PICO.frames, straight.video.clip_NE.shape[1])
