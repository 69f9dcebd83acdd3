"""`cmmixer inspect`: reconstructions, distances and sounds are those of the network; mel spectrograms are inverted correctly."""

from __future__ import annotations

import io
import json
import re
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from cmmixer import checkpoint
from cmmixer.analysis.inspect_run import Distances, distances_of, inspect
from cmmixer.analysis.report import wav
from cmmixer.config import InspectSettings, preset
from cmmixer.errors import DataError
from cmmixer.evaluation.reconstruct import Separator, reconstruct
from cmmixer.media.mel import MelSpectrogram, invert_mel
from cmmixer.models.mae import MaskedAutoencoder
from cmmixer.train.pretrain import pretrain
from tests.support.small_runs import NANO, PICO, random_clips, untrained_run
from tests.train.test_loop import pretrain_settings


@pytest.mark.parametrize(("mask_ratio", "norm_pix"), [(0.75, False), (0.5, False), (0.25, False), (0.75, True)])
def test_reconstruction_is_the_mean_over_passes_that_masked_a_patch(mask_ratio: float, norm_pix: bool) -> None:
    torch.manual_seed(0)
    network = MaskedAutoencoder(preset("nano").model, PICO, norm_pix=norm_pix).eval()
    video, audio, mixing_mask = torch.randn(2, 2, 3, 32, 32), torch.randn(2, 2, 3, 32, 32), torch.rand(2, 2, 1, 32, 32)
    noise = torch.rand(2, 8)
    back = reconstruct(network, video, audio, mixing_mask, mask_ratio=mask_ratio, noise_BL=noise)
    ratio = max(mask_ratio, 0.5)
    keep = round(8 * (1 - ratio))
    for clip in range(2):
        order = noise[clip].argsort().tolist()
        sums = {"video": torch.zeros(8, 768), "audio": torch.zeros(8, 768)}
        times = torch.zeros(8)
        for first in range(0, 8, keep):
            seen = order[first : first + keep]
            mine = torch.ones(1, 8)
            mine[0, seen] = 0.0
            one = slice(clip, clip + 1)
            output = network(video[one], audio[one], mixing_mask[one], mask_ratio=ratio, noise_BL=mine)
            assert output.mask[0].tolist() == mine[0].tolist()
            for modality, message in (("video", output.prediction_video), ("audio", output.prediction_audio)):
                for place in range(8):
                    if place not in seen:
                        sums[modality][place] += message[0, place].detach()
            times += mine[0]
        for modality, got, clean in (("video", back.video, video), ("audio", back.audio, audio)):
            expected = sums[modality] / times.unsqueeze(1)
            if norm_pix:
                own = network.patchify(clean[clip : clip + 1])[0]
                expected = expected * (own.var(1, correction=0, keepdim=True) + 1e-6).sqrt() + own.mean(1, keepdim=True)
            torch.testing.assert_close(network.patchify(got[clip : clip + 1])[0], expected, rtol=0, atol=1e-4)


def test_inverted_mel_spectrogram_keeps_the_tone() -> None:
    time = np.arange(NANO.window_samples) / NANO.sample_rate_hz
    tones = np.stack([0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (440.0, 1500.0)])
    mel = MelSpectrogram(NANO)
    decibels = mel(torch.from_numpy(tones.astype(np.float32))[None])[0, :, 0]
    sounds = invert_mel(decibels.numpy(), NANO)
    assert sounds.shape == (2, NANO.window_samples)
    for sound, hertz in zip(sounds, (440.0, 1500.0), strict=True):
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
        assert abs(int(spectrum.argmax()) - hertz) < 0.04 * hertz  # a band's width
    again = mel(torch.from_numpy(sounds)[None])[0, :, 0]
    loud = decibels > decibels.max() - 30
    assert float((again - decibels)[loud].abs().mean()) < 3.0
    assert np.array_equal(invert_mel(decibels.numpy(), NANO), sounds)
    with pytest.raises(ValueError, match=r"mel spectrograms must be \(M, 64, 64\)"):
        invert_mel(np.zeros((1, 32, 64)), NANO)


def _samples(file: Path) -> np.ndarray:
    with wave.open(str(file)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2")


def test_autoencoder_page_has_sheets_sounds_and_distances(tmp_path: Path) -> None:
    clips = random_clips(6)
    pretrain(pretrain_settings(tmp_path / "pre", epochs=1), dataset=clips)
    settings = InspectSettings(model=str(tmp_path / "pre"), data="arrays", out=str(tmp_path / "out"), sheets=2)
    report = inspect(settings, dataset=clips)
    figures = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert figures == report.figures
    assert figures["clips"] == 6
    separator = Separator(tmp_path / "pre")
    masks, noises = separator.draws(6, seed=0)
    distances = [
        distances_of(separator, clip, mixing_mask, noise)  # type: ignore[arg-type]
        for clip, mixing_mask, noise in zip(clips.read(range(6)), masks.split(1), noises.split(1), strict=True)
    ]
    assert figures["separated_db"] == pytest.approx(np.mean([each.separated for each in distances]))
    # After one epoch nothing is close, and nothing is identical.
    assert 1.0 < figures["separated_db"] < 100.0
    assert figures["mixed_db"] != figures["separated_db"]
    for number in range(2):
        assert (tmp_path / "out" / f"sheet-{number}.png").read_bytes().startswith(b"\x89PNG")
        sounds = [_samples(tmp_path / "out" / f"sheet-{number}-sound-{place}.wav") for place in range(4)]
        assert {len(sound) for sound in sounds} == {PICO.frames * PICO.window_samples}
    first = clips.read([1])[0]
    assert np.array_equal(_samples(tmp_path / "out" / "sheet-0-sound-0.wav"), first.sound.samples_TN.reshape(-1))  # type: ignore[union-attr]
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert page.count("<audio") == 8
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_retriever_page_has_neighbours_and_a_map(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "fine", PICO)
    settings = InspectSettings(model=str(run), data="arrays", out=str(tmp_path / "out"), sheets=3)
    report = inspect(settings, dataset=random_clips(12))
    assert (report.figures["kind"], report.figures["clips"]) == ("retriever", 12)
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert [title in page for title in ("Videos and their nearest sounds", "A map of both modalities")] == [
        True,
        True,
    ]
    assert len(list((tmp_path / "out").glob("sheet-*.png"))) == 3
    with pytest.raises(DataError, match="arrays: got one clip, expected two or more to compare"):
        inspect(settings, dataset=random_clips(1))


def test_distances_are_mean_absolute_differences(tmp_path: Path) -> None:
    """The distance of the mix equals that of normalized inputs times their standard deviation."""
    clips = random_clips(4)
    pretrain(pretrain_settings(tmp_path / "pre", epochs=1), dataset=clips)
    separator = Separator(tmp_path / "pre")
    metadata = checkpoint.load_metadata(tmp_path / "pre")
    audio = separator.frontend.audio(torch.from_numpy(clips.audio_NTS[:1]))
    masks, noises = separator.draws(1, seed=0)
    video = separator.frontend.video(torch.from_numpy(clips.video_NTCHW[:1]))
    mixed = (torch.lerp(video, audio, masks) - audio).mean(2).abs().mean() * metadata.statistics.mel_std
    distance = distances_of(separator, clips.read([0])[0], masks, noises)  # type: ignore[arg-type]
    assert distance.mixed == pytest.approx(float(mixed), rel=1e-4)
    clean, mixing_mask = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 1.0], [0.4, 0.6]]])
    mix, back = torch.tensor([[[8.0, 0.0], [-4.0, 2.0]]]), torch.tensor([[[1.0, -1.0], [2.0, 3.0]]])
    assert Distances.of([clean, mix, back], mixing_mask) == Distances(3.5, 1.75, 6.0, 1.5)


def test_wav_encodes_floats_and_integers() -> None:
    for samples, expected in (
        (np.array([0.0, 0.5, -2.0], np.float32), [0, 16383, -32767]),
        (np.array([1, -7, 300], np.int16), [1, -7, 300]),
    ):
        with wave.open(io.BytesIO(wav(samples, 8000))) as sound:
            assert sound.getframerate() == 8000
            assert np.frombuffer(sound.readframes(3), "<i2").tolist() == expected
