"""The training loop: exact resuming, the schedule of steps, log lines, images and checkpoints, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cmmixer import checkpoint
from cmmixer.errors import CheckpointError, NonFiniteError
from cmmixer.progress import NoProgress
from cmmixer.train.finetune import FinetuneTask, finetune
from cmmixer.train.loop import _Trainer, fit
from cmmixer.train.pretrain import PretrainTask, pretrain
from cmmixer.train.resume import Run
from tests.support.small_runs import random_clips
from tests.support.training_runs import (
    InterruptAfter,
    assert_same_bits,
    finetune_settings,
    log_rows,
    pretrain_settings,
    single_process,
    weights,
)

COMMANDS: dict[str, Any] = {"pretrain": pretrain, "finetune": finetune}
SETTINGS: dict[str, Any] = {"pretrain": pretrain_settings, "finetune": finetune_settings}
# 18 clips in batches of 4: 4 steps per epoch, 8 in all.
CLIPS, STEPS = 18, 8


@pytest.fixture(scope="module", params=["pretrain", "finetune"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    stage = request.param
    out = tmp_path_factory.mktemp(stage) / "run"
    COMMANDS[stage](SETTINGS[stage](out), dataset=random_clips(CLIPS))
    return stage, out


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_resume_is_bit_exact(uninterrupted: tuple[str, Path], tmp_path: Path, stop_after: int) -> None:
    stage, whole = uninterrupted
    clips, settings = random_clips(CLIPS), SETTINGS[stage](tmp_path / "run", save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        COMMANDS[stage](settings, InterruptAfter(stop_after), clips)
    result = COMMANDS[stage](settings, dataset=clips)
    assert result.step == STEPS
    assert_same_bits(whole, tmp_path / "run")
    rows = log_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in log_rows(whole)]


def test_accumulating_two_batches_equals_one_of_double_size(tmp_path: Path) -> None:
    # Draws depend on the batch, so nothing may be drawn: no augmentation, no pixel from the audio, no mask.
    fixed = {"crop_scale_min": 1.0, "flip_prob": 0.0, "gain_db": 0.0, "mask_ratio": 0.0, "epochs": 1}
    fixed |= {"mixup_mode": "pixel", "mix_rate": 0.0}
    clips = random_clips(16)
    pretrain(pretrain_settings(tmp_path / "double", batch_size=8, **fixed), dataset=clips)
    pretrain(pretrain_settings(tmp_path / "twice", batch_size=4, accum_iter=2, **fixed), dataset=clips)
    one, other = weights(tmp_path / "double"), weights(tmp_path / "twice")
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)


def test_recomputed_activations_and_cached_clips_change_no_bit(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    stage, whole = uninterrupted
    settings = SETTINGS[stage](tmp_path / "run", grad_checkpointing=True, keep_gb=0.1)
    COMMANDS[stage](settings, dataset=random_clips(CLIPS))
    assert_same_bits(whole, tmp_path / "run")


def test_log_has_one_line_per_step(uninterrupted: tuple[str, Path]) -> None:
    stage, run = uninterrupted
    rows = log_rows(run)
    losses = {"pretrain": ["loss", "loss_video", "loss_audio"], "finetune": ["loss", "logit_scale"]}[stage]
    assert all(list(row) == ["step", "epoch", *losses, "lr", "gradient_norm", "clips_per_second"] for row in rows)
    assert [row["epoch"] for row in rows] == [step / 4 for step in range(1, STEPS + 1)]
    assert all(row["gradient_norm"] > 0 and row["clips_per_second"] > 0 for row in rows)
    # A cosine from 1e-3; pretrain warms up over 2 steps, finetune over 4.
    warmup = {"pretrain": 2, "finetune": 4}[stage]
    cosine = [5e-4 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) for step in range(warmup, STEPS)]
    expected = [1e-3 * (step + 1) / warmup for step in range(warmup)] + cosine
    assert [row["lr"] for row in rows] == pytest.approx(expected, abs=1e-8)


def test_log_steps_skip_lines_but_never_the_last(tmp_path: Path) -> None:
    finetune(finetune_settings(tmp_path / "run", log_steps=3), dataset=random_clips(16))
    assert [row["step"] for row in log_rows(tmp_path / "run")] == [3, 6, 8]


def test_metadata_describes_the_finished_run(uninterrupted: tuple[str, Path]) -> None:
    stage, run = uninterrupted
    metadata, last = checkpoint.load_metadata(run), log_rows(run)[-1]
    assert (metadata.step, metadata.epoch, metadata.clips_seen) == (STEPS, 2.0, 32)
    assert metadata.kind == {"pretrain": "mae", "finetune": "retriever"}[stage]
    assert metadata.metrics["loss"] == pytest.approx(last["loss"], abs=1e-8)
    assert metadata.settings["batch_size"] == 4
    assert checkpoint.load_progress(run) == {
        "step": STEPS,
        "clips": CLIPS,
        "clips_per_batch": 4,
        "files": ["state.safetensors"],
    }


def test_checkpoints_follow_save_steps_and_keep(tmp_path: Path) -> None:
    pretrain(pretrain_settings(tmp_path / "run", save_steps=3, keep=3), dataset=random_clips(16))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006", "step-00000008"]


def test_checkpoints_follow_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = pretrain_settings(tmp_path / "run", epochs=1, save_minutes=1e-9, keep=9)
    pretrain(settings, dataset=random_clips(16))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step-0000000{step}" for step in (1, 2, 3, 4)]


@pytest.mark.parametrize(("image_epochs", "steps"), [(1, [4, 8, 12]), (2, [8, 12]), (0, [12])])
def test_images_follow_image_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_epochs: int, steps: list[int]
) -> None:
    images: list[tuple[int, tuple[int, ...]]] = []

    def write_image(self: Any, step: int, image_HWC: torch.Tensor) -> None:
        images.append((step, tuple(image_HWC.shape)))

    monkeypatch.setattr("cmmixer.train.log.Log.write_image", write_image)
    pretrain(pretrain_settings(tmp_path / "run", epochs=3, image_epochs=image_epochs), dataset=random_clips(16))
    # Six rows of two frames, 32 x 32 pixels each.
    assert images == [(step, (6 * 32, 2 * 32, 3)) for step in steps]


def test_losses_fall(tmp_path: Path) -> None:
    finetune(finetune_settings(tmp_path / "run", epochs=30, batch_size=8), dataset=random_clips(16))
    losses = [row["loss"] for row in log_rows(tmp_path / "run")]
    assert losses[0] > 0.5 * math.log(8)
    assert sum(losses[-4:]) / 4 < 0.7 * losses[0]


def test_non_finite_step_is_refused_and_the_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    original = FinetuneTask.losses

    def losses(self: FinetuneTask, network: Any, batch: Any, rng: Any) -> dict[str, torch.Tensor]:
        values = original(self, network, batch, rng)
        steps.append(1)
        return {"loss": values["loss"] * math.nan} if len(steps) == 3 else values

    monkeypatch.setattr(FinetuneTask, "losses", losses)
    with pytest.raises(
        NonFiniteError,
        match=r"step 2 of 8 is not finite and was refused: loss nan, gradient norm nan, .*last checkpoint: step 2",
    ):
        finetune(finetune_settings(tmp_path / "run", save_steps=1), dataset=random_clips(16))
    assert checkpoint.load_metadata(tmp_path / "run").step == 2
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_run_with_other_settings_or_data_is_not_resumed(tmp_path: Path) -> None:
    clips, out = random_clips(16), tmp_path / "run"
    pretrain(pretrain_settings(out), dataset=clips)
    with pytest.raises(CheckpointError) as refused:
        pretrain(pretrain_settings(out, lr=2e-3), dataset=clips)
    assert str(refused.value) == (
        f"{out}: holds a run of other settings: lr 0.001 there, 0.002 here; use the same, another --out, or --overwrite"
    )
    with pytest.raises(CheckpointError) as refused:
        pretrain(pretrain_settings(out), dataset=random_clips(12))
    assert str(refused.value) == (
        f"{out}: the run there has 16 clips in batches of 4, this command has 12 in batches of 4; "
        "resume with the same data, or --overwrite"
    )
    assert pretrain(pretrain_settings(out, lr=2e-3, overwrite=True), dataset=clips).step == 8
    assert checkpoint.load_metadata(out).settings["lr"] == 2e-3


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    clips, settings = random_clips(16), pretrain_settings(tmp_path / "run")
    first = pretrain(settings, dataset=clips)
    file = checkpoint.resolve(tmp_path / "run") / "weights.safetensors"
    written = file.stat().st_mtime_ns
    assert pretrain(settings, dataset=clips) == first
    assert file.stat().st_mtime_ns == written


def test_progress_reports_title_steps_and_loss(tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    class Listener(NoProgress):
        def start(self, total: int | None, what: str) -> None:
            calls.append(("start", total, what))

        def advance(self, steps: int = 1) -> None:
            calls.append(("advance", steps))

        def message(self, text: str) -> None:
            calls.append(("message", text.split(",")[0]))

    clips, settings = random_clips(8), pretrain_settings(tmp_path / "run", epochs=1)
    pretrain(settings, Listener(), clips)
    losses = [f"loss {row['loss']:.4f}" for row in log_rows(tmp_path / "run")]
    start = ("start", 2, "pre-training on 8 clips")
    assert calls == [
        start,
        ("advance", 0),
        ("advance", 1),
        ("message", losses[0]),
        ("advance", 1),
        ("message", losses[1]),
    ]
    calls.clear()
    pretrain(settings, Listener(), clips)
    assert calls == [start, ("advance", 2)]


def test_fit_leaves_the_last_metadata_in_the_run(tmp_path: Path) -> None:
    settings, clips, fabric = pretrain_settings(tmp_path / "run", epochs=1), random_clips(8), single_process()
    pretrain(settings, dataset=clips)
    expected = checkpoint.load_metadata(tmp_path / "run")
    again = pretrain_settings(tmp_path / "again", epochs=1)
    with Run.open(again, fabric, clips=8, kind="mae") as run:
        fit(PretrainTask(expected, again), clips, run, fabric, NoProgress())
        assert run.metadata == checkpoint.load_metadata(tmp_path / "again")
        assert run.metadata is not None
        assert run.metadata.model_id == expected.model_id


def test_steps_that_fill_no_batch_are_dropped(tmp_path: Path) -> None:
    settings, fabric = finetune_settings(tmp_path / "run", accum_iter=2, epochs=3), single_process()
    finetune(settings, dataset=random_clips(23))  # 5 batches of 4, of which 2 steps take 2 each
    task = FinetuneTask(checkpoint.load_metadata(tmp_path / "run"), settings, 23)
    with Run.open(settings, fabric, clips=23, kind="retriever") as run:
        trainer = _Trainer(task, random_clips(23), run, fabric, NoProgress())
    assert (trainer.steps_per_epoch, trainer.total_steps, trainer.clips_per_batch, trainer.step) == (2, 6, 4, 6)
    assert checkpoint.load_metadata(tmp_path / "run").clips_seen == 6 * 2 * 4


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_bfloat16_trains_close_to_single_precision(tmp_path: Path, stage: str) -> None:
    clips, logs = random_clips(16), []
    for name, precision in (("single", "32-true"), ("half", "bf16-mixed")):
        # With a small learning rate, since large steps drive any two roundings apart, in whatever precision.
        settings = SETTINGS[stage](tmp_path / name, precision=precision, epochs=1, lr=1e-4)
        COMMANDS[stage](settings, dataset=clips)
        logs.append(log_rows(tmp_path / name))
    assert len(logs[0]) == len(logs[1]) == 4
    for single, half in zip(*logs, strict=True):
        assert half["loss"] == pytest.approx(single["loss"], rel=0.02)
        assert half["loss"] != single["loss"]
    dtypes = {value.dtype for value in weights(tmp_path / "half").values() if value.is_floating_point()}
    assert dtypes == {torch.float32}
