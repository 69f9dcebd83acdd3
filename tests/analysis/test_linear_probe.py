"""Linear classifiers: cross-validation is honest, metrics match their definitions, logits match sklearn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cmmixer.analysis.labels import Labelled
from cmmixer.analysis.linear_probe import HEAD_INIT_C, cross_validated, fit_regression, probe_metrics
from cmmixer.data.manifest import Entry


def _labelled(truth: np.ndarray, folds: np.ndarray) -> Labelled:
    entries = [Entry(path=f"{row}", name=f"{row}", source=f"{row}") for row in range(len(truth))]
    names = [f"c{place}" for place in range(truth.shape[1])]
    several = bool((truth.sum(1) > 1).any())
    return Labelled(entries, names, truth, folds, [str(fold) for fold in sorted(set(folds.tolist()))], several)


def test_cross_validation_does_not_leak() -> None:
    """Features that name the file: learnt by heart they give every training label and no other."""
    generator = np.random.default_rng(0)
    truth = np.eye(2, dtype=bool)[generator.integers(0, 2, 60)]
    labelled = _labelled(truth, np.arange(60) % 5)
    by_heart = probe_metrics(cross_validated(np.eye(60), labelled), labelled, resamplings=10)
    assert by_heart["accuracy"] < 0.65
    message = probe_metrics(
        cross_validated(truth[:, :1] + 0.1 * generator.normal(size=(60, 1)), labelled), labelled, resamplings=10
    )
    assert message["accuracy"] == 1.0


def test_metrics_of_single_labels_by_hand() -> None:
    truth = np.eye(2, dtype=bool)[[0, 0, 0, 1]]
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    found = probe_metrics(scores, _labelled(truth, np.array([0, 0, 1, 1])), resamplings=200)
    assert found["accuracy"] == 0.75
    assert found["folds"] == {"0": 1.0, "1": 0.5}
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["classes"]["c0"] == {
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "files": 3,
    }
    assert found["interval"][0] <= 0.75 <= found["interval"][1]


def test_several_classes_per_file_give_mean_average_precision() -> None:
    generator = np.random.default_rng(1)
    truth = generator.random((90, 3)) < 0.4
    labelled = _labelled(truth, np.arange(90) % 3)
    assert labelled.several
    found = probe_metrics(
        cross_validated(truth + 0.3 * generator.normal(size=truth.shape), labelled), labelled, resamplings=20
    )
    assert found["mAP"] > 0.9
    assert found["mAP"] == pytest.approx(np.mean([each["average_precision"] for each in found["classes"].values()]))
    # Average precision of one class: the mean, over its files, of the precision among those scored at least as high.
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    one = np.array([[True, False], [False, True], [True, True], [False, True]])
    both = np.stack([scores, 1 - scores], axis=1)
    by_hand = probe_metrics(both, _labelled(one, np.array([0, 1, 0, 1])), resamplings=2)
    assert by_hand["classes"]["c0"]["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_regression_logits_equal_its_probabilities(classes: int) -> None:
    generator = np.random.default_rng(0)
    truth = np.eye(classes, dtype=bool)[np.arange(60) % classes]
    features = generator.normal(size=(60, 5)) + 2 * truth @ generator.normal(size=(classes, 5))
    weights, biases = fit_regression(features, truth, several=False)
    logits = torch.from_numpy(features @ weights.T + biases)
    expected = LogisticRegression(max_iter=2000, C=HEAD_INIT_C).fit(features, truth.argmax(1)).predict_proba(features)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-6)
    # A class that no training clip has is never predicted, and one that every clip has always.
    absent = np.concatenate([truth, np.zeros((60, 1), bool)], axis=1)
    weights, biases = fit_regression(features, absent, several=False)
    assert (features @ weights.T + biases).argmax(1).max() < classes
    always = np.concatenate([truth, np.ones((60, 1), bool)], axis=1)
    weights, biases = fit_regression(features, always, several=True)
    assert (features @ weights.T + biases)[:, -1].min() > 3


def test_metrics_are_reproducible_and_their_interval_narrows_with_more_files() -> None:
    def metrics(files: int) -> dict[str, Any]:
        truth = np.eye(2, dtype=bool)[np.arange(files) % 2]
        scores = truth + np.arange(files)[:, None] % 5 * np.array([[0.5, 0.0]])
        return probe_metrics(scores, _labelled(truth, np.arange(files) % 2), resamplings=200, seed=0)

    first, again = metrics(40), metrics(40)
    assert first == again
    widths = [found["interval"][1] - found["interval"][0] for found in (metrics(40), metrics(1000))]
    assert 0 < widths[1] < 0.4 * widths[0]


def test_classes_that_are_never_predicted_have_zero_precision_not_an_error() -> None:
    truth = np.array([[True, False, False], [False, True, False], [False, False, True]])
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.7, 0.3, 0.0]])
    found = probe_metrics(scores, _labelled(truth, np.array([0, 0, 1])), resamplings=10)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["confusion"] == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert found["classes"]["c1"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "files": 1}
    assert found["folds"] == {"0": 0.5, "1": 0.0}


def test_rare_classes_are_classified_without_tuning_the_penalty() -> None:
    """With two training files of a class, three-fold tuning is impossible; the default penalty is used."""
    truth = np.eye(2, dtype=bool)[[0, 0, 0, 1, 1, 1]]
    features = np.where(truth[:, :1], -1.0, 1.0) + np.linspace(0, 0.1, 6)[:, None]
    scores = cross_validated(features, _labelled(truth, np.array([0, 1, 2, 0, 1, 2])))
    assert scores.argmax(1).tolist() == [0, 0, 0, 1, 1, 1]
    assert scores.sum(1) == pytest.approx(np.ones(6))


def test_regression_handles_classes_that_all_or_no_clips_have() -> None:
    features = np.random.default_rng(0).normal(size=(20, 3))
    truth = np.stack([np.ones(20, bool), np.zeros(20, bool), features[:, 0] > 0], axis=1)
    weights, biases = fit_regression(features, truth, several=True)
    assert weights[:2].tolist() == [[0.0] * 3] * 2
    assert biases[:2].tolist() == [10.0, -10.0]
    assert weights[2, 0] > 0
