"""Augmentations against their slow twins: one draw for all frames, the identity when switched off, none of the frames' on mel."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor

from cmmixer.config import AugmentSettings
from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.data import augment
from cmmixer.data.augment import OPERATIONS, AudioAugment, FrameAugment, affine_matrix, operation, randaugment
from tests.reference import augment_slow
from tests.support.small_runs import PICO

OFF = dataclasses.asdict(NO_AUGMENTATION)
ALL = AugmentSettings(
    crop_scale_min=0.4, flip_prob=0.5, randaugment_ops=2, randaugment_magnitude=7.0, erase_prob=0.5,
    shift_seconds=0.05, gain_db=6.0, freq_mask=0.4, time_mask=0.4,
)  # fmt: skip


def only(**changes: Any) -> AugmentSettings:
    return AugmentSettings(**{**OFF, **changes})


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def frames(batch: int = 4, frames: int = 2, height: int = 10, width: int = 14, seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 3, height, width, generator=seeded(seed))


def windows(batch: int = 4, samples: int = 200) -> Tensor:
    return torch.randint(-32768, 32768, (batch, 2, samples), generator=seeded(1)).to(torch.int16)


class TestFrameValues:
    def test_crops_are_bilinear_cuts(self) -> None:
        video = frames()
        draw = FrameAugment(only(crop_scale_min=0.3)).draw(4, seeded())
        expected = augment_slow.crop_and_resize(video.double().numpy(), draw.crop_B4.double().numpy())
        assert np.abs(augment.crop_and_resize(video, draw.crop_B4).numpy() - expected).max() < 1e-5

    def test_a_crop_of_the_whole_frame_changes_nothing(self) -> None:
        video = frames(1)
        assert torch.allclose(augment.crop_and_resize(video, torch.tensor([[0.0, 0.0, 1.0, 1.0]])), video, atol=1e-5)

    def test_erased_boxes(self) -> None:
        video = frames()
        draw = FrameAugment(only(erase_prob=1.0)).draw(4, seeded(3))
        expected = augment_slow.erase(video.numpy(), draw.erase_B4.numpy(), draw.erase_colour_B3.numpy())
        erased = augment.erase(video, draw.erase_B4, draw.erase_colour_B3)
        assert (erased.numpy() == expected).all()
        assert (erased != video).any(-1).any(-1).any(-1).any(-1).all()

    def test_flips_are_mirrors_of_half_the_clips(self) -> None:
        video = frames(200, 1, 2, 4)
        augmented = FrameAugment(only(flip_prob=0.5))
        draw = augmented.draw(200, seeded())
        result = augmented.apply(video, draw)
        for clip in range(200):
            assert torch.equal(result[clip], video[clip].flip(-1) if draw.flip_B[clip] else video[clip])
        assert 75 < int(draw.flip_B.sum()) < 125

    def test_the_area_of_a_crop_is_the_one_set(self) -> None:
        crop_B4 = FrameAugment(only(crop_scale_min=0.25)).draw(5000, seeded()).crop_B4
        top, left, height, width = crop_B4.unbind(1)
        area = height * width
        assert 0.25 <= area.min() < 0.26
        assert 0.99 < area.max() <= 1.0 + 1e-6
        assert abs(area.mean() - 0.625) < 0.01
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + height).max() <= 1 + 1e-6
        assert (left + width).max() <= 1 + 1e-6
        assert (width / height).log().abs().max() <= math.log(4 / 3) + 1e-5

    def test_erasing_is_as_frequent_and_as_large_as_set(self) -> None:
        box_B4 = FrameAugment(only(erase_prob=0.3)).draw(5000, seeded()).erase_B4
        area = box_B4[:, 2] * box_B4[:, 3]
        assert abs((area > 0).float().mean() - 0.3) < 0.03
        assert area[area > 0].min() >= 0.02
        assert area.max() <= 1 / 3 + 1e-6


class TestRandAugment:
    STRENGTH = 0.6

    def run(self, name: str, strength: float = STRENGTH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        video = frames(1, 1, 9, 12, seed)
        number = torch.tensor([[OPERATIONS.index(name)]])
        return video[0, 0].double().numpy(), randaugment(video, number, torch.tensor([[strength]]))[0, 0].numpy()

    @pytest.mark.parametrize("strength", [0.6, -0.6])
    def test_colour_operations_are_their_formulas(self, strength: float) -> None:
        factor = 1 + 0.9 * strength
        before, after = self.run("brightness", strength)
        assert np.allclose(after, np.clip(before * factor, 0, 1), atol=1e-6)
        before, after = self.run("contrast", strength)
        mean = augment_slow.grey(before).mean()
        assert np.allclose(after, np.clip(mean + (before - mean) * factor, 0, 1), atol=1e-5)
        before, after = self.run("solarize", strength)
        assert np.allclose(after, np.where(before >= 0.4, 1 - before, before), atol=1e-6)

    def test_posterize_keeps_the_high_bits(self) -> None:
        before, after = self.run("posterize", 0.75)  # 8 - 4 x 0.75 = 5 bits
        levels = np.floor(before * 255).astype(int)
        assert np.allclose(after * 255, levels // 8 * 8, atol=1e-3)

    def test_saturation_and_hue_keep_the_value_and_move_the_rest(self) -> None:
        before, after = self.run(
            "saturation", -1.0 / 0.9
        )  # factor 0: every pixel grey, as bright as its brightest colour
        assert np.allclose(after, np.broadcast_to(before.max(0), before.shape), atol=1e-5)
        before, after = self.run("hue", 1.0)
        assert np.allclose(after.max(0), before.max(0), atol=1e-5)
        assert np.allclose(after.min(0), before.min(0), atol=1e-5)
        assert np.abs(after - before).mean() > 0.05

    def test_sharpness_moves_away_from_the_blurred_frame(self) -> None:
        before, after = self.run("sharpness")
        _, blurred = self.run("sharpness", -1.0 / 0.9)
        inner = (slice(None), slice(1, -1), slice(1, -1))
        expected = np.clip(blurred + (before - blurred) * (1 + 0.9 * self.STRENGTH), 0, 1)
        assert np.allclose(after[inner], expected[inner], atol=1e-5)
        assert np.allclose(after[:, 0], before[:, 0], atol=1e-6)

    def test_equalize_is_that_of_pillow(self) -> None:
        dark_HWC = (frames(1, 1, 32, 32)[0, 0] * 60).byte().permute(1, 2, 0).numpy()
        expected = np.asarray(ImageOps.equalize(Image.fromarray(dark_HWC)))
        bright = operation("equalize", torch.from_numpy(dark_HWC).permute(2, 0, 1)[None].float() / 255, torch.zeros(1))
        assert np.abs(bright[0].permute(1, 2, 0).numpy() * 255 - expected).max() < 1e-3
        assert expected.max() == 255

    @pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
    def test_geometric_operations_are_bilinear(self, name: str) -> None:
        before, after = self.run(name)
        matrix = affine_matrix(name, torch.tensor([self.STRENGTH], dtype=torch.float64), 9, 12)[0].numpy()
        assert np.allclose(after, augment_slow.move(before, matrix), atol=1e-4)

    def test_geometric_operations_are_as_large_as_documented(self) -> None:
        corner, middle = np.array([11.0, 0.0, 1.0]), np.array([5.5, 4.0, 1.0])
        matrices = {
            n: affine_matrix(n, torch.tensor([1.0], dtype=torch.float64), 9, 12)[0].numpy() for n in OPERATIONS[-5:]
        }
        for name in ("rotate", "shear_x", "shear_y"):
            assert np.allclose(matrices[name] @ middle, middle[:2])
        arm, turned = corner[:2] - middle[:2], matrices["rotate"] @ corner - middle[:2]
        assert np.dot(arm, turned) / np.dot(arm, arm) == pytest.approx(math.cos(math.radians(30)))
        assert (matrices["shear_x"] @ corner - corner[:2]).tolist() == pytest.approx([0.3 * -4.0, 0.0])
        assert (matrices["translate_x"] @ corner - corner[:2]).tolist() == pytest.approx([0.45 * 12, 0.0])
        assert (matrices["translate_y"] @ corner - corner[:2]).tolist() == pytest.approx([0.0, 0.45 * 9])

    def test_each_clip_gets_its_own_operations_in_their_order(self) -> None:
        video = frames(6, 2)
        operations = torch.tensor([[0, 8], [8, 0], [1, 1], [5, 12], [7, 2], [3, 4]])
        strengths = torch.tensor([[0.5, -0.5]] * 6)
        together = randaugment(video, operations, strengths)
        for clip in range(6):
            alone = video[clip]
            for number, strength in zip(operations[clip].tolist(), strengths[clip].tolist(), strict=True):
                alone = operation(OPERATIONS[number], alone, torch.full((2,), strength)).clamp(0, 1)
            assert torch.allclose(together[clip], alone, atol=1e-6)

    def test_all_operations_are_drawn_about_equally_often(self) -> None:
        draw = FrameAugment(only(randaugment_ops=2, randaugment_magnitude=8.0)).draw(3000, seeded())
        counts = torch.bincount(draw.operations_BK.flatten(), minlength=len(OPERATIONS))
        assert len(counts) == len(OPERATIONS)
        assert counts.min() > 0.8 * 6000 / len(OPERATIONS)
        assert draw.strengths_BK.unique().tolist() == pytest.approx([-0.8, 0.8])


class TestAudioValues:
    def test_shift_and_gain(self) -> None:
        augmented = AudioAugment(only(shift_seconds=0.01, gain_db=12.0), PICO)
        draw, audio = augmented.draw(4, seeded()), windows()
        expected = augment_slow.shift_and_gain(audio.numpy(), draw.shift_samples_B.numpy(), draw.gain_B.numpy())
        assert np.allclose(augmented.apply_waveform(audio, draw).numpy(), expected, atol=1e-6)
        assert (draw.shift_samples_B != 0).any()

    def test_draws_stay_within_the_settings(self) -> None:
        draw = AudioAugment(only(shift_seconds=0.01, gain_db=6.0, freq_mask=0.25, time_mask=0.5), PICO).draw(
            5000, seeded()
        )
        assert (draw.shift_samples_B.min(), draw.shift_samples_B.max()) == (-80, 80)  # 0.01 s x 8,000 Hz
        decibels = 20 * draw.gain_B.log10()
        assert -6.001 < decibels.min() < -5.9
        assert 5.9 < decibels.max() < 6.001
        for interval, longest in ((draw.rows_B2, 0.25), (draw.columns_B2, 0.5)):
            assert 0.99 * longest < interval[:, 1].max() <= longest
            assert interval[:, 0].min() >= 0
            assert interval.sum(1).max() <= 1 + 1e-6

    def test_masks_are_filled_with_the_mean_of_their_spectrogram(self) -> None:
        augmented = AudioAugment(only(freq_mask=0.5, time_mask=0.3), PICO)
        mel = torch.randn(4, 2, 1, 12, 16, generator=seeded(2)) * 20 - 40
        draw = augmented.draw(4, seeded(5))
        expected = augment_slow.mask_mel(mel.numpy(), draw.rows_B2.numpy(), draw.columns_B2.numpy())
        result = augmented.apply_mel(mel, draw)
        assert np.allclose(result.numpy(), expected, atol=1e-4)
        assert 0.05 < (result != mel).float().mean() < 0.8

    def test_audio_never_leaves_the_range_of_16_bits(self) -> None:
        augmented = AudioAugment(only(gain_db=24.0), PICO)
        loud = augmented.apply_waveform(windows(64), augmented.draw(64, seeded()))
        assert loud.min() == -1.0
        assert loud.max() == 32767 / 32768


class TestDraws:
    def test_all_frames_of_a_clip_get_the_same(self) -> None:
        video = frames(16, 1, 16, 16).expand(-1, 3, -1, -1, -1)
        augmented = FrameAugment(ALL)
        result = augmented.apply(video, augmented.draw(16, seeded()))
        assert torch.equal(result[:, 0], result[:, 1])
        assert torch.equal(result[:, 0], result[:, 2])
        assert (result[:, 0] != video[:, 0]).flatten(1).any(1).all()
        assert result.min() >= 0
        assert result.max() <= 1

    def test_everything_switched_off_is_the_identity(self) -> None:
        frame_augment, audio_augment = FrameAugment(NO_AUGMENTATION), AudioAugment(NO_AUGMENTATION, PICO)
        video, audio, mel = frames(), windows(), torch.randn(4, 2, 1, 8, 8)
        assert frame_augment.apply(video, frame_augment.draw(4, seeded())) is video
        draw = audio_augment.draw(4, seeded())
        assert audio_augment.apply_waveform(audio, draw) is audio
        assert audio_augment.apply_mel(mel, draw) is mel

    @pytest.mark.parametrize("rows", [slice(0, 8), slice(8, 16), slice(3, 4)])
    def test_a_part_of_the_draw_is_the_part_of_the_result(self, rows: slice) -> None:
        frame_augment, audio_augment = FrameAugment(ALL), AudioAugment(ALL, PICO)
        video, audio, mel = frames(16, 2, 16, 16), windows(16), torch.randn(16, 2, 1, 8, 8)
        frame_draw, audio_draw = frame_augment.draw(16, seeded(1)), audio_augment.draw(16, seeded(2))
        part = frame_augment.apply(video[rows], frame_draw.rows(rows))
        assert torch.allclose(part, frame_augment.apply(video, frame_draw)[rows], atol=1e-6)
        assert torch.equal(
            audio_augment.apply_waveform(audio[rows], audio_draw.rows(rows)),
            audio_augment.apply_waveform(audio, audio_draw)[rows],
        )
        assert torch.equal(
            audio_augment.apply_mel(mel[rows], audio_draw.rows(rows)), audio_augment.apply_mel(mel, audio_draw)[rows]
        )

    def test_the_generator_alone_decides(self) -> None:
        frame_augment = FrameAugment(ALL)
        torch.manual_seed(1)
        one = frame_augment.draw(8, seeded(7))
        torch.manual_seed(2)
        assert all(
            torch.equal(getattr(one, f.name), getattr(frame_augment.draw(8, seeded(7)), f.name))
            for f in dataclasses.fields(one)
        )
        assert not torch.equal(one.crop_B4, frame_augment.draw(8, seeded(8)).crop_B4)

    def test_a_weaker_setting_draws_as_often(self) -> None:
        strong, weak = seeded(), seeded()
        FrameAugment(only(erase_prob=1.0, crop_scale_min=0.2)).draw(4, strong)
        FrameAugment(NO_AUGMENTATION).draw(4, weak)
        assert torch.equal(strong.get_state(), weak.get_state())

    def test_frame_augmentations_cannot_reach_a_mel_spectrogram(self) -> None:
        # Published code erased mel spectrograms like photographs; here the two share neither settings nor draws.
        frame_fields = {"crop_scale_min", "flip_prob", "randaugment_ops", "randaugment_magnitude", "erase_prob"}
        strongest = {
            "crop_scale_min": 0.1,
            "flip_prob": 1.0,
            "randaugment_ops": 3,
            "randaugment_magnitude": 10.0,
            "erase_prob": 1.0,
        }
        assert set(strongest) == frame_fields
        audio_augment, mel = AudioAugment(only(**strongest), PICO), torch.randn(4, 2, 1, 8, 8)
        draw = audio_augment.draw(4, seeded())
        assert audio_augment.apply_mel(mel, draw) is mel
        source = inspect.getsource(AudioAugment)
        assert not any(name in source for name in frame_fields)

    def test_gradients_and_half_precision_pass(self) -> None:
        settings = dataclasses.replace(ALL, randaugment_ops=0)
        frame_augment = FrameAugment(settings)
        video = frames().requires_grad_()
        frame_augment.apply(video, frame_augment.draw(4, seeded())).sum().backward()
        assert video.grad is not None
        assert frame_augment.apply(frames().bfloat16(), frame_augment.draw(4, seeded())).dtype == torch.bfloat16
