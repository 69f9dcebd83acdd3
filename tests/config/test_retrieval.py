"""Settings of evaluate, inspect, embed, index and search: defaults, ranges, and options that exclude each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cmmixer.config.base import INDEX_ELSEWHERE, VIDEOS_ELSEWHERE, pick
from cmmixer.config.clip import SegmentSettings
from cmmixer.config.retrieval import (
    INDEX_KINDS,
    MODALITIES,
    RERANKS,
    VECTOR_BYTES,
    EmbedSettings,
    EvaluateSettings,
    IndexSettings,
    InspectSettings,
    MomentSettings,
    OptimizeSettings,
    SearchSettings,
)
from cmmixer.errors import SettingsError


def _evaluate(**options: Any) -> EvaluateSettings:
    return EvaluateSettings(model="runs/fine", data="videos", **options)


def _inspect(**options: Any) -> InspectSettings:
    return InspectSettings(model="runs/fine", data="videos", **options)


def _embed(**options: Any) -> EmbedSettings:
    return EmbedSettings(**{"model": "runs/fine", "data": "videos", "out": "vectors", **options})


def _index(**options: Any) -> IndexSettings:
    return IndexSettings(**{"index": "library", "model": "runs/fine", "data": "videos", **options})


def _search(**options: Any) -> SearchSettings:
    return SearchSettings(**{"query": "silent.mp4", "index": "library", **options})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (_evaluate, {"batch_size": 0}, "--batch_size: got 0, expected 1 or more"),
        (_evaluate, {"bootstrap": 0}, "--bootstrap: got 0, expected 1 or more"),
        (_evaluate, {"rerank": "timing"}, "--rerank: got 'timing', expected one of none, sequence"),
        (_evaluate, {"rerank_top": 0}, "--rerank_top: got 0, expected 1 or more"),
        (_evaluate, {"clips_per_video": -1}, "--clips_per_video: got -1, expected 0 or more"),
        (_evaluate, {"device": "gpu"}, "--device: got 'gpu', expected one of auto, cpu, cuda"),
        (_evaluate, {"seed": -1}, "--seed: got -1, expected 0 or more"),
        (_inspect, {"clips": 0}, "--clips: got 0, expected 1 or more"),
        (_inspect, {"sheets": 0}, "--sheets: got 0, expected 1 or more"),
        (_inspect, {"num_workers": -1}, "--num_workers: got -1, expected 0 or more"),
        (_embed, {"vectors": "fp16"}, "--vectors: got 'fp16', expected one of fp32, bf16, int8"),
        (_embed, {"batch_size": 0}, "--batch_size: got 0, expected 1 or more"),
        (_embed, {"workers": -1}, "--workers: got -1, expected 0 or more"),
        (_embed, {"file_seconds": 0.0}, "--file_seconds: got 0.0, expected a value in (0.0, inf]"),
        (_embed, {"moment_seconds": 0.0}, "--moment_seconds: got 0.0, expected a value in (0.0, inf)"),
        (_embed, {"stride_seconds": float("inf")}, "--stride_seconds: got inf, expected a value in (0.0, inf)"),
        (_index, {"index_kind": "ivf_rk"}, f"--index_kind: got 'ivf_rk', expected one of {', '.join(INDEX_KINDS)}"),
        (_index, {"recall_target": 0.4}, "--recall_target: got 0.4, expected a value in [0.5, 1.0]"),
        (_index, {"exact_below": 999}, "--exact_below: got 999, expected 1000 or more"),
        (_search, {"k": 0}, "--k: got 0, expected 1 or more"),
        (_search, {"target": "text"}, "--for: got 'text', expected one of audio, video, any"),
        (_search, {"target": "any", "by": "text"}, "--by: got 'text', expected one of audio, video, any"),
        (_search, {"by": "audio"}, "--by audio: needs a target; add --for audio, video or any"),
        (_search, {"fps": 0.5}, "--fps: got 0.5, expected a value in [1.0, 240.0]"),
        (_search, {"rerank_top": 0}, "--rerank_top: got 0, expected 1 or more"),
        (_search, {"file_seconds": -1.0}, "--file_seconds: got -1.0, expected a value in (0.0, inf]"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make(**options)
    assert str(refused.value).partition("; did you mean")[0] == message


@pytest.mark.parametrize(("make", "option"), [(_index, "index"), (_search, "index")], ids=["index", "search"])
def test_an_index_in_object_storage_is_refused(make: Callable[..., Any], option: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make(**{option: "s3://bucket/library"})
    assert str(refused.value).startswith(f"--{option}: got s3://bucket/library, expected ")
    assert str(refused.value).endswith(f"; {INDEX_ELSEWHERE}")


def test_videos_in_object_storage_are_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        _index(data="s3://bucket/videos")
    assert str(refused.value).endswith(f"; {VIDEOS_ELSEWHERE}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "missing: --data, the files to index; or --optimize, to optimize the index as it is"),
        ({"data": None, "optimize": True, "sync": True}, "--sync: compares the index with its data; add --data"),
        ({"model": None}, "missing: --model, the run that embeds the data"),
        ({"model": None, "optimize": True}, "missing: --model, the run that embeds the data"),
    ],
)
def test_index_needs_data_and_model_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        _index(**options)
    assert str(refused.value) == message


def test_optimize_alone_needs_neither_data_nor_model() -> None:
    settings = IndexSettings(index="library", optimize=True)
    assert (settings.data, settings.model, settings.recall_target, settings.exact_below) == (None, None, 0.98, 100_000)


@pytest.mark.parametrize(("target", "by"), [("any", None), ("any", "video"), ("audio", "any")])
def test_reranking_both_modalities_fused_is_refused(target: str, by: str | None) -> None:
    with pytest.raises(SettingsError) as refused:
        _search(target=target, by=by, rerank="sequence")
    assert str(refused.value) == (
        "--rerank sequence: compares two single modalities; use it with --for and --by audio or video"
    )
    assert _search(target=target, by=by, rerank="none").rerank == "none"


@pytest.mark.parametrize("target", MODALITIES)
@pytest.mark.parametrize("by", MODALITIES)
def test_any_modality_may_search_any(target: str, by: str) -> None:
    assert (_search(target=target, by=by).target, _search(target=target, by=by).by) == (target, by)


def test_ray_writes_a_table_not_a_file() -> None:
    with pytest.raises(SettingsError) as refused:
        _embed(engine="ray", out="vectors.parquet")
    assert str(refused.value) == (
        "--out vectors.parquet: got a Parquet file, but --engine ray writes a table from many machines; give a folder"
    )
    assert _embed(engine="ray", out="s3://bucket/vectors").out == "s3://bucket/vectors"


def test_ray_actors_get_only_the_gpus_they_request() -> None:
    with pytest.raises(SettingsError) as refused:
        _embed(engine="ray", device="cuda")
    assert str(refused.value) == "--device cuda: an actor of a cluster has only the GPUs it requests; add --ray_gpus 1"
    assert _embed(engine="ray", device="cuda", ray_gpus=0.5).ray_gpus == 0.5
    assert _embed(device="cuda").ray_gpus == 0.0


def test_groups_can_be_picked_out_of_a_command() -> None:
    settings = _index(stride_seconds=2.0, shots=True, recall_target=0.9, batch_size=4)
    assert pick(SegmentSettings, settings) == SegmentSettings(stride_seconds=2.0, shots=True)
    assert pick(OptimizeSettings, settings) == OptimizeSettings(recall_target=0.9)
    assert pick(MomentSettings, settings).batch_size == 4


def test_choices_are_those_of_the_help() -> None:
    assert RERANKS == ("none", "sequence")
    assert MODALITIES == ("audio", "video", "any")
    assert VECTOR_BYTES == {"fp32": 4, "bf16": 2, "int8": 1}
    for kind in INDEX_KINDS:
        assert _index(index_kind=kind).index_kind == kind
