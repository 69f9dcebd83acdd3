"""Fine-tuning: what the loss contrasts, what follows from an init, and how the heads start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata, load_retriever
from cmmixer.config import ClipSettings
from cmmixer.errors import CheckpointError, MediaError, SettingsError
from cmmixer.models.heads import fit_cca
from cmmixer.models.losses import info_nce, nt_xent
from cmmixer.models.retriever import Embedding, Pairs
from cmmixer.progress import NoProgress
from cmmixer.train.finetune import FEW_CLIPS, FinetuneTask, _clip_settings, finetune, initialize_heads
from cmmixer.train.pretrain import pretrain
from tests.reference import losses_slow
from tests.support.small_runs import PICO, random_clips
from tests.support.training_runs import finetune_settings, pretrain_settings, random_batch, step_rng, weights

CLIPS = 16


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(pretrain_settings(out, epochs=1), dataset=random_clips(CLIPS))
    return out


@pytest.fixture(scope="module")
def frame_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retriever with frame-level encoding, which is the default."""
    out = tmp_path_factory.mktemp("frame-level") / "run"
    finetune(finetune_settings(out, epochs=1, embed_dim=12), dataset=random_clips(CLIPS))
    return out


@pytest.fixture(scope="module")
def strip_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("strip-level") / "run"
    finetune(finetune_settings(out, epochs=1, frame_level=False), dataset=random_clips(CLIPS))
    return out


@pytest.fixture(scope="module")
def unit_vectors() -> list[torch.Tensor]:
    """Unit vectors of 6 clips with 2 frames, of video and audio."""
    generator = Generator().manual_seed(0)
    return [nn.functional.normalize(torch.randn(6, 2, 8, generator=generator), dim=-1) for _ in range(2)]


def loss_of(metadata: Metadata, vectors: list[torch.Tensor], **changes: Any) -> float:
    """The task's loss where the network returns these vectors; the vector of a clip is that of its first frame."""
    pairs = Pairs(*(Embedding(frames[:, 0], frames) for frames in vectors), torch.tensor(5.0))
    task = FinetuneTask(metadata, finetune_settings(Path("unused"), **changes), 6)
    network: Any = lambda *_, **__: pairs  # noqa: E731
    return float(task.losses(network, random_batch(6), step_rng(6))["loss"])


@pytest.mark.parametrize("loss", ["infonce", "nt_xent"])
def test_sequence_weight_contrasts_the_frames_in_order(
    frame_level: Path, unit_vectors: list[torch.Tensor], loss: str
) -> None:
    metadata = checkpoint.load_metadata(frame_level)

    def value(weight: float) -> float:
        return loss_of(metadata, unit_vectors, loss=loss, sequence_weight=weight)

    flat = [frames.reshape(6, 16) / 2**0.5 for frames in unit_vectors]
    expected = info_nce(*flat, 5.0) if loss == "infonce" else nt_xent(*flat, 0.07)
    assert value(1.0) == pytest.approx(float(expected), rel=1e-5)
    assert value(0.25) == pytest.approx(0.75 * value(0.0) + 0.25 * value(1.0), rel=1e-5)


@pytest.mark.parametrize("loss", ["infonce", "nt_xent"])
def test_frame_weight_contrasts_each_frame_with_all_of_the_batch(
    frame_level: Path, unit_vectors: list[torch.Tensor], loss: str
) -> None:
    metadata = checkpoint.load_metadata(frame_level)

    def value(**changes: float) -> float:
        return loss_of(metadata, unit_vectors, loss=loss, **changes)

    rows = [[frame.tolist() for clip in frames for frame in clip] for frames in unit_vectors]
    expected = losses_slow.info_nce(*rows, 5.0) if loss == "infonce" else losses_slow.nt_xent(*rows, 0.07)
    assert value(frame_weight=1.0) == pytest.approx(expected, rel=1e-5)
    both = 0.25 * value() + 0.25 * value(sequence_weight=1.0) + 0.5 * value(frame_weight=1.0)
    assert value(frame_weight=0.5, sequence_weight=0.25) == pytest.approx(both, rel=1e-5)


@pytest.mark.parametrize("loss", ["infonce", "nt_xent"])
def test_without_weights_the_loss_contrasts_whole_clips(
    frame_level: Path, unit_vectors: list[torch.Tensor], loss: str
) -> None:
    rows = [frames[:, 0].tolist() for frames in unit_vectors]
    expected = losses_slow.info_nce(*rows, 5.0) if loss == "infonce" else losses_slow.nt_xent(*rows, 0.07)
    metadata = checkpoint.load_metadata(frame_level)
    assert loss_of(metadata, unit_vectors, loss=loss) == pytest.approx(expected, rel=1e-5)


def test_only_infonce_learns_and_logs_the_temperature(frame_level: Path) -> None:
    metadata, batch = checkpoint.load_metadata(frame_level), random_batch(4)
    for loss, logged in (("infonce", {"loss", "logit_scale"}), ("nt_xent", {"loss"})):
        task = FinetuneTask(metadata, finetune_settings(Path("unused"), loss=loss), 4)
        values = task.losses(task.network, batch, step_rng(4))
        assert values.keys() == logged
        assert task.retriever.logit_scale.requires_grad is (loss == "infonce")
        assert values["loss"].requires_grad
        if "logit_scale" in values:
            assert not values["logit_scale"].requires_grad
            assert float(values["logit_scale"]) == pytest.approx(1 / 0.07, rel=1e-5)


@pytest.mark.parametrize(
    ("encoding", "clips", "sequence_weight", "parts", "mixup_prob"),
    [
        (True, FEW_CLIPS, 0.0, [0.0, 0.0, 1.0], 0.0),
        (True, FEW_CLIPS, 0.25, [0.0, 0.25, 0.75], 0.0),
        (True, FEW_CLIPS - 1, 0.0, [1.0, 0.0, 0.0], 1.0),
        (False, FEW_CLIPS, 0.0, [1.0, 0.0, 0.0], 0.0),
        (False, FEW_CLIPS - 1, 0.25, [0.75, 0.25, 0.0], 1.0),
    ],
)
def test_defaults_follow_from_the_encoding_and_the_number_of_clips(
    frame_level: Path,
    strip_level: Path,
    encoding: bool,
    clips: int,
    sequence_weight: float,
    parts: list[float],
    mixup_prob: float,
) -> None:
    metadata = checkpoint.load_metadata(frame_level if encoding else strip_level)
    assert metadata.options["frame_level"] is encoding
    task = FinetuneTask(metadata, finetune_settings(Path("unused"), sequence_weight=sequence_weight), clips)
    assert list(task.weights.values()) == parts
    assert task.frame_mixup_prob == mixup_prob


def test_frames_are_not_mixed_by_default_where_frames_are_contrasted(frame_level: Path) -> None:
    metadata = checkpoint.load_metadata(frame_level)
    for weight, given, expected in ((0.0, None, 1.0), (0.5, None, 0.0), (0.5, 0.25, 0.25), (0.0, 0.0, 0.0)):
        settings = finetune_settings(Path("unused"), frame_weight=weight, frame_mixup_prob=given)
        assert FinetuneTask(metadata, settings, 100).frame_mixup_prob == expected


def test_frame_mixup_treats_both_modalities_and_all_processes_alike(frame_level: Path) -> None:
    settings = finetune_settings(Path("unused"), frame_mixup_prob=1.0)
    task = FinetuneTask(checkpoint.load_metadata(frame_level), settings, 8)
    # Every frame holds the number of its clip and its time.
    numbers = (10 * torch.arange(8.0)[:, None] + torch.arange(2.0)).reshape(8, 2, 1, 1, 1)
    video, audio = task._mix_frames(numbers, -numbers, step_rng(8))
    assert torch.equal(video, -audio)
    assert torch.equal(video % 10, numbers % 10)  # a frame keeps its time
    assert not torch.equal(video, numbers)
    parts = [
        task._mix_frames(numbers[rows], -numbers[rows], step_rng(4, rank=rank, world=2)) for rank, rows in halves()
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), video)


def test_mask_noise_is_that_of_the_global_batch(frame_level: Path) -> None:
    task = FinetuneTask(checkpoint.load_metadata(frame_level), finetune_settings(Path("unused"), mask_ratio=0.5), 8)
    noise = task._draw_noise(step_rng(8))
    parts = [task._draw_noise(step_rng(4, rank=rank, world=2)) for rank, _ in halves()]
    assert noise is not None
    for modality in (0, 1):
        assert noise[modality].shape == (8, 2 * (32 // 16) ** 2)
        parts_of_batch = [part[modality] for part in parts if part is not None]
        assert torch.equal(torch.cat(parts_of_batch), noise[modality])
    assert not torch.equal(noise[0], noise[1])
    unmasked = FinetuneTask(task.metadata, finetune_settings(Path("unused")), 8)
    assert unmasked._draw_noise(step_rng(8)) is None


def halves() -> list[tuple[int, slice]]:
    return [(0, slice(0, 4)), (1, slice(4, 8))]


def test_retriever_has_no_reconstruction(frame_level: Path) -> None:
    task = FinetuneTask(checkpoint.load_metadata(frame_level), finetune_settings(Path("unused")), 4)
    assert task.reconstruction_image(random_batch(4), step_rng(4)) is None


def test_towers_start_at_the_pretrained_encoder(pretrained: Path, tmp_path: Path) -> None:
    # A vanishing learning rate leaves the towers where they started.
    settings = finetune_settings(tmp_path / "run", preset=None, init=str(pretrained), lr=1e-12, epochs=1)
    finetune(settings, dataset=random_clips(CLIPS, seed=3))
    encoder = {name[8:]: value for name, value in weights(pretrained).items() if name.startswith("encoder.")}
    towers = weights(tmp_path / "run")
    for name, value in encoder.items():
        for modality in ("video", "audio"):
            torch.testing.assert_close(towers[f"encoders.{modality}.{name}"], value, rtol=0, atol=1e-6)
    metadata, parent = checkpoint.load_metadata(tmp_path / "run"), checkpoint.load_metadata(pretrained)
    assert metadata.parent == parent.model_id
    assert (metadata.statistics, metadata.model, metadata.clip) == (parent.statistics, parent.model, parent.clip)
    assert metadata.options == {
        "embed_dim": 16,
        "shared_tower": False,
        "temperature": 0.07,
        "interleave": False,
        "frame_level": True,
    }


def test_retriever_as_init_keeps_its_sizes_and_heads(frame_level: Path, tmp_path: Path) -> None:
    first = checkpoint.load_metadata(frame_level)
    # A vanishing learning rate leaves the weights as they were; enough other clips, so that heads could be initialized.
    settings = finetune_settings(
        tmp_path / "run", preset=None, init=str(frame_level), lr=1e-12, epochs=1, batch_size=64
    )
    finetune(settings, dataset=random_clips(300, seed=1))
    second = checkpoint.load_metadata(tmp_path / "run")
    assert (second.parent, second.options, second.statistics) == (first.model_id, first.options, first.statistics)
    assert second.options["embed_dim"] == 12
    before, after = weights(frame_level), weights(tmp_path / "run")
    for name in before:
        if "feature_norm" not in name:  # its running statistics are those of the last clips
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def refused_init(init: Path, **changes: Any) -> str:
    settings = finetune_settings(Path("unused"), **{"preset": None, **changes}, init=str(init))
    with pytest.raises(CheckpointError) as refused:
        finetune(settings, dataset=random_clips(CLIPS))
    return str(refused.value)


def test_init_that_does_not_fit_is_refused(pretrained: Path, frame_level: Path, strip_level: Path) -> None:
    assert refused_init(pretrained, preset="tiny") == (
        f"--init {pretrained}: a checkpoint of another shape: width 128, depth 4, patch 16, which is not preset 'tiny'; leave "
        "--preset out, the init's sizes are used"
    )
    assert refused_init(strip_level, frame_level=True) == (
        f"--init {strip_level}: a retriever whose towers encode whole strips, which --frame_level cannot change; start from a run "
        "of pretrain"
    )
    assert refused_init(frame_level, shared_tower=True) == (
        f"--init {frame_level}: a retriever with two towers, which --shared_tower cannot turn into one; leave --shared_tower out"
    )


def test_clip_settings_come_from_the_flags_then_the_init_then_the_preset(pretrained: Path) -> None:
    init = checkpoint.load_metadata(pretrained)
    bare: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(ClipSettings))
    settings = finetune_settings(Path("unused"), **{**bare, "frames": 5})
    assert _clip_settings(settings, init) == dataclasses.replace(PICO, frames=5)
    nano = _clip_settings(settings, None)
    assert (nano.frames, nano.height, nano.sample_rate_hz) == (5, 64, 16000)
    base = _clip_settings(dataclasses.replace(settings, preset=None), None)
    assert (base.height, base.window_samples) == (224, 114_660)


def test_frame_weight_and_sequence_weight_share_one() -> None:
    with pytest.raises(SettingsError) as refused:
        finetune_settings(Path("unused"), sequence_weight=0.5, frame_weight=0.7)
    assert str(refused.value) == "--frame_weight: got 0.7, expected a value in [0.0, 0.5]"


def test_heads_start_at_the_canonical_correlations_of_enough_pairs(tmp_path: Path) -> None:
    def first_weights(count: int, head_init: str) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{count}-{head_init}"
        settings = finetune_settings(out, head_init=head_init, lr=1e-12, epochs=1, batch_size=64)
        finetune(settings, dataset=random_clips(count))
        return weights(out)

    few, enough = 2 * 128 - 1, 2 * 128
    name = "heads.video.project.weight"
    assert torch.equal(first_weights(few, "cca")[name], first_weights(few, "random")[name])
    initialized, random = first_weights(enough, "cca"), first_weights(enough, "random")
    assert not torch.equal(initialized[name], random[name])
    untouched = "encoders.video.embed.weight"
    torch.testing.assert_close(initialized[untouched], random[untouched], rtol=0, atol=1e-8)
    model = load_retriever(tmp_path / "256-random")
    clips = random_clips(enough)
    pixels, windows = torch.from_numpy(clips.video_NTCHW), torch.from_numpy(clips.audio_NTS)
    maps = fit_cca(
        model.features("video", model.frontend.video(pixels)),
        model.features("audio", model.frontend.audio(windows)),
    )
    # The sign of a direction is free, in both heads at once.
    for modality, rows_KD in (("video", maps.video_KD), ("audio", maps.audio_KD)):
        weight_ED = initialized[f"heads.{modality}.project.weight"]
        expected_DD = (rows_KD[: len(weight_ED)].T @ rows_KD[: len(weight_ED)]).float()
        torch.testing.assert_close(weight_ED.T @ weight_ED, expected_DD, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("unreadable", "changed"), [(44, True), (45, False)])
def test_initializing_heads_leaves_out_unreadable_clips(frame_level: Path, unreadable: int, changed: bool) -> None:
    # 256 or 255 of 300 clips can be read, and 2 x 128 are needed.
    clips, parts = random_clips(300), []
    read: Callable[..., Any] = clips.read

    def some_unreadable(indices: Any) -> list[Any]:
        return [clip if int(clip.id) >= unreadable else MediaError(clip.id, "unreadable", "") for clip in read(indices)]

    class Listener(NoProgress):
        def start(self, total: int | None, what: str) -> None:
            parts.append((what, total))

        def advance(self, steps: int = 1) -> None:
            parts.append(("clips", steps))

    clips.read = some_unreadable  # type: ignore[method-assign]
    task = FinetuneTask(checkpoint.load_metadata(frame_level), finetune_settings(Path("unused")), 300)
    before = task.retriever.state_dict()["heads.video.project.weight"].clone()
    initialize_heads(task, clips, 0, torch.device("cpu"), Listener())
    after = task.retriever.state_dict()["heads.video.project.weight"]
    assert torch.equal(before, after) is not changed
    assert parts == [("initializing the heads", 300), *[("clips", 32)] * 9, ("clips", 12)]
