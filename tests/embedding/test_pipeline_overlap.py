"""Decoding, the model and the consumer run at the same time, and the results are those of running one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lance
import numpy as np
import pytest
import torch

from cmmixer.config import EmbedSettings, IndexSettings, ModelSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.data.chunks import Chunk, DecodedChunk
from cmmixer.data.manifest import Entry
from cmmixer.embedding import pipeline as pipeline_module
from cmmixer.embedding.embed import embed
from cmmixer.embedding.pipeline import EmbeddedFile, embed_moments, file_entry
from cmmixer.embedding.read import read_vectors
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import MediaError
from cmmixer.models.retriever import Embedding
from cmmixer.retrieval.build import index
from tests.reference.embedding_slow import embedded_one_by_one
from tests.support.coloured_videos import BLUE, CLIP, GREEN, RED, ColourEncoder, sound, video
from tests.support.slow_decoding import BEGUN, SECONDS, slow_decode_chunk
from tests.support.small_runs import untrained_run

SMALL = ModelSettings(dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, patch=8)
WORKERS = 2


def _library(folder: Path, count: int = 9) -> list[Entry]:
    """Returns videos of one to three seconds, silent ones, audio files, and some broken ones in the middle."""
    paths = []
    for number in range(count):
        colours = [(RED, GREEN, BLUE)[(number + place) % 3] for place in range(1 + number % 3)]
        if number % 4 == 3:
            paths.append(sound(folder / f"{number}.wav", colours))
        else:
            paths.append(video(folder / f"{number}.mp4", colours, sound=None if number % 4 == 1 else ()))
    broken = folder / "broken.mp4"
    broken.write_text("not a video at all " * 50)
    mute = sound(folder / "mute.wav", [(0.0, 0.0, 0.0)])
    return [file_entry(path) for path in [*paths[:4], broken, folder / "gone.mp4", mute, *paths[4:]]]


class _Waiting(ColourEncoder):
    """Waits in its first batch of frames for something that happens meanwhile."""

    def __init__(self, happens: threading.Event) -> None:
        super().__init__()
        self.happens, self.happened = happens, False

    def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
        if not self.batches:
            self.happened = self.happens.wait(30.0)
        return super().embed_video(pixels_BTCHW)


def test_next_video_is_requested_while_the_model_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [file_entry(video(tmp_path / f"{number}.mp4", [RED])) for number in range(3)]
    asked = threading.Event()

    def decoded(*arguments: object, **options: object) -> Iterator[tuple[Chunk, DecodedChunk | MediaError]]:
        yield from (answers := list(chunks_module.decode_chunks(*arguments, **options)))[:1]  # type: ignore[arg-type]
        asked.set()  # the second video is requested while the first is in the model
        yield from answers[1:]

    monkeypatch.setattr(pipeline_module, "decode_chunks", decoded)
    encoder = _Waiting(asked)
    assert len(list(embed_moments(entries, encoder, workers=1, batch_size=1))) == 3
    assert encoder.happened


def _begun(folder: Path) -> int:
    return len(list(folder.glob(f"{BEGUN}*")))


def test_decoders_run_ahead_of_the_model_by_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "decode_chunk", slow_decode_chunk)
    entries = [file_entry(video(tmp_path / "data" / f"{number:02}.mp4", [RED])) for number in range(24)]
    begun: list[int] = []

    class Slow(ColourEncoder):
        def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
            if not self.batches:
                deadline = time.monotonic() + 30.0
                while (not begun or begun[-1] < 3 * WORKERS) and time.monotonic() < deadline:
                    begun.append(_begun(tmp_path))
                    time.sleep(0.05)
                time.sleep(1.0)  # time enough to start many more
                begun.append(_begun(tmp_path))
            return super().embed_video(pixels_BTCHW)

    assert len(list(embed_moments(entries, Slow(), workers=WORKERS, batch_size=1))) == 24
    # Four chunks for each decoder wait, one is in the model, one is filled, one is next.
    assert 3 * WORKERS <= begun[-1] <= 4 * WORKERS + 3


def test_moments_waiting_for_the_model_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [file_entry(video(tmp_path / f"{number}.mp4", [RED, GREEN])) for number in range(8)]
    counts = {"taken": 0, "embedded": 0, "waiting": 0}

    def decoded(*arguments: object, **options: object) -> Iterator[tuple[Chunk, DecodedChunk | MediaError]]:
        for chunk, result in chunks_module.decode_chunks(*arguments, **options):  # type: ignore[arg-type]
            assert isinstance(result, DecodedChunk)
            counts["taken"] += len(result.spans)
            yield chunk, result
            counts["waiting"] = max(counts["waiting"], counts["taken"] - counts["embedded"])

    class Counting(ColourEncoder):
        def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
            time.sleep(0.05)
            counts["embedded"] += len(pixels_BTCHW)
            return super().embed_video(pixels_BTCHW)

    monkeypatch.setattr(pipeline_module, "decode_chunks", decoded)
    taken = list(embed_moments(entries, Counting(), workers=1, batch_size=4))
    assert sum(len(file.moments) for file in taken) == counts["embedded"] == 24
    assert 4 < counts["waiting"] <= 2 * 4


def _values(videos: list[EmbeddedFile]) -> list[tuple[int, str, list[dict[str, object]]]]:
    return [
        (file.number, file.errors[0].reason if file.errors else "", [vars(moment) for moment in file.moments])
        for file in videos
    ]


def test_order_and_values_do_not_depend_on_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = _library(tmp_path / "data")
    quick = list(embed_moments(entries, ColourEncoder(), workers=WORKERS, batch_size=4))

    class Slow(ColourEncoder):
        def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
            time.sleep(0.2 if len(self.batches) % 2 else 0.0)
            return super().embed_video(pixels_BTCHW)

    monkeypatch.setattr(chunks_module, "decode_chunk", slow_decode_chunk)
    for number in (0, 7, 8):  # the first video is decoded last
        Path(f"{entries[number].path}.{SECONDS}").write_text(str(0.5 + number / 20))
    for encoder in (ColourEncoder(), Slow()):
        again = list(embed_moments(entries, encoder, workers=WORKERS, batch_size=4))
        assert str(_values(again)) == str(_values(quick))
        for (_, _, first), (_, _, second) in zip(_values(quick), _values(again), strict=True):
            for left, right in zip(first, second, strict=True):
                assert all(np.array_equal(left[name], right[name]) for name in left if left[name] is not None)


def test_values_equal_the_slow_twin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = load_encoder(untrained_run(tmp_path / "run", CLIP, model=SMALL, embed_dim=12), "cpu")
    entries = _library(tmp_path / "data")
    expected = embedded_one_by_one(entries, encoder)
    got = sorted(embed_moments(entries, encoder, workers=WORKERS, batch_size=5), key=lambda file: file.number)
    assert len(got) == len(expected) == 12
    assert [file.errors[0].reason for file in got if not file.moments] == ["unreadable", "missing", "silent"]
    for video_moments, file in zip(expected, got, strict=True):
        if isinstance(video_moments, str):
            assert (file.moments, file.errors[0].reason) == ([], video_moments)
            continue
        assert len(file.moments) == len(video_moments)
        for slow, moment in zip(video_moments, file.moments, strict=True):
            assert (moment.span.start_seconds, moment.span.end_seconds) == (slow["start"], slow["end"])
            for name in ("video", "audio", "video_frames", "audio_frames"):
                if name in slow:
                    np.testing.assert_allclose(getattr(moment, name), slow[name], atol=1e-6)
                else:
                    assert getattr(moment, name) is None


def test_embed_and_index_give_equal_vectors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = untrained_run(tmp_path / "run", CLIP, model=SMALL, embed_dim=12)
    _library(tmp_path / "data")
    out = tmp_path / "vectors.parquet"
    report = embed(EmbedSettings(model=str(run), data=str(tmp_path / "data"), out=str(out), workers=1))
    assert report.skips.counts == {"unreadable": 1, "silent": 1}
    index(IndexSettings(model=str(run), data=str(tmp_path / "data"), index=str(tmp_path / "library"), workers=1))
    rows = lance.dataset(tmp_path / "library" / "moments.lance").to_table().to_pylist()
    indexed = {(row["path"], row["start_seconds"]): row for row in rows}
    embedded = read_vectors(out).to_pylist()
    assert len(embedded) == len(indexed) == report.moments > 9
    for row in embedded:
        other = indexed[row["path"], row["start_seconds"]]
        assert (row["video"], row["audio"]) == (other["video"], other["audio"])


def test_failing_model_ends_the_run_and_its_thread(tmp_path: Path) -> None:
    entries = _library(tmp_path / "data", count=4)

    class Failing(ColourEncoder):
        def embed_audio(self, windows_BTN: torch.Tensor) -> Embedding:
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        list(embed_moments(entries, Failing(), workers=1, batch_size=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cmmixer-model")]
