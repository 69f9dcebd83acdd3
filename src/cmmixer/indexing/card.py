"""What an index says about itself: `index.json`, which a person can read and every vector is checked against."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmmixer.config import ClipSettings
from cmmixer.config.check import from_dict
from cmmixer.embedding import Encoder
from cmmixer.errors import SearchIndexError, SettingsError
from cmmixer.indexing.plan import SearchPlan
from cmmixer.indexing.rows import moments_schema

FORMAT = 2
NAME = "index.json"


@dataclass(frozen=True, kw_only=True)
class IndexCard:
    """An index's parents; vectors of other ones are refused.

    Attributes:
        model_id: sha256 of the model's weights.
        model: the checkpoint's folder, where it was when the index was made.
        embed_dim: length of a vector.
        clip: geometry of a moment.
        stride_seconds: a moment starts every so many seconds.
        version: of the package that made it.
        format: of this folder.
        plans: how each sense is searched, where `--optimize` has chosen; a sense without one is searched exactly.
    """

    model_id: str
    model: str
    embed_dim: int
    clip: ClipSettings
    stride_seconds: float
    version: str = ""
    format: int = FORMAT
    plans: dict[str, SearchPlan] = field(default_factory=dict)

    def text(self) -> str:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def moments_schema(self) -> pa.Schema:
        """Columns of its table of moments."""
        return moments_schema(self.embed_dim, self.clip.frames)

    def check_encoder(self, encoder: Encoder, where: Path) -> None:
        """Refuses another model.

        Raises:
            SearchIndexError: names both ids.
        """
        got = (encoder.id, encoder.dim, encoder.clip)
        if got[0] != self.model_id:
            raise SearchIndexError(
                f"{where}: its vectors are of model {self.model_id[:16]} ({self.model}), got model {encoder.id[:16]} "
                f"({encoder.path}); give that model, or make an index in a new folder"
            )
        if got[1:] != (self.embed_dim, self.clip):
            raise SearchIndexError(
                f"{where}: made with {self.embed_dim} values a vector and {self.clip}, got {encoder.dim} and "
                f"{encoder.clip}; index.json was altered; make an index in a new folder"
            )


def read_card(folder: Path) -> IndexCard:
    """The card of an index.

    Raises:
        SearchIndexError: there is no index, its card is damaged, or of a newer format.
    """
    file = folder / NAME
    if not folder.exists():
        raise SearchIndexError(
            f"{folder}: no such index; make one with `cmmixer index --model RUN --data DIR --index {folder}`"
        )
    if not file.is_file():
        what = (
            "is damaged: index.json is gone"
            if (folder / "moments.lance").exists()
            else "is not an index: no index.json"
        )
        raise SearchIndexError(f"{folder}: {what}; make an index in a new folder")
    try:
        values: dict[str, Any] = json.loads(file.read_text())
        if values["format"] != FORMAT:
            raise SearchIndexError(
                f"{file}: got format {values['format']}, expected {FORMAT}; use the version that wrote it, or make an index in a "
                "new folder"
            )
        values["clip"] = from_dict(ClipSettings, values["clip"], f"{file}: clip")
        plans = values.get("plans", {}).items()
        values["plans"] = {sense: from_dict(SearchPlan, plan, f"{file}: plan of {sense}") for sense, plan in plans}
        return from_dict(IndexCard, values, str(file))
    except SearchIndexError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingsError) as fault:
        raise SearchIndexError(f"{file}: is damaged ({fault}); make an index in a new folder") from fault
