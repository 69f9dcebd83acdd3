from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cmmixer.evaluation.ranks import rankings, ranks, ranks_of
from tests.reference import ranks_slow

# Few different values, so that ties are the rule.
score = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, np.nan])
matrices = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=score)


@settings(max_examples=200, deadline=None)
@given(matrices, st.data())
def test_equal_the_slow_twin(scores: np.ndarray, data: st.DataObject) -> None:
    queries, candidates = scores.shape
    truth = data.draw(st.lists(st.integers(0, candidates - 1), min_size=queries, max_size=queries))
    slow = [ranks_slow.rank(row, true) for row, true in zip(scores.tolist(), truth, strict=True)]
    assert ranks(scores, truth).tolist() == slow
    order = rankings(scores, truth)
    assert all(sorted(row) == list(range(candidates)) for row in order.tolist())
    assert [row.index(true) + 1 for row, true in zip(order.tolist(), truth, strict=True)] == slow


def test_ties_count_against_the_model() -> None:
    assert ranks([[1.0, 1.0, 1.0]], [0]).tolist() == [3]
    assert ranks([[1.0, 0.5, 0.2]], [0]).tolist() == [1]


def test_a_collapsed_encoder_ranks_last() -> None:
    same = np.tile(np.random.default_rng(0).normal(size=16).astype(np.float32), (300, 1))
    same /= np.linalg.norm(same, axis=1, keepdims=True)
    assert (ranks_of(same, same) == 300).all()
    nearly = same + np.random.default_rng(1).normal(size=same.shape).astype(np.float32) * 1e-8
    assert (ranks_of(nearly, nearly) == 300).all()


def test_what_is_not_a_number_ranks_last() -> None:
    assert ranks([[np.nan, 0.1, 0.2]], [0]).tolist() == [3]
    assert ranks([[np.nan, 0.1, 0.2]], [2]).tolist() == [1]
    broken = np.full((4, 3), np.nan)
    assert ranks_of(broken, broken).tolist() == [4, 4, 4, 4]
    infinite = np.full((2, 3), np.inf)
    infinite[:, 0] *= -1
    assert ranks_of(infinite, -infinite).tolist() == [2, 2]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000, None])
def test_published_defect_ranking_inside_one_batch_only(chunk: int | None) -> None:
    """Every query meets the whole gallery, however many are scored at a time."""
    chance = np.random.default_rng(0)
    video = chance.normal(size=(150, 8)).astype(np.float32)
    audio = (video + chance.normal(size=video.shape)).astype(np.float32)
    scores = video.astype(np.float64) @ audio.astype(np.float64).T
    slow = [ranks_slow.rank(row, true) for true, row in enumerate(scores.tolist())]
    assert ranks_of(video, audio, chunk=chunk).tolist() == slow
    assert max(slow) > 64


def test_order_of_the_gallery_changes_no_rank() -> None:
    chance = np.random.default_rng(0)
    video, audio = chance.normal(size=(2, 40, 6))
    order = chance.permutation(40)
    assert (ranks_of(video[order], audio[order]) == ranks_of(video, audio)[order]).all()


def test_queries_and_candidates_may_differ_in_number() -> None:
    candidates = np.eye(4)
    assert ranks_of(candidates[[2, 0]], candidates, [2, 3]).tolist() == [1, 4]
    with pytest.raises(ValueError, match="2 queries and 4 candidates: say which candidate is true"):
        ranks_of(candidates[:2], candidates)


def test_rankings_hold_a_tie_s_width_too() -> None:
    scores = [[0.5, 0.5 - 1e-9, 0.9]]
    assert ranks(scores, [0], tie=1e-6).tolist() == [3]
    assert rankings(scores, [0], tie=1e-6).tolist() == [[2, 1, 0]]
    assert rankings(scores, [0]).tolist() == [[2, 0, 1]]


@pytest.mark.parametrize("truth", [[0, 5], [-1, 0], [0]])
def test_a_true_candidate_outside_the_gallery_is_refused(truth: list[int]) -> None:
    with pytest.raises(ValueError, match=r"truth must be 2 columns in \[0, 3\)"):
        ranks(np.zeros((2, 3)), truth)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="scores must be"):
        ranks(np.zeros(3))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        ranks_of(np.zeros((2, 3)), np.zeros((2, 4)))
