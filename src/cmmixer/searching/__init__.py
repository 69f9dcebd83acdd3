"""Searching an index: the query's moments (`asking`), the library's that go with them (`hits`), film long (`timeline`)."""

from cmmixer.searching.asking import Asking, asking_with, reranked, senses
from cmmixer.searching.hits import Hit, best_moments, collapse, on_disk
from cmmixer.searching.run import SearchResult, search
from cmmixer.searching.show import show_seconds
from cmmixer.searching.timeline import Match, timeline

__all__ = [
    "Asking",
    "Hit",
    "Match",
    "SearchResult",
    "asking_with",
    "best_moments",
    "collapse",
    "on_disk",
    "reranked",
    "search",
    "senses",
    "show_seconds",
    "timeline",
]
