"""The benchmark of a training step: its FLOP match the formulas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed.settings import BenchSettings
from cmmixer.config import preset
from cmmixer.errors import SettingsError

pytest.importorskip("transformers", reason="the extra `bench` is not installed")


def test_step_benchmark_counts_the_flops_of_the_formulas(tmp_path: Path) -> None:
    from benchmarks.speed.bench import bench

    out = tmp_path / "figures" / "step.json"
    report = bench(BenchSettings(what="step", preset="nano", batch_size=2, rounds=2, out=str(out), device="cpu"))
    figures = json.loads(out.read_text())
    assert figures["tokens"] == 64
    assert figures["command"].startswith("python -m benchmarks.speed step --preset nano --batch_size 2")
    assert {"system", "cores", "torch"} <= figures["machine"].keys()
    steps = figures["steps"]
    assert list(steps) == ["network", "network and its inputs", "transformers"]
    for row in steps.values():
        assert row["clips_per_second"] == pytest.approx(2 / row["seconds"])
        # No step takes less time than its matrix products alone.
        assert 0 < row["share_of_peak"] < 1.1
        # The peak holds at least weights, gradients and two moments, of 4 bytes each.
        assert 16 * row["weights"] < 1e9 * row["peak_gigabytes"] < 200 * row["weights"]
    assert steps["network"]["teraflop"] == pytest.approx(_teraflop(heads=2, embedded=16), rel=0.02)
    assert steps["network and its inputs"]["teraflop"] == pytest.approx(steps["network"]["teraflop"], rel=0.1)
    assert steps["transformers"]["teraflop"] == pytest.approx(_teraflop(heads=1, embedded=64), rel=0.02)
    low, high = figures["times_transformers_range"]
    assert low <= figures["times_transformers"] <= high
    assert f"{figures['times_transformers']:.2f}x the step of transformers" in report.title


def _teraflop(*, heads: int, embedded: int) -> float:
    """Forward: 2 x rows x in x out per linear layer, 4 x tokens^2 x width for attention. Backward: twice as much."""
    model = preset("nano").model
    batch, tokens, visible, patch = 2, 64, 16, 3 * model.patch**2

    def block(length: int, dim: int) -> float:
        return 2 * length * 12 * dim**2 + 4 * length**2 * dim

    forward = model.depth * block(1 + visible, model.dim) + model.decoder_depth * block(1 + tokens, model.decoder_dim)
    forward += 2 * embedded * patch * model.dim * 2 / 3  # pixels need no gradient
    forward += 2 * (1 + visible) * model.dim * model.decoder_dim + heads * 2 * tokens * model.decoder_dim * patch
    return 3 * batch * forward / 1e12


def test_unknown_benchmark_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        SettingsError, match=r"--what: got 'stop', expected one of data, embed, search, step; did you mean 'step'\?"
    ):
        BenchSettings(what="stop")
