"""Features for linear probes: those of towers and plain statistics match their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmmixer import checkpoint
from cmmixer.analysis.features import PlainStatistics, TowerFeatures, file_features
from cmmixer.analysis.labels import read_labelled
from cmmixer.analysis.probe import probe
from cmmixer.config import ProbeSettings
from cmmixer.data.skips import SkipReport
from cmmixer.media.decode import read_clip
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.patches import frame_parts, patchify, strip_grid
from cmmixer.progress import NoProgress
from cmmixer.train.pretrain import pretrain
from cmmixer.types import Span
from tests.support.coloured_videos import video
from tests.support.labelled_media import (
    COLORS,
    SMALL,
)
from tests.support.small_runs import PICO, random_clips, untrained_run
from tests.train.test_loop import pretrain_settings


def test_tower_features_are_the_mean_token_of_the_encoder(tmp_path: Path) -> None:
    pretrain(pretrain_settings(tmp_path / "pre", epochs=1), dataset=random_clips(8))
    towers = TowerFeatures.of_run(str(tmp_path / "pre"), torch.device("cpu"))
    metadata = checkpoint.load_metadata(tmp_path / "pre")
    network = checkpoint.build(metadata)
    network.load_state_dict(checkpoint.load_weights(tmp_path / "pre"))
    clips = random_clips(3)
    pixels, windows = torch.from_numpy(clips.video_NTCHW), torch.from_numpy(clips.audio_NTS)
    frontend, grid = FrontEnd(PICO, metadata.statistics), strip_grid(PICO.height, PICO.width, PICO.frames, 16)
    assert frame_parts(PICO.frames, grid, 16, device=pixels.device).shape == (2, 8)
    for got, images in (
        (towers.describe_video(pixels), frontend.video(pixels)),
        (towers.describe_audio(windows), frontend.audio(windows)),
    ):
        tokens = network.encoder.encode(patchify(images, 16), grid).tokens_BND[:, 1:]
        torch.testing.assert_close(got, tokens.mean(1), rtol=0, atol=1e-5)
    untrained = TowerFeatures.untrained(str(tmp_path / "pre"), 0, torch.device("cpu"))
    assert not torch.allclose(untrained.describe_video(pixels), towers.describe_video(pixels))


def test_plain_statistics_are_means_and_stds_over_time() -> None:
    clips = random_clips(2)
    windows, pixels = torch.from_numpy(clips.audio_NTS), torch.from_numpy(clips.video_NTCHW)
    plain = PlainStatistics(PICO)
    bands = plain.mel(windows)[1, :, 0].permute(1, 0, 2).reshape(PICO.height, -1)
    expected = torch.cat([bands.mean(1), bands.std(1, correction=0)])
    torch.testing.assert_close(plain.describe_audio(windows)[1], expected)
    field = pixels[1, :, 2, 8:16, 24:32].float().mean((1, 2)) / 255  # blue, second row, last column of 4 x 4
    place = 2 * 16 + 1 * 4 + 3
    found = plain.describe_video(pixels)[1]
    assert found[place].item() == pytest.approx(field.mean().item(), abs=1e-6)
    assert found[48 + place].item() == pytest.approx(field.std(correction=0).item(), abs=1e-6)


def test_kinetics_list_is_probed_with_ten_clips_per_video(tmp_path: Path) -> None:
    """The features are the mean over ten clips, evenly over the video."""
    generator, lines = np.random.default_rng(0), []
    for name, colour in COLORS.items():
        for number in range(4):
            shades = [tuple(float(generator.uniform(0.3, 1.0)) * part for part in colour) for _ in range(3)]
            video(tmp_path / "videos" / f"{name}-{number}.mp4", shades)
            lines.append(f"videos/{name}-{number}.mp4 {name}")
    (tmp_path / "train.list").write_text("\n".join(lines) + "\n")
    untrained_run(tmp_path / "run", SMALL)
    settings = ProbeSettings(
        model=str(tmp_path / "run"), data=str(tmp_path / "train.list"), task="video", folds=2, workers=1,
        out=str(tmp_path / "out"), bootstrap=10,
    )  # fmt: skip
    result = probe(settings).result
    assert (result["files"], result["clips"], result["short"]) == (12, 10, 0)
    assert result["statistics"]["accuracy"] == 1.0
    entries = read_labelled(settings.data, label="label", fold="fold", source="source", folds=2, seed=0).entries
    plain = PlainStatistics(SMALL)
    found = file_features(
        entries[:1], {"plain": plain}, SMALL, "video", clips=10, workers=1, file_seconds=30.0, skips=SkipReport(),
        progress=NoProgress(),
    )  # fmt: skip
    described = []
    for number in range(10):
        start = number * 2.0 / 9
        clip = read_clip(entries[0].path, Span(start, start + 1.0), SMALL, id="x", source="x", file_seconds=30.0)
        assert clip.frames is not None
        described.append(plain.describe_video(torch.from_numpy(clip.frames.pixels_THWC.transpose(0, 3, 1, 2)[None])))
    np.testing.assert_allclose(found.columns["plain"][0], torch.cat(described).double().mean(0).numpy(), atol=1e-6)
