"""The benchmark of embedding: its figures are right at a small size, its document matches the results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.embedding import DOCUMENT, RESULT, document
from benchmarks.speed.bench import bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.step import PEAK_SIDE, FastestProduct
from cmmixer.errors import DataError, SettingsError
from cmmixer.models.onednn import HAS_ONEDNN
from tests.support.coloured_videos import BLUE, GREEN, RED, video


def test_embed_benchmark_on_two_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'cmmixer[bench]'")
    monkeypatch.setitem(PEAK_SIDE, "cpu", 256)
    for number, colours in enumerate(([RED] * 9, [GREEN, BLUE] * 3)):
        video(tmp_path / "videos" / f"{number}.mp4", colours)
    (tmp_path / "videos" / "broken.mp4").write_text("not a video at all " * 50)
    report = bench(
        BenchSettings(
            what="embed",
            preset="nano",
            videos=str(tmp_path / "videos"),
            batch_size=3,
            rounds=2,
            workers=1,
            device="cpu",
            out=str(tmp_path / "embed.json"),
        )
    )
    figures = json.loads((tmp_path / "embed.json").read_text())
    assert figures == report.figures
    # Clips of 4 s, one every 2 s, of 9 and of 6 s; the broken video is left out of all.
    assert (figures["videos"], figures["moments"], figures["workers"]) == (2, 4 + 2, 1)
    assert list(figures["parts"]) == ["end to end", "decoding only", "model only"]
    for part in figures["parts"].values():
        low, high = part["range_videos_per_second"]
        assert 0 < low <= part["videos_per_second"] <= high * (1 + 1e-9)
        assert part["videos_per_second"] == pytest.approx(2 / part["seconds"])
    spent = figures["cpu_seconds_per_video"]
    assert figures["decode_share"] == pytest.approx(spent["decoding"] / (spent["decoding"] + spent["model"]))
    assert 0 < figures["overlap_efficiency"] <= figures["share_of_bound"] * (1 + 1e-9)
    runtimes = figures["runtimes"]
    assert list(runtimes) == ["torch", *(["oneDNN"] if HAS_ONEDNN else []), "ONNX Runtime", "bfloat16"]
    for name, runtime in runtimes.items():
        for modality in ("video", "audio"):
            it = runtime[modality]
            assert it["cpu_seconds_per_moment"] > 0
            if name == "torch":
                assert (it["times_eager"], it["times_eager_cpu"], it["most_difference"]) == (1.0, 1.0, 0.0)
            elif name == "bfloat16":
                assert 0.999 < it["least_cosine"] < 1 - 1e-7
            else:
                assert 0 < it["most_difference"] < 1e-4
    # 65 tokens, 4 blocks of width 128: 12 D^2 multiplications per token, attention 2 L D, patch embedding and 256 output values.
    tokens, width = 65, 128
    blocks = 4 * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    ends = 2 * 64 * (16 * 16 * 3) * width + 2 * width * 256 * (1 + 4)
    assert figures["flop_per_moment"]["video"] == pytest.approx(blocks + ends, rel=0.02)
    assert len(report.rows) == 4 + len(runtimes)


def test_fastest_product_has_plausible_rates() -> None:
    product = FastestProduct(torch.device("cpu"), torch.float32)
    product.time()
    flops, core_flops = product.peak()
    assert core_flops is not None
    assert 1e8 < core_flops < 1e13
    assert flops > 1e8


def test_embed_benchmark_refuses_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--synthetic_videos: got 1, expected 2 or more"):
        BenchSettings(what="embed", synthetic_videos=1)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_text("not a video at all " * 50)
    with pytest.raises(
        DataError, match=r"benchmarks\.speed embed: no video gives a moment; give --videos that can be decoded"
    ):
        bench(BenchSettings(what="embed", preset="nano", videos=str(tmp_path / "videos"), workers=1, device="cpu"))


def test_embedding_document_matches_stored_results() -> None:
    rows = json.loads(RESULT.read_text())
    assert DOCUMENT.read_text() == document(rows)
    # The claims of its text.
    runtimes = rows["nano"]["runtimes"]
    times = {name: runtimes[name]["video"]["times_eager_cpu"] for name in runtimes}
    assert times["oneDNN"] > 1.3
    assert times["compiled"] < 1.1 * times["oneDNN"]
    assert runtimes["ONNX Runtime"]["audio"]["times_eager_cpu"] < 1.0
    assert runtimes["oneDNN"]["video"]["most_difference"] < 1e-6
    ways = rows["stored"]["ways"]
    assert ways["32-true, int8"]["least_cosine"] > 0.999
    assert ways["32-true, int8"]["bytes_per_value"] < 1.3
