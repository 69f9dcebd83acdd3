"""The loop: what it refuses, what it logs, and that a run goes on exactly where it stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Generator

from cmmixer import checkpoint
from cmmixer.checkpoint import load_retriever
from cmmixer.config import FinetuneSettings, PretrainSettings
from cmmixer.data.loader import collate
from cmmixer.errors import CheckpointError, NonFiniteError, SettingsError
from cmmixer.models.heads import canonical_maps
from cmmixer.models.losses import info_nce, nt_xent
from cmmixer.models.retriever import Embedding, Pairs
from cmmixer.progress import NoProgress
from cmmixer.train.finetune import FinetuneTask, finetune
from cmmixer.train.inputs import chance_of_step
from cmmixer.train.pretrain import pretrain
from cmmixer.train.resume import hold_run_folder
from cmmixer.types import Clip
from tests.reference import losses_slow
from tests.support.small_runs import PICO, ArrayClips, random_clips

GEOMETRY = dataclasses.asdict(PICO)


def pretrain_settings(out: Path, **changes: Any) -> PretrainSettings:
    values = {
        "data": "arrays",
        "out": str(out),
        "preset": "nano",
        "epochs": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "warmup_epochs": 0.5,
    }
    return PretrainSettings(**{**values, "num_workers": 0, "log_steps": 1, **GEOMETRY, **changes})


def finetune_settings(out: Path, **changes: Any) -> FinetuneSettings:
    values = {
        "data": "arrays",
        "out": str(out),
        "preset": "nano",
        "epochs": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "embed_dim": 16,
    }
    return FinetuneSettings(**{**values, "num_workers": 0, "log_steps": 1, **GEOMETRY, **changes})


class StopAt(NoProgress):
    """Ends a run from within after so many steps, as a kill would, but in this process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left <= 0 and steps == 1:
            raise KeyboardInterrupt


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.resolve(run) / "weights.safetensors")


def assert_same_bits(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, stage: str, stop_after: int) -> None:
    clips = random_clips(18)
    run: Any = {"pretrain": pretrain, "finetune": finetune}[stage]
    settings: Any = {"pretrain": pretrain_settings, "finetune": finetune_settings}[stage]
    run(settings(tmp_path / "whole"), dataset=clips)
    broken = settings(tmp_path / "broken", save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        run(broken, StopAt(stop_after), clips)
    result = run(broken, dataset=clips)
    assert result.step == 8
    assert_same_bits(tmp_path / "whole", tmp_path / "broken")
    logged = [json.loads(line) for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(1, 9))
    assert [row["loss"] for row in logged] == [row["loss"] for row in whole]


def test_accumulating_two_batches_equals_one_of_double_size(tmp_path: Path) -> None:
    # Draws follow the batch, so nothing may be drawn: no augmentation, no pixel from the sound, no mask.
    still = {"crop_scale_min": 1.0, "flip_prob": 0.0, "gain_db": 0.0, "mask_ratio": 0.0, "epochs": 1}
    still |= {"mixup_mode": "pixel", "mix_rate": 0.0}
    clips = random_clips(16)
    pretrain(pretrain_settings(tmp_path / "double", batch_size=8, **still), dataset=clips)
    pretrain(pretrain_settings(tmp_path / "twice", batch_size=4, accum_iter=2, **still), dataset=clips)
    one, other = weights(tmp_path / "double"), weights(tmp_path / "twice")
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)


def test_the_run_folder_tells_what_was_done(tmp_path: Path) -> None:
    result = pretrain(pretrain_settings(tmp_path / "run"), dataset=random_clips(18))
    card = checkpoint.load_card(tmp_path / "run")
    assert (result.step, card.step, card.epoch, card.clips_seen) == (8, 8, 2.0, 32)
    assert (card.kind, card.model.dim, card.clip) == ("mae", 128, PICO)
    assert card.statistics.clips == 18
    assert card.data["clips"] == 18
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"loss", "loss_video", "loss_audio", "lr", "gradient_norm", "clips_per_second"} <= rows[0].keys()
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss_video"] + rows[0]["loss_audio"], rel=1e-5)
    # Warm-up over 2 of 8 steps to 1e-3, then down.
    assert [row["lr"] for row in rows[:2]] == pytest.approx([5e-4, 1e-3])
    assert rows[-1]["lr"] < 1e-4
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) >= 1
    assert len((tmp_path / "run" / "sources.txt").read_text().splitlines()) == 18


def test_losses_fall(tmp_path: Path) -> None:
    finetune(finetune_settings(tmp_path / "run", epochs=30, batch_size=8), dataset=random_clips(16))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] > 0.5 * math.log(8)
    assert sum(row["loss"] for row in rows[-4:]) / 4 < 0.7 * rows[0]["loss"]


def test_a_step_that_is_not_finite_is_refused_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    sound = FinetuneTask.losses

    def losses(self: FinetuneTask, network: Any, batch: Any, chance: Any) -> dict[str, torch.Tensor]:
        given = sound(self, network, batch, chance)
        steps.append(1)
        return {"loss": given["loss"] * math.nan} if len(steps) == 3 else given

    monkeypatch.setattr(FinetuneTask, "losses", losses)
    with pytest.raises(
        NonFiniteError,
        match=r"step 2 of 8 is not finite and was refused: loss nan, gradient norm nan, .*last checkpoint: step 2",
    ):
        finetune(finetune_settings(tmp_path / "run", save_steps=1), dataset=random_clips(16))
    assert checkpoint.load_card(tmp_path / "run").step == 2
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_too_few_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="8 x 1 processes x 1 accumulated need 8 clips for one step, and there are 6"
    ):
        pretrain(pretrain_settings(tmp_path / "run", batch_size=8), dataset=random_clips(6))


def test_another_run_is_not_continued_by_mistake(tmp_path: Path) -> None:
    clips = random_clips(16)
    pretrain(pretrain_settings(tmp_path / "run"), dataset=clips)
    with pytest.raises(
        CheckpointError, match=r"holds a run of other settings: lr 0\.001 there, 0\.002 here; use the same"
    ):
        pretrain(pretrain_settings(tmp_path / "run", lr=2e-3), dataset=clips)
    with pytest.raises(CheckpointError, match="the run there has 16 clips in batches of 4, this command 12 in 4"):
        pretrain(pretrain_settings(tmp_path / "run"), dataset=random_clips(12))
    assert pretrain(pretrain_settings(tmp_path / "run", lr=2e-3, overwrite=True), dataset=clips).step == 8


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    out, clips = tmp_path / "run", random_clips(8)
    pretrain(pretrain_settings(out, epochs=1), dataset=clips)
    before = (checkpoint.resolve(out) / "card.json").read_bytes()
    with (
        hold_run_folder(out),
        pytest.raises(CheckpointError, match="another training writes to it; wait for it, end it, or choose another"),
    ):
        pretrain(pretrain_settings(out, epochs=1, overwrite=True), dataset=clips)
    assert (checkpoint.resolve(out) / "card.json").read_bytes() == before
    pretrain(pretrain_settings(out, epochs=1, overwrite=True), dataset=clips)


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_killed_writers_left_is_removed(tmp_path: Path, overwrite: bool) -> None:
    out, clips = tmp_path / "run", random_clips(8)
    pretrain(pretrain_settings(out, epochs=1), dataset=clips)
    (out / ".tmp-1-latest").touch()
    (out / "checkpoints" / ".tmp-1-step-00000001").mkdir()
    pretrain(pretrain_settings(out, epochs=1, overwrite=overwrite), dataset=clips)
    assert list(out.rglob(".tmp-*")) == []


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    clips = random_clips(16)
    first = pretrain(pretrain_settings(tmp_path / "run"), dataset=clips)
    assert pretrain(pretrain_settings(tmp_path / "run"), dataset=clips) == first


def test_finetune_starts_from_the_pretrained_encoder(tmp_path: Path) -> None:
    clips: ArrayClips = random_clips(16)
    pre = pretrain(pretrain_settings(tmp_path / "pre"), dataset=clips)
    # A vanishing step size leaves the towers where they started.
    finetune(
        finetune_settings(tmp_path / "fine", preset=None, init=str(tmp_path / "pre"), lr=1e-12, epochs=1), dataset=clips
    )
    encoder = {name[8:]: value for name, value in weights(tmp_path / "pre").items() if name.startswith("encoder.")}
    towers = weights(tmp_path / "fine")
    for name, value in encoder.items():
        for sense in ("video", "audio"):
            torch.testing.assert_close(towers[f"encoders.{sense}.{name}"], value, rtol=0, atol=1e-6)
    card = checkpoint.load_card(tmp_path / "fine")
    assert card.parent == pre.model_id
    assert card.statistics == checkpoint.load_card(tmp_path / "pre").statistics


@pytest.mark.parametrize("loss", ["infonce", "nt_xent"])
def test_part_of_the_loss_contrasts_frames_in_their_order(tmp_path: Path, loss: str) -> None:
    finetune(finetune_settings(tmp_path / "run", epochs=1), dataset=random_clips(8))
    card, chance = checkpoint.load_card(tmp_path / "run"), Generator().manual_seed(0)
    batch = collate([clip for clip in random_clips(6).read(range(6)) if isinstance(clip, Clip)])
    step = chance_of_step(0, 0, device=torch.device("cpu"), rank=0, world=1, batch_size=6)
    unit = [torch.nn.functional.normalize(torch.randn(6, 2, 8, generator=chance), dim=-1) for _ in range(2)]
    pairs = Pairs(*(Embedding(frames[:, 0], frames) for frames in unit), torch.tensor(5.0))

    def value(weight: float) -> float:
        settings = finetune_settings(tmp_path / "run", loss=loss, sequence_weight=weight)
        return float(FinetuneTask(card, settings, 6).losses(lambda *_, **__: pairs, batch, step)["loss"])  # type: ignore[arg-type]

    flat = [frames.reshape(6, 16) / 2**0.5 for frames in unit]
    expected = info_nce(*flat, 5.0) if loss == "infonce" else nt_xent(*flat, 0.07)
    assert value(1.0) == pytest.approx(float(expected), rel=1e-5)
    assert value(0.25) == pytest.approx(0.75 * value(0.0) + 0.25 * value(1.0), rel=1e-5)


@pytest.mark.parametrize("loss", ["infonce", "nt_xent"])
def test_frames_are_contrasted_with_all_frames_of_the_batch(tmp_path: Path, loss: str) -> None:
    finetune(
        finetune_settings(tmp_path / "run", epochs=1, frame_weight=1.0, frames_apart=True), dataset=random_clips(16)
    )
    card = checkpoint.load_card(tmp_path / "run")
    assert card.options["frames_apart"] is True
    chance = Generator().manual_seed(0)
    batch = collate([clip for clip in random_clips(6).read(range(6)) if isinstance(clip, Clip)])
    step = chance_of_step(0, 0, device=torch.device("cpu"), rank=0, world=1, batch_size=6)
    unit = [torch.nn.functional.normalize(torch.randn(6, 2, 8, generator=chance), dim=-1) for _ in range(2)]
    pairs = Pairs(*(Embedding(frames[:, 0], frames) for frames in unit), torch.tensor(5.0))

    def value(**weights: float) -> float:
        settings = finetune_settings(tmp_path / "run", loss=loss, **weights)
        return float(FinetuneTask(card, settings, 6).losses(lambda *_, **__: pairs, batch, step)["loss"])  # type: ignore[arg-type]

    rows = [[frame.tolist() for clip in frames for frame in clip] for frames in unit]
    expected = losses_slow.info_nce(*rows, 5.0) if loss == "infonce" else losses_slow.nt_xent(*rows, 0.07)
    assert value(frame_weight=1.0) == pytest.approx(expected, rel=1e-5)
    both = 0.25 * value() + 0.25 * value(sequence_weight=1.0) + 0.5 * value(frame_weight=1.0)
    assert value(frame_weight=0.5, sequence_weight=0.25) == pytest.approx(both, rel=1e-5)


def test_frames_apart_are_decided_when_the_towers_are_new(tmp_path: Path) -> None:
    finetune(finetune_settings(tmp_path / "strip", epochs=1, frames_apart=False), dataset=random_clips(16))
    with pytest.raises(CheckpointError, match="towers look at whole strips, which --frames_apart cannot change"):
        finetune(
            finetune_settings(tmp_path / "on", preset=None, init=str(tmp_path / "strip"), frames_apart=True),
            dataset=random_clips(16),
        )
    with pytest.raises(SettingsError, match=r"--frame_weight: got 0.7, expected a value in \[0.0, 0.5\]"):
        finetune_settings(tmp_path / "on", sequence_weight=0.5, frame_weight=0.7)


@pytest.mark.parametrize(
    ("apart", "clips", "sequence", "parts", "mixed"),
    [
        (True, 500, 0.0, [0.0, 0.0, 1.0], 0.0),
        (True, 500, 0.25, [0.0, 0.25, 0.75], 0.0),
        (True, 499, 0.0, [1.0, 0.0, 0.0], 1.0),
        (False, 500, 0.0, [1.0, 0.0, 0.0], 0.0),
        (False, 499, 0.25, [0.75, 0.25, 0.0], 1.0),
    ],
)
def test_the_loss_follows_from_the_towers_and_the_number_of_clips(
    tmp_path: Path, apart: bool, clips: int, sequence: float, parts: list[float], mixed: float
) -> None:
    told = {} if apart else {"frames_apart": False}
    finetune(finetune_settings(tmp_path / "run", epochs=1, **told), dataset=random_clips(16))
    card = checkpoint.load_card(tmp_path / "run")
    assert card.options["frames_apart"] is apart
    task = FinetuneTask(card, finetune_settings(tmp_path / "run", sequence_weight=sequence), clips)
    assert list(task.weights.values()) == parts
    assert task.pair_mix_prob == mixed


def test_pairs_are_not_mixed_by_default_where_frames_are_contrasted(tmp_path: Path) -> None:
    finetune(finetune_settings(tmp_path / "run", epochs=1), dataset=random_clips(16))
    card = checkpoint.load_card(tmp_path / "run")
    for weight, expected in ((0.0, 1.0), (0.5, 0.0)):
        settings = finetune_settings(tmp_path / "run", frame_weight=weight)
        assert FinetuneTask(card, settings, 100).pair_mix_prob == expected


def test_a_retriever_is_trained_on_with_its_own_sizes_and_heads(tmp_path: Path) -> None:
    finetune(finetune_settings(tmp_path / "first", embed_dim=12, epochs=1), dataset=random_clips(16))
    first = checkpoint.load_card(tmp_path / "first")
    # A vanishing step size leaves what was learnt as it was; other clips, so that nothing is measured anew.
    finetune(
        finetune_settings(tmp_path / "second", preset=None, init=str(tmp_path / "first"), lr=1e-12, epochs=1),
        dataset=random_clips(300, seed=1),
    )
    second = checkpoint.load_card(tmp_path / "second")
    assert (second.parent, second.options, second.statistics) == (first.model_id, first.options, first.statistics)
    assert second.options["embed_dim"] == 12
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name in before:
        if "standardize" not in name:  # its running statistics are those of the clips it saw last
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match="a retriever of two towers, which --shared_tower cannot make one of"):
        finetune(
            finetune_settings(tmp_path / "third", preset=None, init=str(tmp_path / "first"), shared_tower=True),
            dataset=random_clips(16),
        )


def test_an_init_of_another_shape_is_refused(tmp_path: Path) -> None:
    clips = random_clips(16)
    pretrain(pretrain_settings(tmp_path / "pre"), dataset=clips)
    with pytest.raises(
        CheckpointError, match="a checkpoint of another shape: width 128, depth 4, patch 16, which is not preset 'tiny'"
    ):
        finetune(finetune_settings(tmp_path / "fine", preset="tiny", init=str(tmp_path / "pre")), dataset=clips)


def test_heads_start_at_the_pairs_correlations_where_there_are_enough_pairs(tmp_path: Path) -> None:
    def first_weights(count: int, head_start: str) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{count}-{head_start}"
        finetune(
            finetune_settings(out, head_start=head_start, lr=1e-12, epochs=1, batch_size=64),
            dataset=random_clips(count),
        )
        return weights(out)

    few, enough = 2 * 128 - 1, 2 * 128
    name = "heads.video.project.weight"
    assert torch.equal(first_weights(few, "canonical")[name], first_weights(few, "random")[name])
    started, random = first_weights(enough, "canonical"), first_weights(enough, "random")
    assert not torch.equal(started[name], random[name])
    untouched = "encoders.video.embed.weight"
    torch.testing.assert_close(started[untouched], random[untouched], rtol=0, atol=1e-8)
    model = load_retriever(tmp_path / "256-random")
    clips = random_clips(enough)
    pixels, windows = torch.from_numpy(clips.video_NTCHW), torch.from_numpy(clips.audio_NTS)
    features = (
        model.features("video", model.frontend.video(pixels)),
        model.features("audio", model.frontend.audio(windows)),
    )
    maps = canonical_maps(*features)
    # The sign of a direction is free, in both heads at once.
    for sense, rows_KD in (("video", maps.video_KD), ("audio", maps.audio_KD)):
        weight_ED = started[f"heads.{sense}.project.weight"]
        torch.testing.assert_close(
            weight_ED.T @ weight_ED,
            (rows_KD[: len(weight_ED)].T @ rows_KD[: len(weight_ED)]).float(),
            rtol=1e-3,
            atol=1e-4,
        )


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_bfloat16_trains_close_to_single_precision(tmp_path: Path, stage: str) -> None:
    clips = random_clips(16)
    run: Any = {"pretrain": pretrain, "finetune": finetune}[stage]
    settings: Any = {"pretrain": pretrain_settings, "finetune": finetune_settings}[stage]
    logs = []
    for name, kind in (("single", "32-true"), ("half", "bf16-mixed")):
        # Small steps: large ones drive any two roundings apart, in whatever precision.
        run(settings(tmp_path / name, precision=kind, epochs=1, lr=1e-4), dataset=clips)
        logs.append([json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()])
    assert len(logs[0]) == len(logs[1]) == 4
    for single, half in zip(*logs, strict=True):
        assert half["loss"] == pytest.approx(single["loss"], rel=0.02)
        assert half["loss"] != single["loss"]
    assert {value.dtype for value in weights(tmp_path / "half").values() if value.is_floating_point()} == {
        torch.float32
    }
