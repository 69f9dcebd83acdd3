"""Embedding, indexing and search with a real network and real decoder processes, also on hostile files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cmmixer import checkpoint
from cmmixer.config import IndexSettings, ModelSettings, SearchSettings
from cmmixer.data.manifest import read_layout
from cmmixer.embedding.api import load
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SettingsError
from cmmixer.retrieval.build import index
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.search import search
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, video
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained retriever."""
    torch.manual_seed(0)
    return untrained_run(tmp_path_factory.mktemp("run"), CLIP, model=SMALL, embed_dim=12)


def test_checkpoint_is_loaded_as_an_encoder(run: Path, tmp_path: Path) -> None:
    encoder = load_encoder(run, "cpu")
    assert (encoder.dim, encoder.clip, encoder.id) == (12, CLIP, checkpoint.load_metadata(run).model_id)
    assert encoder.path == str(run / "checkpoints" / "step-00000000")
    paths = [video(tmp_path / "a.mp4", [RED, BLUE]), video(tmp_path / "b.mp4", [GREEN])]
    loaded = load(run, "cpu")
    together, alone = loaded.encode_video(paths), loaded.encode_video(paths[1:])
    assert together.shape == (2, 12)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert np.allclose(together[1], alone[0], atol=1e-5)  # independent of the other videos of the batch
    assert loaded.encode_audio(paths).shape == (2, 12)


def test_missing_model_and_device_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a run or checkpoint folder"):
        load(tmp_path / "none")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="got cuda, but torch sees no CUDA device"):
            load(run, device="cuda")


@pytest.mark.data
def test_hostile_files_are_used_or_skipped(run: Path, tmp_path: Path, real_media: Path) -> None:
    data = real_media / "hostile" / "made"
    report = index(IndexSettings(model=str(run), data=str(data), index=str(tmp_path / "library"), file_seconds=30.0))
    library = MomentIndex.open(tmp_path / "library")
    rows = {row.path: row for row in library.files()}
    listing = read_layout(data)
    assert set(rows) == {os.path.abspath(entry.path) for entry in listing.entries}
    for row in rows.values():
        assert row.moments > 0 or (row.reason and row.message), row
    assert {skip.path for skip in report.skips} >= {skip.path for skip in listing.ignored}
    by_name = {os.path.basename(path): row.reason for path, row in rows.items()}
    for name, reason in (
        ("zero.mp4", "empty"),
        ("text.mp4", "unreadable"),
        ("directory.mp4", "not-a-file"),
        ("no_audio.mp4", None),
        ("no_video.mp3", None),
        ("one_frame.mp4", None),
        ("short_80ms.mp4", None),
        ("tiny_2x2.mkv", None),
    ):
        assert by_name[name] == reason, name
    query = SearchSettings(query=str(data / "rot90.mp4"), index=str(tmp_path / "library"), target="audio", k=5)
    hits = search(query).hits
    assert len(hits) == 5
    assert not any(hit.missing for hit in hits)
    again = index(IndexSettings(model=str(run), data=str(data), index=str(tmp_path / "library"), file_seconds=30.0))
    assert (again.added, again.changed, again.unchanged) == (0, 0, len(rows))
