"""The study: its rows can be told apart, leak nothing, are written at once, and bad input stops it before any training."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.study import __main__ as study
from benchmarks.study import budgets, training, videos
from benchmarks.study.budgets import BUDGETS, Budget
from benchmarks.study.cavmae import ContrastiveAutoencoder
from benchmarks.study.cells import CELLS, FRAMES, Cell, chosen
from benchmarks.study.results import RESULTS
from benchmarks.study.table import ROOT, _findings, _relation, with_readme_table, write_document
from benchmarks.study.training import Material, Spent
from benchmarks.study.videos import Films, Inputs, unpaired
from cmmixer.config import preset
from cmmixer.errors import SettingsError
from cmmixer.models.losses import info_nce
from cmmixer.models.mixer import draw_share
from cmmixer.models.patches import Grid
from cmmixer.models.retriever import Retriever
from tests.reference import cavmae_slow

TINY = dataclasses.replace(
    BUDGETS["smoke"],
    films=24,
    pool=24,
    pairs=12,
    gallery=10,
    pretrain_views=16,
    finetune_views=12,
    pretrain_batch=8,
    finetune_batch=6,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A budget of seconds, and fewer films to a chunk."""
    monkeypatch.setitem(BUDGETS, "smoke", TINY)
    return cache


def _films(cache: Path, count: int, seed: int = 1) -> Films:
    return videos.films(count, TINY.clip, seed=seed, difficulty="easy", cache=cache, workers=1, told=lambda words: None)


@pytest.fixture(scope="module")
def train(cache: Path) -> Films:
    return _films(cache, 24)


def test_rendered_films_come_back_from_the_cache_and_a_longer_set_begins_with_them(cache: Path, train: Films) -> None:
    told: list[str] = []
    again = videos.films(30, TINY.clip, seed=1, difficulty="easy", cache=cache, workers=1, told=told.append)
    assert told == []
    assert torch.equal(again.video_NTCHW[:24], train.video_NTCHW)
    assert torch.equal(again.decibels_NT1HW[:24], train.decibels_NT1HW)
    assert train.video_NTCHW.shape == (24, 4, 3, 64, 64)
    assert train.decibels_NT1HW.shape == (24, 4, 1, 64, 64)


@pytest.fixture
def rendered(cache: Path) -> Callable[[int, int], Films]:
    return partial(_films, cache)


def test_pools_hold_no_sound_of_their_footage_and_the_true_pairs_are_other_films(
    rendered: Callable[[int, int], Films],
) -> None:
    pools = Material.of("pools", TINY, rendered)
    assert (len(pools.pool), len(pools.pairs), len(pools.gallery)) == (TINY.pool, TINY.pairs, TINY.gallery)
    sets = [pools.pool.sources, pools.pool.sound_sources, pools.pairs.sources, pools.gallery.sources]
    assert len({source for each in sets for source in each}) == 2 * TINY.pool + TINY.pairs + TINY.gallery
    sounds = rendered(TINY.pool, training.SOUND_SEED)
    assert torch.equal(pools.pool.video_NTCHW, rendered(TINY.pool, training.TRAIN_SEED).video_NTCHW)
    assert torch.equal(pools.pool.decibels_NT1HW, sounds.decibels_NT1HW)
    assert pools.pairs.sources == pools.pairs.sound_sources
    pairs = Material.of("pairs", TINY, rendered)
    assert pairs.pool is pairs.pairs
    assert pairs.pool.sources == pairs.pool.sound_sources
    with pytest.raises(ValueError, match="of other films"):
        unpaired(sounds, sounds)


def test_a_film_learnt_from_may_not_be_in_the_gallery(train: Films) -> None:
    with pytest.raises(SettingsError, match="24 films are both learnt from and in the gallery"):
        Material(train, train, train, train.statistics())


def test_inputs_are_standardised(train: Films) -> None:
    video, audio = Inputs(train, TINY.clip, train.statistics())(torch.arange(24))
    assert video.mean((0, 1, 3, 4)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert video.std((0, 1, 3, 4)).tolist() == pytest.approx([1, 1, 1], abs=1e-2)
    assert (float(audio.mean()), float(audio.std())) == pytest.approx((0, 1), abs=1e-2)


def test_swapped_frames_are_all_picture_or_all_sound() -> None:
    chance = torch.Generator().manual_seed(0)
    share = draw_share(FRAMES, batch=200, frames=4, height=8, width=8, patch=8, generator=chance)
    per_frame = share.flatten(2)
    assert torch.equal(per_frame.amin(2).round(decimals=3), per_frame.amax(2).round(decimals=3))
    whole = (share < 0.01) | (share > 0.99)
    assert float(whole.float().mean()) > 0.98
    assert float(share.mean()) == pytest.approx(0.5, abs=0.05)


def test_plain_mae_sees_one_sense_at_a_time_and_is_asked_for_it_alone(train: Films) -> None:
    inputs = Inputs(train, TINY.clip, train.statistics())
    torch.manual_seed(0)
    seen: list[Any] = []

    class Watched(training.MaskedAutoencoder):
        def forward(self, *arguments: Any, **named: Any) -> Any:
            seen.append((arguments, super().forward(*arguments, **named)))
            return seen[-1][1]

    network = Watched(preset("nano").model, TINY.clip)
    loss = training._plain(inputs, CELLS["plain"])(network, torch.arange(8), torch.Generator().manual_seed(0))
    (video, audio, share), output = seen[0]
    assert share[:4].max() == 0
    assert share[4:].min() == 1
    errors = []
    for clip in range(8):
        target = network.patches((video if clip < 4 else audio)[clip : clip + 1])[0]
        back = (output.prediction_video if clip < 4 else output.prediction_audio)[clip]
        errors.append(float(((back.detach() - target) ** 2).mean(1)[output.mask[clip] == 1].mean()))
    assert loss.item() == pytest.approx(sum(errors[:4]) / 4 + sum(errors[4:]) / 4, rel=1e-5)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_cav_mae_is_its_formulas_and_its_towers_fit_the_retriever(train: Films, norm_pix: bool) -> None:
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
    training._start(retriever, network)
    assert torch.equal(
        retriever.encoders["audio"].embed.bias, network.encoders["audio"].embed.bias + network.modality["audio"]
    )


def test_the_contrastive_term_is_the_loss_of_unit_features(train: Films) -> None:
    inputs = Inputs(train, TINY.clip, train.statistics())
    torch.manual_seed(0)
    network = training.MaskedAutoencoder(preset("nano").model, TINY.clip)
    video, audio = inputs(torch.arange(6))
    cell = Cell("", mask_ratio=0.5)
    got = training._contrast_of_encoder(network, video, audio, cell, torch.Generator().manual_seed(2))
    chance = torch.Generator().manual_seed(2)
    unit = []
    for pictures in (video, audio):
        noise = torch.rand(6, 64, generator=chance)
        encoded = network.encoder.encode(network.patches(pictures), Grid(4, 16), mask_ratio=0.5, noise=noise)
        features = encoded.tokens_BND[:, 1:].mean(1)
        features = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()
        unit.append(features / features.norm(dim=1, keepdim=True))
    assert got.item() == pytest.approx(info_nce(unit[0], unit[1], 10.0).item(), rel=1e-5)


def test_the_whole_budget_of_contrast_sees_as_many_clips_as_the_others_together(
    rendered: Callable[[int, int], Films], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[int]] = {}

    def noted(network: Any, loss_of: Any, count: int, *, views: int, **rest: Any) -> Spent:
        seen.setdefault(current, []).append(views)
        return Spent(None, 0.0)

    monkeypatch.setattr(training, "optimise", noted)
    material = Material.of("pairs", TINY, rendered)
    for current in ("scratch", "contrast", "contrast-equal", "image", "cavmae", "frames-half"):
        training.run_cell(CELLS[current], material, TINY, 0, lambda words: None)
    # A mixed clip costs a third of a contrasted one: 4.69 TFLOP for 19,200 against 6.96 for 9,600 in budget cpu.
    equal = 12 + int(16 * 4.686 / 19.2 / (6.960 / 9.6))
    assert seen == {
        "scratch": [12],
        "contrast": [28],
        "contrast-equal": [equal],
        "image": [16, 12],
        "cavmae": [16, 12],
        "frames-half": [8, 20],
    }


def test_vectors_do_not_depend_on_the_batch_and_a_seed_gives_the_same_figures(
    rendered: Callable[[int, int], Films],
) -> None:
    material = Material.of("pairs", TINY, rendered)
    first, second = (training.run_cell(CELLS["frames"], material, TINY, 3, lambda words: None) for _ in range(2))
    assert first == second
    retriever = Retriever(preset("nano").model, TINY.clip, material.statistics, embed_dim=8)
    inputs = Inputs(material.gallery, TINY.clip, material.statistics)
    for whole, ones in zip(training.embed(retriever, inputs), training.embed(retriever, inputs, batch=1), strict=True):
        torch.testing.assert_close(whole, ones, rtol=0, atol=1e-5)


def test_every_row_runs_is_written_at_once_and_is_not_run_again(
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
    assert all(f"| `{name}` | {cell.words} | 1 |" in text for name, cell in CELLS.items())
    assert (tmp_path / "images" / "study-smoke.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(study, "run_cell", lambda *_: pytest.fail("a finished cell was run again"))
    assert study.main([*arguments]) == 0
    rows[0].write_text(json.dumps({**json.loads(rows[0].read_text()), "study_version": 99}))
    capsys.readouterr()
    assert study.main([*arguments]) == 2
    assert "a row of study version 99, this is version 1 (1 such rows); move them away" in capsys.readouterr().err
    rows[0].write_text("half a row")
    assert study.main([*arguments]) == 2
    assert "not a row of a study" in capsys.readouterr().err


def test_bad_input_is_refused_before_any_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert study.main(["--cells", "frame", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "study: --cells: unknown cell 'frame'; did you mean 'frames'?\n"
    assert list(chosen([])) == list(CELLS)
    with pytest.raises(SettingsError, match=r"--budget: its films take 1\.8 GB of memory and 0\.1 GB are there"):
        budgets.check_memory(BUDGETS["cpu"], 100_000_000)
    budgets.check_memory(BUDGETS["smoke"], 4_000_000_000)


def test_the_study_imports_nothing_that_a_bare_gpu_machine_lacks() -> None:
    code = "import sys, benchmarks.study.__main__; print(sorted({m.split('.')[0] for m in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("av", "lance", "lancedb", "pyarrow", "kornia", "PIL", "rich", "jsonargparse", "safetensors", "pebble"):
        assert f"'{name}'" not in found


def test_what_the_document_says_of_the_seeds_is_so() -> None:
    assert (
        _relation([0.3, 0.4], [0.1, 0.29])
        == "every seed of the first is above every seed of the second (2 and 2 seeds)"
    )
    assert _relation([0.3, 0.4], [0.5]) == "every seed of the first is below every seed of the second (2 and 1 seeds)"
    assert _relation([0.3], [0.5]) == "too few to say more (1 and 1 seeds)"
    assert _relation([0.3, 0.4], [0.2, 0.35]) == "their seeds overlap (2 and 2 seeds)"


def test_the_document_compares_the_best_of_each_group() -> None:
    def row(value: float, seed: int) -> dict[str, Any]:
        way = {"R@1": value, "R@5": value, "R@10": value, "MedR": 1.0}
        return {
            "video_to_audio": way, "audio_to_video": way, "seed": seed, "chance": {"R@1": 0.1},
            "shuffled_pairs": {name: {"R@1": 0.1} for name in ("video_to_audio", "audio_to_video")},
        }  # fmt: skip

    values = {"scratch": (0.2, 0.3), "cavmae": (0.1, 0.2), "image": (0.4, 0.5), "scratch-pair-mix": (0.6, 0.7)}
    found = "\n".join(
        _findings({name: [row(value, seed) for seed, value in enumerate(each)] for name, each in values.items()})
    )
    assert (
        "Best row of ours: `scratch-pair-mix`, 0.650. Best control: `scratch`, 0.250. Ratio 2.60; every seed of the first"
        in found
    )
    assert (
        "Best row that mixes pictures with sounds: `image`, 0.450. Best row that does not: `scratch-pair-mix`, 0.650."
        in found
    )
    assert "Best CAV-MAE-style row: `cavmae`, 0.150. Ratio 3.00" in found
    assert "Best row with pair mixing: `scratch-pair-mix`, 0.650. Best row without it: `image`, 0.450." in found


def test_the_document_is_made_from_the_stored_rows(tmp_path: Path) -> None:
    written = write_document(RESULTS, "cpu", tmp_path / "study.md")
    assert written.read_text() == (ROOT / "docs" / "study.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert with_readme_table(readme, RESULTS) == readme


def test_budgets_differ_in_size_only() -> None:
    assert set(BUDGETS) == {"smoke", "cpu", "cpu-hard", "gpu"}
    assert all(
        isinstance(budget, Budget) and len(budget.seeds) >= 3 for name, budget in BUDGETS.items() if name != "smoke"
    )
    assert BUDGETS["gpu"].film_bytes() == (200_000 + 1_000 + 1_000) * 4 * 112 * 112 * 5
