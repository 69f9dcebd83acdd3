"""The study: cells train as defined, the gallery is unseen, rows are stored at once, and bad input is refused before training."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.study import __main__ as study
from benchmarks.study import budgets, training, videos
from benchmarks.study.budgets import BUDGETS, Budget
from benchmarks.study.cavmae import ContrastiveAutoencoder
from benchmarks.study.cells import CELLS, CONTROLS, FRAME_SWAP, Cell, select_cells
from benchmarks.study.results import RESULTS, check_versions, load_rows, row_path
from benchmarks.study.table import ROOT, _findings, _relation, write_document
from benchmarks.study.training import StageResult, StudyData
from benchmarks.study.videos import Inputs, Videos, combine_unpaired
from cmmixer.config import ModelSettings, preset
from cmmixer.errors import InputError, SettingsError
from cmmixer.evaluation.metrics import retrieval_metrics
from cmmixer.models.losses import info_nce
from cmmixer.models.mixer import draw_mixing_mask
from cmmixer.models.patches import Grid
from cmmixer.models.retriever import Retriever
from tests.reference import cavmae_slow

TINY = dataclasses.replace(
    BUDGETS["smoke"],
    videos=24,
    pool=24,
    pairs=12,
    gallery=10,
    pretrain_views=16,
    finetune_views=12,
    pretrain_batch=8,
    finetune_batch=6,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of rendered videos, in small chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videos, "CHUNK", 30)
        yield tmp_path_factory.mktemp("videos")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A tiny network and a budget of seconds; returns the cache."""
    model = ModelSettings(dim=16, depth=2, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=16)
    monkeypatch.setattr(training, "preset", lambda name: SimpleNamespace(model=model))
    monkeypatch.setattr(training, "retrieval_metrics", partial(retrieval_metrics, resamplings=10))
    monkeypatch.setitem(BUDGETS, "smoke", TINY)
    return cache


def _videos(cache: Path, count: int, seed: int = 1) -> Videos:
    return videos.load_videos(
        count, TINY.clip, seed=seed, difficulty="easy", cache=cache, workers=1, report=lambda line: None
    )


@pytest.fixture(scope="module")
def train(cache: Path) -> Videos:
    return _videos(cache, 24)


def test_videos_are_cached_and_a_longer_set_starts_with_them(cache: Path, train: Videos) -> None:
    reports: list[str] = []
    again = videos.load_videos(30, TINY.clip, seed=1, difficulty="easy", cache=cache, workers=1, report=reports.append)
    assert reports == []
    assert torch.equal(again.video_NTCHW[:24], train.video_NTCHW)
    assert torch.equal(again.decibels_NT1HW[:24], train.decibels_NT1HW)
    assert train.video_NTCHW.shape == (24, 4, 3, 64, 64)
    assert train.decibels_NT1HW.shape == (24, 4, 1, 64, 64)


@pytest.fixture
def rendered(cache: Path) -> Callable[[int, int], Videos]:
    return partial(_videos, cache)


def test_pools_are_unpaired_and_disjoint_from_pairs_and_gallery(
    rendered: Callable[[int, int], Videos],
) -> None:
    pools = StudyData.of("pools", TINY, rendered)
    assert (len(pools.pool), len(pools.pairs), len(pools.gallery)) == (TINY.pool, TINY.pairs, TINY.gallery)
    sets = [pools.pool.sources, pools.pool.audio_sources, pools.pairs.sources, pools.gallery.sources]
    assert len({source for each in sets for source in each}) == 2 * TINY.pool + TINY.pairs + TINY.gallery
    sounds = rendered(TINY.pool, training.AUDIO_SEED)
    assert torch.equal(pools.pool.video_NTCHW, rendered(TINY.pool, training.TRAIN_SEED).video_NTCHW)
    assert torch.equal(pools.pool.decibels_NT1HW, sounds.decibels_NT1HW)
    assert pools.pairs.sources == pools.pairs.audio_sources
    pairs = StudyData.of("pairs", TINY, rendered)
    assert pairs.pool is pairs.pairs
    assert pairs.pool.sources == pairs.pool.audio_sources
    with pytest.raises(ValueError, match="expected as many sounds as silent videos, all of other videos"):
        combine_unpaired(sounds, sounds)


def test_training_videos_in_the_gallery_are_refused(train: Videos) -> None:
    with pytest.raises(SettingsError, match="24 videos are both in the training set and in the gallery"):
        StudyData(train, train, train, train.statistics())


def test_inputs_are_normalized(train: Videos) -> None:
    video, audio = Inputs(train, TINY.clip, train.statistics())(torch.arange(24))
    assert video.mean((0, 1, 3, 4)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert video.std((0, 1, 3, 4)).tolist() == pytest.approx([1, 1, 1], abs=1e-2)
    assert (float(audio.mean()), float(audio.std())) == pytest.approx((0, 1), abs=1e-2)


def test_frame_swap_masks_are_zero_or_one_per_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing_mask = draw_mixing_mask(FRAME_SWAP, batch=200, frames=4, height=8, width=8, patch=8, generator=generator)
    per_frame = mixing_mask.flatten(2)
    assert torch.equal(per_frame.amin(2).round(decimals=3), per_frame.amax(2).round(decimals=3))
    whole = (mixing_mask < 0.01) | (mixing_mask > 0.99)
    assert float(whole.float().mean()) > 0.98
    assert float(mixing_mask.mean()) == pytest.approx(0.5, abs=0.05)


def test_plain_mae_reconstructs_the_one_modality_it_sees(train: Videos) -> None:
    inputs = Inputs(train, TINY.clip, train.statistics())
    torch.manual_seed(0)
    calls: list[Any] = []

    class Recorded(training.MaskedAutoencoder):
        def forward(self, *arguments: Any, **named: Any) -> Any:
            calls.append((arguments, super().forward(*arguments, **named)))
            return calls[-1][1]

    network = Recorded(preset("nano").model, TINY.clip)
    loss = training._plain(inputs, CELLS["plain"])(network, torch.arange(8), torch.Generator().manual_seed(0))
    (video, audio, mixing_mask), output = calls[0]
    assert mixing_mask[:4].max() == 0
    assert mixing_mask[4:].min() == 1
    errors = []
    for clip in range(8):
        target = network.patchify((video if clip < 4 else audio)[clip : clip + 1])[0]
        predicted = (output.prediction_video if clip < 4 else output.prediction_audio)[clip]
        errors.append(float(((predicted.detach() - target) ** 2).mean(1)[output.mask[clip] == 1].mean()))
    assert loss.item() == pytest.approx(sum(errors[:4]) / 4 + sum(errors[4:]) / 4, rel=1e-5)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_cav_mae_matches_its_formulas_and_its_towers_fit_the_retriever(train: Videos, norm_pix: bool) -> None:
    inputs = Inputs(train, TINY.clip, train.statistics())
    torch.manual_seed(0)
    network = ContrastiveAutoencoder(preset("nano").model, norm_pix=norm_pix)
    video, audio = inputs(torch.arange(3))
    loss = network(video, audio, 0.75, torch.Generator().manual_seed(5))
    noise = torch.Generator().manual_seed(5)
    noises = [torch.rand(3, 64, generator=noise) for _ in range(2)]
    assert loss.item() == pytest.approx(cavmae_slow.loss(network, video, audio, noises, 0.75), rel=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in network.named_parameters() if not name.endswith("cls"))
    towers = network.towers()
    shared = "blocks.3.attention.qkv.weight"
    assert torch.equal(towers["video"][shared], towers["audio"][shared])
    assert not torch.equal(towers["video"]["blocks.0.mlp.0.weight"], towers["audio"]["blocks.0.mlp.0.weight"])
    retriever = Retriever(preset("nano").model, TINY.clip, train.statistics(), embed_dim=8)
    training._initialize_towers(retriever, network)
    assert torch.equal(
        retriever.encoders["audio"].embed.bias, network.encoders["audio"].embed.bias + network.modality["audio"]
    )


def test_contrastive_term_is_the_loss_of_normalized_features(train: Videos) -> None:
    inputs = Inputs(train, TINY.clip, train.statistics())
    torch.manual_seed(0)
    network = training.MaskedAutoencoder(preset("nano").model, TINY.clip)
    video, audio = inputs(torch.arange(6))
    cell = Cell("", mask_ratio=0.5)
    got = training._contrastive_of_encoder(network, video, audio, cell, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    unit = []
    for images in (video, audio):
        noise = torch.rand(6, 64, generator=generator)
        encoded = network.encoder.encode(network.patchify(images), Grid(4, 16), mask_ratio=0.5, noise=noise)
        features = encoded.tokens_BND[:, 1:].mean(1)
        features = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()
        unit.append(features / features.norm(dim=1, keepdim=True))
    assert got.item() == pytest.approx(info_nce(unit[0], unit[1], 10.0).item(), rel=1e-5)


def test_cells_see_the_clips_of_their_budget(
    rendered: Callable[[int, int], Videos], monkeypatch: pytest.MonkeyPatch
) -> None:
    views_of: dict[str, list[int]] = {}

    def record(network: Any, loss_of: Any, count: int, *, views: int, **rest: Any) -> StageResult:
        views_of.setdefault(current, []).append(views)
        return StageResult(None, 0.0)

    monkeypatch.setattr(training, "optimize", record)
    data = StudyData.of("pairs", TINY, rendered)
    for current in ("baseline", "contrastive", "contrastive-equal", "image", "cavmae", "swap-half"):
        training.run_cell(CELLS[current], data, TINY, 0, lambda line: None)
    # A clip of mixed pre-training costs a third of one in contrastive training: 4.69 TFLOP for 19,200, and 6.96 for 9,600 in budget cpu.
    equal = 12 + int(16 * 4.686 / 19.2 / (6.960 / 9.6))
    assert views_of == {
        "baseline": [12],
        "contrastive": [28],
        "contrastive-equal": [equal],
        "image": [16, 12],
        "cavmae": [16, 12],
        "swap-half": [8, 20],
    }


def test_results_are_reproducible_and_vectors_do_not_depend_on_the_batch(
    rendered: Callable[[int, int], Videos],
) -> None:
    data = StudyData.of("pairs", TINY, rendered)
    first, second = (training.run_cell(CELLS["swap"], data, TINY, 3, lambda line: None) for _ in range(2))
    assert first == second
    retriever = Retriever(preset("nano").model, TINY.clip, data.statistics, embed_dim=8)
    inputs = Inputs(data.gallery, TINY.clip, data.statistics)
    for batched, single in zip(
        training.embed(retriever, inputs), training.embed(retriever, inputs, batch=1), strict=True
    ):
        torch.testing.assert_close(batched, single, rtol=0, atol=1e-5)


def test_all_cells_run_are_stored_and_are_not_run_again(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--results",
        str(tmp_path / "rows"),
        "--cache",
        str(small),
        "--workers",
        "1",
        "--document",
        str(tmp_path / "study.md"),
    ]
    assert study.main([*arguments]) == 0
    rows = sorted((tmp_path / "rows" / "smoke").glob("*.json"))
    assert len(rows) == 2 * len(CELLS)
    for file in rows:
        row = json.loads(file.read_text())
        assert file.name == f"{row['regime']}-{row['cell']}-seed-0.json"
        assert row["candidates"] == 10
        assert 0 <= row["shuffled_pairs"]["video_to_audio"]["R@1"] <= 0.4
        assert row["machine"]["torch"] == torch.__version__
        assert (row["pretrain_loss"] is None) == (CELLS[row["cell"]].pretrain == "none")
        assert row["teraflop"] > 0
    text = (tmp_path / "study.md").read_text()
    assert all(f"| `{name}` | {cell.title} | 1 |" in text for name, cell in CELLS.items())
    assert (tmp_path / "images" / "study-smoke.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(study, "run_cell", lambda *_: pytest.fail("a finished cell was run again"))
    assert study.main([*arguments]) == 0
    rows[0].write_text(json.dumps({**json.loads(rows[0].read_text()), "study_version": 99}))
    capsys.readouterr()
    assert study.main([*arguments]) == 2
    assert "got a row of study version 99, expected version 1 (1 such rows); move them away" in capsys.readouterr().err
    rows[0].write_text("half a row")
    assert study.main([*arguments]) == 2
    assert "not a row of the study" in capsys.readouterr().err


def test_bad_input_is_refused_before_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert study.main(["--cells", "swp", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "study: --cells: unknown cell 'swp'; did you mean 'swap'?\n"
    assert list(select_cells([])) == list(CELLS)
    with pytest.raises(
        SettingsError,
        match=r"--budget: its videos need 1\.8 GB of memory, expected at most 60% of the 0\.1 GB of this machine",
    ):
        budgets.check_memory(BUDGETS["cpu"], 100_000_000)
    budgets.check_memory(BUDGETS["smoke"], 4_000_000_000)


def test_study_imports_only_torch_and_numpy() -> None:
    code = "import sys, benchmarks.study.__main__; print(sorted({m.split('.')[0] for m in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("av", "lance", "lancedb", "pyarrow", "kornia", "PIL", "rich", "jsonargparse", "safetensors", "pebble"):
        assert f"'{name}'" not in modules


def test_relation_compares_seeds() -> None:
    assert (
        _relation([0.3, 0.4], [0.1, 0.29])
        == "every seed of the first is above every seed of the second (2 and 2 seeds)"
    )
    assert _relation([0.3, 0.4], [0.5]) == "every seed of the first is below every seed of the second (2 and 1 seeds)"
    assert _relation([0.3], [0.5]) == "too few to say more (1 and 1 seeds)"
    assert _relation([0.3, 0.4], [0.2, 0.35]) == "their seeds overlap (2 and 2 seeds)"


def test_findings_compare_the_best_of_each_group() -> None:
    def row(value: float, seed: int) -> dict[str, Any]:
        way = {"R@1": value, "R@5": value, "R@10": value, "MedR": 1.0}
        return {
            "video_to_audio": way, "audio_to_video": way, "seed": seed, "chance": {"R@1": 0.1},
            "shuffled_pairs": {name: {"R@1": 0.1} for name in ("video_to_audio", "audio_to_video")},
        }  # fmt: skip

    values = {"baseline": (0.2, 0.3), "cavmae": (0.1, 0.2), "image": (0.4, 0.5), "baseline-frame-mixup": (0.6, 0.7)}
    found = "\n".join(
        _findings({name: [row(value, seed) for seed, value in enumerate(each)] for name, each in values.items()})
    )
    assert (
        "Best row of ours: `baseline-frame-mixup`, 0.650. Best control: `baseline`, 0.250. Ratio 2.60; every seed of the first"
        in found
    )
    assert "Best row with mixing: `image`, 0.450. Best row without mixing: `baseline-frame-mixup`, 0.650." in found
    assert "Best CAV-MAE-style row: `cavmae`, 0.150. Ratio 3.00" in found
    assert (
        "Best row with cross-clip frame mixup: `baseline-frame-mixup`, 0.650. Best row without frame mixup: `image`, 0.450."
        in found
    )


def test_study_document_matches_stored_rows(tmp_path: Path) -> None:
    written = write_document(RESULTS, "cpu", tmp_path / "study.md")
    assert written.read_text() == (ROOT / "docs" / "study.md").read_text()


def test_budgets_have_seeds_and_batches_that_fit() -> None:
    assert set(BUDGETS) == {"smoke", "cpu", "cpu-hard", "gpu"}
    assert all(
        isinstance(budget, Budget) and len(budget.seeds) >= 3 for name, budget in BUDGETS.items() if name != "smoke"
    )
    assert BUDGETS["gpu"].video_bytes() == (200_000 + 1_000 + 1_000) * 4 * 112 * 112 * 5


def test_cells_have_unique_titles_and_shares_in_range() -> None:
    assert len({cell.title for cell in CELLS.values()}) == len(CELLS)
    assert set(CONTROLS) <= set(CELLS)
    for name, cell in CELLS.items():
        assert 0.0 <= cell.contrastive_share <= 1.0
        assert cell.frame_level == name.startswith("frame-level")
        assert ("frame-mixup" in name) == (cell.frame_mixup == 1.0)
        # All clips can be moved to contrastive training only if there is no pre-training.
        assert cell.contrastive_share < 1.0 or cell.pretrain == "none"


def test_rows_are_found_by_budget_and_refused_when_broken(tmp_path: Path) -> None:
    path = row_path(tmp_path, "cpu", "pairs", "swap", 2)
    assert path == tmp_path / "cpu" / "pairs-swap-seed-2.json"
    assert load_rows(tmp_path, "cpu") == []
    path.parent.mkdir()
    path.write_text('{"seed": 2, "study_version": 1}')
    assert load_rows(tmp_path, "cpu") == [{"seed": 2, "study_version": 1}]
    check_versions(tmp_path)
    path.write_text("[]")
    with pytest.raises(InputError) as raised:
        load_rows(tmp_path, "cpu")
    assert str(raised.value) == f"{path}: not a row of the study; remove it and run the cell again"


def test_stored_rows_belong_to_known_cells() -> None:
    for budget in ("cpu", "cpu-hard"):
        for row in load_rows(RESULTS, budget):
            assert row["cell"] in CELLS
            assert row_path(RESULTS, budget, row["regime"], row["cell"], row["seed"]).exists()
