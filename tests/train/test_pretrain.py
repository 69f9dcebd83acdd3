"""Pre-training: what is drawn, what the losses are, the image of a reconstruction, and what a run records."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import preset
from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.train.pretrain import PretrainTask, pretrain
from cmmixer.types import Statistics
from tests.reference import patches_slow
from tests.support.small_runs import PICO, random_clips
from tests.support.training_runs import InterruptAfter, log_rows, pretrain_settings, random_batch, step_rng

METADATA = Metadata(
    kind="mae",
    model=dataclasses.replace(preset("nano").model, depth=1, decoder_depth=1),
    clip=PICO,
    statistics=Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1),
    options={"norm_pix": False, "video_weight": 2.0, "audio_weight": 0.5, "interleave": False},
    settings={},
)
TOKENS = 2 * (32 // 16) ** 2
STILL = dataclasses.asdict(NO_AUGMENTATION)


def task(**changes: object) -> PretrainTask:
    return PretrainTask(METADATA, pretrain_settings(Path("unused"), **{**STILL, **changes}))


@pytest.mark.parametrize("mixup_mode", ["pixel", "patch", "image", "video"])
def test_two_processes_draw_what_one_would(mixup_mode: str) -> None:
    one = task(mixup_mode=mixup_mode, cutmix_alpha=0.0)
    mask, noise = one.draw_mixing_mask(step_rng(6)), one.draw_noise(step_rng(6))
    assert (mask.shape, noise.shape) == ((6, 2, 1, 32, 32), (6, TOKENS))
    assert 0.0 <= float(mask.min()) <= float(mask.max()) <= 1.0
    ranks = [step_rng(3, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([one.draw_mixing_mask(rng) for rng in ranks]), mask)
    ranks = [step_rng(3, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([one.draw_noise(rng) for rng in ranks]), noise)


def test_losses_are_those_of_the_masked_patches() -> None:
    its, batch = task(mask_ratio=0.5), random_batch(3)
    losses = its.losses(its.network, batch, step_rng(3))
    assert list(losses) == ["loss", "loss_video", "loss_audio"]
    assert losses["loss"].item() == pytest.approx(
        2.0 * losses["loss_video"].item() + 0.5 * losses["loss_audio"].item(), rel=1e-6
    )
    network = its.network
    assert isinstance(network, MaskedAutoencoder)
    frontend, rng = FrontEnd(PICO, METADATA.statistics), step_rng(3)
    clean = {"video": frontend.video(batch.video_BTCHW), "audio": frontend.audio(batch.audio_BTN)}
    mask, noise = its.draw_mixing_mask(rng), its.draw_noise(rng)
    with torch.no_grad():
        output = network(clean["video"], clean["audio"], mask, mask_ratio=0.5, noise_BL=noise)
    for modality, prediction in (("video", output.prediction_video), ("audio", output.prediction_audio)):
        total, count = 0.0, 0
        for clip in range(3):
            strip = patches_slow.strip(clean[modality][clip].numpy().astype(np.float64), False)
            targets = patches_slow.patches(strip, 16)
            # The half of the tokens with the most noise is masked.
            for token in noise[clip].argsort()[TOKENS // 2 :].tolist():
                error = np.asarray(targets[token]) - prediction[clip, token].double().numpy()
                total, count = total + float((error**2).mean()), count + 1
        assert losses[f"loss_{modality}"].item() == pytest.approx(total / count, rel=1e-4)


def test_image_shows_the_first_clip_under_the_draws_of_the_step() -> None:
    its, batch = task(), random_batch(4)
    image = its.reconstruction_image(batch, step_rng(4))
    assert image is not None
    # Frames, mel spectrograms, mix, what the encoder sees, and both reconstructions; two frames side by side.
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (6 * 32, 2 * 32, 3))
    pixels = batch.video_BTCHW[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(image[:32], torch.cat([pixels[0], pixels[1]], dim=1), rtol=0, atol=1)
    other_clips = random_batch(4, seed=5)
    other_clips.video_BTCHW[0], other_clips.audio_BTN[0] = batch.video_BTCHW[0], batch.audio_BTN[0]
    again = its.reconstruction_image(other_clips, step_rng(4))
    assert again is not None
    assert torch.equal(again, image)


def test_network_is_drawn_from_the_seed() -> None:
    first, same, other = (task(seed=seed).network.state_dict() for seed in (1, 1, 2))
    name = "encoder.embed.weight"
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])


def test_metadata_records_model_data_and_settings(tmp_path: Path) -> None:
    clips, out = random_clips(10), tmp_path / "run"
    settings = pretrain_settings(out, epochs=1, norm_pix=True, video_weight=2.0, interleave=True)
    result = pretrain(settings, dataset=clips)
    metadata = checkpoint.load_metadata(out)
    assert (metadata.kind, metadata.model, metadata.clip) == ("mae", preset("nano").model, PICO)
    assert metadata.options == {"norm_pix": True, "video_weight": 2.0, "audio_weight": 1.0, "interleave": True}
    assert metadata.settings == {**dataclasses.asdict(settings), "cutmix_minmax": None}
    assert (metadata.parent, metadata.statistics.clips, metadata.data["clips"]) == (None, 10, 10)
    assert (result.run, result.model_id, result.step) == (out, metadata.model_id, 2)
    assert (result.clips, result.skipped, result.losses, result.is_main) == (10, 0, metadata.metrics, True)
    assert (out / "sources.txt").read_text().splitlines() == sorted(str(number) for number in range(10))
    row = log_rows(out)[0]
    assert row["loss"] == pytest.approx(2.0 * row["loss_video"] + row["loss_audio"], rel=1e-5)


def test_statistics_are_measured_once_and_kept_when_resuming(tmp_path: Path) -> None:
    settings = pretrain_settings(tmp_path / "run", save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, InterruptAfter(2), random_clips(8))
    measured = checkpoint.load_metadata(tmp_path / "run").statistics
    pretrain(settings, dataset=random_clips(8, seed=9))
    assert checkpoint.load_metadata(tmp_path / "run").statistics == measured


def test_run_folder_holds_what_a_person_looks_for(tmp_path: Path) -> None:
    pretrain(pretrain_settings(tmp_path / "run", epochs=1), dataset=random_clips(8))
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [
        ".lock",
        "checkpoints",
        "latest",
        "log.jsonl",
        "settings.json",
        "sources.txt",
        "tensorboard",
    ]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
