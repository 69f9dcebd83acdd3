"""MTEB's own evaluation of two small tasks of ours: the figures that a model which knows the rule must get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

mteb = pytest.importorskip("mteb", reason="mteb (extra mteb, 400 MB) is not installed")

import datasets  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from cmmixer.embedding.api import Model  # noqa: E402
from cmmixer.embedding.mteb import MTEBModel  # noqa: E402
from cmmixer.errors import MediaError, SettingsError  # noqa: E402
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
COLOURS = [RED, GREEN, BLUE, (1.0, 1.0, 0.0), (0.0, 1.0, 1.0)]


def _rows(column: str, files: list[Path], embedded: bool) -> datasets.Dataset:
    """As a data set comes from disk: MTEB's own writer of sounds needs torchcodec."""
    media = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    values = [
        {"path": None, "bytes": file.read_bytes()} if embedded else {"path": str(file), "bytes": None} for file in files
    ]
    features = datasets.Features({"id": datasets.Value("string"), column: media})
    rows = datasets.Dataset.from_dict({"id": [file.stem for file in files], column: values}, features=features)
    return rows.cast_column(column, datasets.Video() if column == "video" else datasets.Audio())


def _task(category: str, queries: datasets.Dataset, corpus: datasets.Dataset, truth: dict[str, str]) -> Any:
    modalities = ["video", "audio"] if category == "v2a" else ["audio", "video"]

    class Colours(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name=f"Colours{category.upper()}", description="Colours and their tones.", reference=None,
            dataset={"path": "none", "revision": "none"}, type="Any2AnyRetrieval", category=category, modalities=modalities,
            eval_splits=["test"], eval_langs=["zxx-Zxxx"], main_score="ndcg_at_10", date=("2026-01-01", "2026-01-02"),
            domains=["Scene"], task_subtypes=[], license="apache-2.0", annotations_creators="derived", dialect=[],
            sample_creation="created", bibtex_citation="",
        )  # fmt: skip

        def load_data(self, **_: Any) -> None:
            relevant = {query: {document: 1} for query, document in truth.items()}
            split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Colours()


@pytest.fixture
def media(tmp_path: Path) -> dict[str, list[Path]]:
    videos = [video(tmp_path / f"video{number}.mp4", [colour] * 2, sound=None) for number, colour in enumerate(COLOURS)]
    sounds = [sound(tmp_path / f"sound{number}.wav", [colour] * 2) for number, colour in enumerate(COLOURS)]
    return {"video": videos, "audio": sounds}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> MTEBModel:
    monkeypatch.setattr("cmmixer.embedding.mteb.load", lambda name, device: Model(ColourEncoder()))
    monkeypatch.setattr("cmmixer.embedding.mteb._ROWS_AT_ONCE", 2)
    return MTEBModel("colours:x")


@pytest.mark.parametrize(("category", "embedded"), [("v2a", False), ("a2v", True)])
def test_mtebs_own_figures(
    media: dict[str, list[Path]], model: MTEBModel, tmp_path: Path, category: str, embedded: bool
) -> None:
    asked, found = ("video", "audio") if category == "v2a" else ("audio", "video")
    queries, corpus = _rows(asked, media[asked], embedded), _rows(found, media[found], embedded)
    truth = {query.stem: document.stem for query, document in zip(media[asked], media[found], strict=True)}
    # One answer is wrong, so a model that knows the rule gets four of five.
    first, second, *_ = truth
    truth[first] = truth[second]
    cache = mteb.ResultCache(cache_path=tmp_path / "cache")
    result = mteb.evaluate(
        model, _task(category, queries, corpus, truth), cache=cache, co2_tracker=False, show_progress_bar=False
    )
    scores = result.task_results[0].scores["test"][0]
    assert scores["recall_at_1"] == pytest.approx(0.8)
    assert result.model_name == f"cmmixer/{model.model.id[:16]}"


class _Loader:
    def __init__(self, dataset: datasets.Dataset) -> None:
        self.dataset = dataset


def _metadata() -> Any:
    class Metadata:
        name = "Some task"

    return Metadata


def test_both_modalities_are_one_vector(media: dict[str, list[Path]], model: MTEBModel) -> None:
    columns = [_rows("video", media["video"], True), _rows("audio", media["audio"][::-1], True).remove_columns("id")]
    vectors = model.encode(_Loader(datasets.concatenate_datasets(columns, axis=1)), task_metadata=_metadata())
    total = model.model.encode_video(media["video"]) + model.model.encode_audio(media["audio"][::-1])
    assert np.allclose(vectors, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-5)


def test_text_and_broken_rows_are_refused(media: dict[str, list[Path]], model: MTEBModel, tmp_path: Path) -> None:
    text = datasets.Dataset.from_dict({"id": ["a"], "text": ["a bell"]})
    with pytest.raises(SettingsError, match="Some task: got rows of text; cmmixer embeds video and audio"):
        model.encode(_Loader(text), task_metadata=_metadata())
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    with pytest.raises(MediaError, match=r"broken.mp4: cannot be decoded"):
        model.encode(_Loader(_rows("video", [broken], False)), task_metadata=_metadata())
