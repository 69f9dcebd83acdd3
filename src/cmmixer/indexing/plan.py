"""How the moments of one sense are found: by looking at all, or through an approximate index whose recall was measured.

A plan stands in the index's card and names its LanceDB index. Searches use that index only while a plan names it; what a
killed process leaves behind is passed over, and the search looks at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EXACT = "exact"
# Recall is measured among so many nearest moments.
K = 10


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How one sense is searched, and what was measured when that was chosen.

    Attributes:
        kind: `exact`, or what the index is made of, as `--index_kind`.
        why: for `exact`, why; otherwise how many queries of what sort it was tuned with.
        rows: moments with this sense at that time.
        name: of the LanceDB index.
        partitions: cells that the vectors are divided into.
        probes: how many of them, the nearest to a query, are read.
        candidates: how many of the best there are scored anew with their full vectors; 0: all are, in the first place.
        ef: how many candidates a graph keeps while it is walked; 0: there is no graph.
        recall: part of the exact 10 nearest that were found.
        target: what the recall had to reach.
        p50_ms: median time of one search through the index.
        exact_p50_ms: of one that looks at all, in the same minute.
        build_seconds: what building took.
        bytes_per_row: of the index on disk, beside the vectors themselves.
    """

    kind: str
    why: str
    rows: int
    name: str = ""
    partitions: int = 0
    probes: int = 0
    candidates: int = 0
    ef: int = 0
    recall: float = 1.0
    target: float = 1.0
    p50_ms: float = 0.0
    exact_p50_ms: float = 0.0
    build_seconds: float = 0.0
    bytes_per_row: float = 0.0

    def refine_factor(self, limit: int) -> int | None:
        """How many times `limit` candidates are scored anew, so that at least `candidates` are; None: none have to be."""
        return max(1, math.ceil(self.candidates / limit)) if self.candidates else None

    @property
    def told(self) -> str:
        """One line for people."""
        if self.kind == EXACT:
            return f"every moment is looked at: {self.why}"
        return (
            f"{self.kind}, {self.probes} of {self.partitions} cells read; measured with {self.why}: recall@{K} {self.recall:.3f} "
            f"(asked for {self.target:g}), {self.p50_ms:.1f} ms a search against {self.exact_p50_ms:.1f} ms; "
            f"built in {self.build_seconds:.0f} s, {self.bytes_per_row:.0f} bytes a moment"
        )
