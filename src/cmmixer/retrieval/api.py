"""A search index in Python: add folders of media files, search with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmmixer.config import IndexSettings, SearchSettings
from cmmixer.config.fields import from_keywords
from cmmixer.embedding.api import Model, load
from cmmixer.retrieval.build import IndexReport
from cmmixer.retrieval.build import index as build_index
from cmmixer.retrieval.hits import Hit, Match
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import METADATA, IndexMetadata
from cmmixer.retrieval.search import SearchResult, load_encoder_of, search


class Hits(list[Hit]):
    """The hits of a search, best first: a list that remembers how it was searched.

    Attributes:
        result: the whole result, as `cmmixer.search` returns it.
    """

    def __init__(self, result: SearchResult) -> None:
        super().__init__(result.hits)
        self.result = result

    @property
    def timeline(self) -> list[Match] | None:
        """The best match of each section of the query, in its order; None if not asked for."""
        return self.result.timeline


class Index:
    """A search index of the moments of media files, in a folder.

    An index remembers which model made it. The model is loaded for the first search and kept for the following ones.

    Args:
        folder: of the index; `add` creates it.
        model: a loaded model to search with; None: the one that made the index, loaded from where it was.
        device: auto, cpu or cuda, for a model that the index loads.
    """

    def __init__(self, folder: str | Path, model: Model | None = None, *, device: str = "auto") -> None:
        self.folder = Path(folder)
        self.device = device
        self._model = model

    def __len__(self) -> int:
        """Number of moments.

        Raises:
            SearchIndexError: there is no index, or it is damaged.
        """
        return MomentIndex.open(self.folder).count()

    def __repr__(self) -> str:
        if not (self.folder / METADATA).is_file():
            return f"Index({str(self.folder)!r}, not built yet)"
        library = MomentIndex.open(self.folder)
        return f"Index({str(self.folder)!r}, {library.count()} moments, model={library.metadata.model_id[:16]})"

    def __bool__(self) -> bool:
        return True  # an empty index is an index

    @property
    def metadata(self) -> IndexMetadata:
        """Which model made the index and how.

        Raises:
            SearchIndexError: there is no index, or it is damaged.
        """
        return MomentIndex.open(self.folder).metadata

    @property
    def model(self) -> Model:
        """The model that embeds queries; loaded when it is first needed.

        Raises:
            SearchIndexError: it cannot be loaded from where it was when the index was made.
        """
        if self._model is None:
            self._model = Model(load_encoder_of(MomentIndex.open(self.folder), device=self.device))
        return self._model

    def add(self, model: Model | str | Path, data: str | Path, **options: Any) -> IndexReport:
        """Adds media files, or updates those that have changed; unchanged files are not opened.

        Args:
            model: embeds the files, and queries from now on; or its path.
            data: a folder of videos and audio files, a list or a manifest.
            options: other fields of `cmmixer.IndexSettings`, such as `sync=True` or `workers=4`.

        Returns:
            What was added, changed and skipped.

        Raises:
            InputError: unreadable data or model, an index of another model, or a full disk.
            SettingsError: an unknown option.
        """
        if not isinstance(model, Model):
            model = load(model, self.device)
        fields = {**options, "index": self.folder, "model": model.path, "data": data}
        report = build_index(from_keywords("add", IndexSettings, fields), encoder=model.encoder)
        self._model = model
        return report

    def search(
        self,
        query: str | Path,
        target: str | None = None,
        by: str | None = None,
        k: int = 10,
        *,
        rerank: str | None = None,
        timeline: bool = False,
        exact: bool = False,
        **options: Any,
    ) -> Hits:
        """Finds the moments that match a file.

        Args:
            query: a video, a silent video or an audio file.
            target: what to find: `audio`, `video`, or `any` (both fused). None: the modality that the query lacks, or
                audio for a video with both.
            by: modality of the query to search by: `audio`, `video` or `any`. None: the one that is not the target, or both
                for `any`.
            k: number of hits.
            rerank: `sequence` reranks the best moments by the order of events, `none` does not. None: if one modality
                searches for the other.
            timeline: also find the best match for each part of the query; see `Hits.timeline`.
            exact: search exactly, even if the index is optimized.
            options: other fields of `cmmixer.SearchSettings`, such as `rerank_top`, `file_seconds`, `edl` or `csv`.

        Returns:
            The hits, best first; each has `path`, `start_seconds`, `end_seconds` and `score`.

        Raises:
            SearchIndexError: there is no index, or it is damaged or of another model.
            MediaError: the query cannot be used, or lacks the modality to search by.
            SettingsError: an unknown option, or a bad value.
        """
        named = {"target": target, "by": by, "k": k, "rerank": rerank, "timeline": timeline, "exact": exact}
        fields = {**options, **named, "query": query, "index": self.folder}
        settings = from_keywords("search", SearchSettings, fields)
        return Hits(search(settings, encoder=self.model.encoder))
