"""Hostile files as queries: each gives hits or a one-line error, and the search keeps working."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cmmixer.config import IndexSettings, SearchSettings
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import InputError, MediaError
from cmmixer.retrieval.build import index
from cmmixer.retrieval.search import search
from tests.support.small_runs import NANO, untrained_run


@pytest.mark.data
def test_hostile_queries_give_hits_or_a_one_line_error(real_media: Path, videos: Path, tmp_path: Path) -> None:
    untrained_run(tmp_path / "run", NANO)
    encoder = load_encoder(str(tmp_path / "run"), "cpu")
    index(IndexSettings(model=str(tmp_path / "run"), data=str(videos), index=str(tmp_path / "index"), device="cpu"))
    queries = sorted((real_media / "hostile").glob("*/*"))
    seen: Counter[str] = Counter()
    lines: dict[str, int] = {}
    for query in queries:
        settings = SearchSettings(query=str(query), index=str(tmp_path / "index"), k=2, file_seconds=20.0, device="cpu")
        try:
            found = search(settings, encoder=encoder)
        except InputError as error:
            lines[str(query)] = str(error).count("\n") + 1
            seen[error.reason if isinstance(error, MediaError) else type(error).__name__] += 1
        else:
            assert len(found.hits) == 2
            seen["answered"] += 1
    assert seen.total() == len(queries)
    assert [query for query, count in lines.items() if count > 1] == []
    assert len(queries) == 336
    assert seen["answered"] >= 200
    assert {"empty", "unreadable", "not-a-file"} <= set(seen)
