"""A linear classifier on features that stay as they are, tested on each fold by what it learnt from the others.

Letters: F files, D features, C classes.
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

# Inverse strengths of the penalty; chosen on training files alone.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
# Of the regression that fine-tuning starts at.
START_STRENGTH = 0.1
_MOST_STEPS, _INNER_FOLDS = 2000, 3
# Logit of a class that no training clip has; of one that all have, the opposite.
_NEVER = -10.0


def cross_validated(features_FD: NDArray[np.float64], labelled: Labelled) -> NDArray[np.float64]:
    """Each file's score for each class, [F, C], from the classifier that learnt from the other folds.

    Multinomial logistic regression on standardised features, or one regression a class where files have several; the
    strength of its penalty is chosen by three-fold cross-validation within the training files.
    """
    scores_FC = np.zeros(labelled.truth_FC.shape)
    for fold in range(len(labelled.fold_names)):
        test = labelled.folds_F == fold
        model = _classifier(labelled.several, int(labelled.truth_FC[~test].sum(0).min()))
        model.fit(features_FD[~test], _target(labelled.truth_FC[~test], labelled.several))
        scores_FC[test] = model.predict_proba(features_FD[test])
    return scores_FC


def _classifier(several: bool, rarest: int) -> Any:
    """With fewer than three files of a class its penalty's strength cannot be chosen in three folds."""
    regression = LogisticRegression(max_iter=_MOST_STEPS)
    model = make_pipeline(StandardScaler(), OneVsRestClassifier(regression) if several else regression)
    if rarest < _INNER_FOLDS:
        return model
    name = "onevsrestclassifier__estimator__C" if several else "logisticregression__C"
    scoring = "average_precision" if several else "accuracy"
    return GridSearchCV(model, {name: list(STRENGTHS)}, cv=_INNER_FOLDS, scoring=scoring)


def regression(
    features_RF: NDArray[np.float64], truth_RK: NDArray[np.bool_], several: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logistic regression on features that are standardised already: weights [K, F] and biases [K] of its logits.

    Args:
        features_RF: of R clips.
        truth_RK: their classes.
        several: whether a clip may have several; then one regression a class.
    """
    weight_KF, bias_K = np.zeros((truth_RK.shape[1], features_RF.shape[1])), np.full(truth_RK.shape[1], _NEVER)
    if several:
        for place, has_R in enumerate(truth_RK.T):
            if has_R.all():
                bias_K[place] = -_NEVER
            elif has_R.any():
                one = _start_regression().fit(features_RF, has_R)
                weight_KF[place], bias_K[place] = one.coef_[0], one.intercept_[0]
        return weight_KF, bias_K
    found = _start_regression().fit(features_RF, truth_RK.argmax(1))
    named = found.classes_
    if len(named) == 2:  # one logit, of the second class against the first
        weight_KF[named] = np.stack([-found.coef_[0] / 2, found.coef_[0] / 2])
        bias_K[named] = np.array([-1, 1]) * found.intercept_[0] / 2
    else:
        weight_KF[named], bias_K[named] = found.coef_, found.intercept_
    return weight_KF, bias_K


def _start_regression() -> Any:
    return LogisticRegression(max_iter=_MOST_STEPS, C=START_STRENGTH)


def _target(truth_FC: NDArray[np.bool_], several: bool) -> NDArray[np.int64]:
    return truth_FC.astype(np.int64) if several else truth_FC.argmax(1)


def figures(
    scores_FC: NDArray[np.float64], labelled: Labelled, *, resamplings: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """What the scores come to, as JSON values.

    Returns:
        `accuracy` (or `mAP` where files have several classes) with `interval` (95 %, percentile bootstrap over files) and
        `folds`; `classes`: precision, recall, F1 and files of each; `confusion` (true class by row) for one class a file.
    """
    name = "mAP" if labelled.several else "accuracy"
    chance = np.random.default_rng(seed)
    count = len(scores_FC)
    drawn = [_score(scores_FC, labelled, chance.integers(0, count, count)) for _ in range(resamplings)]
    every = np.arange(count)
    result: dict[str, Any] = {
        name: _score(scores_FC, labelled, every),
        "interval": [float(edge) for edge in np.nanpercentile(drawn, PERCENTILES)],
        "folds": {
            fold: _score(scores_FC, labelled, every[labelled.folds_F == number])
            for number, fold in enumerate(labelled.fold_names)
        },
    }
    if labelled.several:
        found = average_precision_score(labelled.truth_FC, scores_FC, average=None)
        files = labelled.truth_FC.sum(0)
        result["classes"] = {
            name: {"average_precision": float(found[place]), "files": int(files[place])}
            for place, name in enumerate(labelled.classes)
        }
        return result
    truth, guessed = labelled.truth_FC.argmax(1), scores_FC.argmax(1)
    labels = np.arange(len(labelled.classes))
    table = precision_recall_fscore_support(truth, guessed, labels=labels, zero_division=0.0)
    result["classes"] = {
        name: {
            "precision": float(table[0][place]),
            "recall": float(table[1][place]),
            "f1": float(table[2][place]),
            "files": int(table[3][place]),
        }
        for place, name in enumerate(labelled.classes)
    }
    result["confusion"] = confusion_matrix(truth, guessed, labels=labels).tolist()
    return result


def _score(scores_FC: NDArray[np.float64], labelled: Labelled, rows: NDArray[np.int64]) -> float:
    truth_FC = labelled.truth_FC[rows]
    if not labelled.several:
        return float((scores_FC[rows].argmax(1) == truth_FC.argmax(1)).mean())
    there = truth_FC.any(0)
    return float(average_precision_score(truth_FC[:, there], scores_FC[rows][:, there], average="macro"))
