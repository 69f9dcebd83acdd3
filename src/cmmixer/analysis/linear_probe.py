"""Linear classifiers on frozen features, cross-validated over folds, and the metrics of their scores.

Letters: F files, R clips, D features, C or K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmmixer.analysis.labels import Labelled
from cmmixer.evaluation.metrics import PERCENTILES

# Candidate values of `C`, the inverse strength of the L2 penalty; chosen on training files only.
C_VALUES = (0.001, 0.01, 0.1, 1.0, 10.0)
# `C` of the regression that initializes the head of a fine-tuned classifier.
HEAD_INIT_C = 0.1
_MAX_ITERATIONS, _INNER_FOLDS = 2000, 3
# Logit of a class that no training clip has; negated for a class that all have.
_ABSENT_LOGIT = -10.0


def cross_validated(features_FD: NDArray[np.float64], labelled: Labelled) -> NDArray[np.float64]:
    """Scores each file, [F, C], with a classifier trained on the other folds.

    Multinomial logistic regression on normalized features, or one binary regression per class if files have several classes.
    The strength of the penalty is chosen by three-fold cross-validation within the training files.
    """
    scores_FC = np.zeros(labelled.truth_FC.shape)
    for fold in range(len(labelled.fold_names)):
        test = labelled.folds_F == fold
        model = _classifier(labelled.several, int(labelled.truth_FC[~test].sum(0).min()))
        model.fit(features_FD[~test], _target(labelled.truth_FC[~test], labelled.several))
        scores_FC[test] = model.predict_proba(features_FD[test])
    return scores_FC


def _classifier(several: bool, rarest: int) -> Any:
    """Tunes the penalty in three folds, which needs three files of each class; otherwise it keeps its default."""
    regression = LogisticRegression(max_iter=_MAX_ITERATIONS)
    model = make_pipeline(StandardScaler(), OneVsRestClassifier(regression) if several else regression)
    if rarest < _INNER_FOLDS:
        return model
    name = "onevsrestclassifier__estimator__C" if several else "logisticregression__C"
    scoring = "average_precision" if several else "accuracy"
    return GridSearchCV(model, {name: list(C_VALUES)}, cv=_INNER_FOLDS, scoring=scoring)


def fit_regression(
    features_RD: NDArray[np.float64], truth_RK: NDArray[np.bool_], several: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fits a logistic regression to normalized features and returns the weights [K, D] and biases [K] of its logits.

    Args:
        features_RD: of R clips.
        truth_RK: their classes.
        several: whether a clip may have several classes; then one binary regression is fitted per class.
    """
    weight_KD, bias_K = np.zeros((truth_RK.shape[1], features_RD.shape[1])), np.full(truth_RK.shape[1], _ABSENT_LOGIT)
    if several:
        for place, has_R in enumerate(truth_RK.T):
            if has_R.all():
                bias_K[place] = -_ABSENT_LOGIT
            elif has_R.any():
                binary = _head_regression().fit(features_RD, has_R)
                weight_KD[place], bias_K[place] = binary.coef_[0], binary.intercept_[0]
        return weight_KD, bias_K
    fitted = _head_regression().fit(features_RD, truth_RK.argmax(1))
    present = fitted.classes_
    if len(present) == 2:  # sklearn fits one logit, of the second class against the first
        weight_KD[present] = np.stack([-fitted.coef_[0] / 2, fitted.coef_[0] / 2])
        bias_K[present] = np.array([-1, 1]) * fitted.intercept_[0] / 2
    else:
        weight_KD[present], bias_K[present] = fitted.coef_, fitted.intercept_
    return weight_KD, bias_K


def _head_regression() -> Any:
    return LogisticRegression(max_iter=_MAX_ITERATIONS, C=HEAD_INIT_C)


def _target(truth_FC: NDArray[np.bool_], several: bool) -> NDArray[np.int64]:
    return truth_FC.astype(np.int64) if several else truth_FC.argmax(1)


def probe_metrics(
    scores_FC: NDArray[np.float64], labelled: Labelled, *, resamplings: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Computes the metrics of the scores, as JSON values.

    Returns:
        `accuracy` (or `mAP` if files have several classes), its `interval` (95 %, percentile bootstrap over files) and its value
        in each of the `folds`; `classes`: precision, recall, F1 and number of files of each; `confusion` (true class by row)
        if each file has one class.
    """
    name = "mAP" if labelled.several else "accuracy"
    generator = np.random.default_rng(seed)
    count = len(scores_FC)
    drawn = [_score(scores_FC, labelled, generator.integers(0, count, count)) for _ in range(resamplings)]
    all_rows = np.arange(count)
    result: dict[str, Any] = {
        name: _score(scores_FC, labelled, all_rows),
        "interval": [float(edge) for edge in np.nanpercentile(drawn, PERCENTILES)],
        "folds": {
            fold: _score(scores_FC, labelled, all_rows[labelled.folds_F == number])
            for number, fold in enumerate(labelled.fold_names)
        },
    }
    if labelled.several:
        precisions = average_precision_score(labelled.truth_FC, scores_FC, average=None)
        files = labelled.truth_FC.sum(0)
        result["classes"] = {
            name: {"average_precision": float(precisions[place]), "files": int(files[place])}
            for place, name in enumerate(labelled.classes)
        }
        return result
    truth, predicted = labelled.truth_FC.argmax(1), scores_FC.argmax(1)
    labels = np.arange(len(labelled.classes))
    table = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0.0)
    result["classes"] = {
        name: {
            "precision": float(table[0][place]),
            "recall": float(table[1][place]),
            "f1": float(table[2][place]),
            "files": int(table[3][place]),
        }
        for place, name in enumerate(labelled.classes)
    }
    result["confusion"] = confusion_matrix(truth, predicted, labels=labels).tolist()
    return result


def _score(scores_FC: NDArray[np.float64], labelled: Labelled, rows: NDArray[np.int64]) -> float:
    truth_FC = labelled.truth_FC[rows]
    if not labelled.several:
        return float((scores_FC[rows].argmax(1) == truth_FC.argmax(1)).mean())
    present = truth_FC.any(0)
    return float(average_precision_score(truth_FC[:, present], scores_FC[rows][:, present], average="macro"))
