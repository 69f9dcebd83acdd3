"""How an index finds: exactly, or through an approximate index whose recall is measured."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of, within

# From the fewest bytes read per moment to the most: one bit a value, a byte, the values themselves. HNSW takes long to build.
INDEX_KINDS = ("auto", "ivf_rq", "ivf_pq", "ivf_sq", "ivf_flat", "ivf_hnsw_sq")

# With fewer there is nothing to divide into cells, and looking at all is a matter of a millisecond.
FEWEST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """How an index finds: exactly, or through an approximate index whose recall is measured.

    Attributes:
        optimize: build approximate indexes for searching, tuned by their measured recall; without --data, of what is there
        index_kind: auto (the first that reaches the recall), ivf_rq, ivf_pq, ivf_sq, ivf_flat or ivf_hnsw_sq
        recall_target: part of the 10 nearest moments that must be found, measured against looking at all
        exact_below: with fewer moments than this every moment is looked at
    """

    optimize: bool = False
    index_kind: str = "auto"
    recall_target: float = 0.98
    exact_below: int = 100_000

    def __post_init__(self) -> None:
        one_of("index_kind", self.index_kind, INDEX_KINDS)
        within("recall_target", self.recall_target, 0.5, 1.0)
        at_least("exact_below", self.exact_below, FEWEST_ROWS)
