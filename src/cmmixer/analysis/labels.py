"""Labelled files and their folds for cross-validation, checked before anything is decoded.

Letters: F files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmmixer.data.manifest import Entry, read_manifest
from cmmixer.errors import DataError

# Separates the labels of a file that has several.
SEPARATOR = ";"


@dataclass(frozen=True)
class Labelled:
    """Files with classes and folds.

    Attributes:
        entries: the F files.
        classes: names, sorted.
        truth_FC: bool, which classes each file has.
        folds_F: number of each file's fold; every fold is the test set once, with the others as training set.
        fold_names: names of the folds in the data.
        several: whether any file has more than one class.
        drawn: whether the folds were drawn here; a class may then be absent from one.
    """

    entries: list[Entry]
    classes: list[str]
    truth_FC: NDArray[np.bool_]
    folds_F: NDArray[np.int64]
    fold_names: list[str]
    several: bool
    drawn: bool = False

    def rows(self, rows: Sequence[int]) -> Labelled:
        """Returns a subset of the files."""
        chosen = list(rows)
        return Labelled(
            [self.entries[row] for row in chosen],
            self.classes,
            self.truth_FC[chosen],
            self.folds_F[chosen],
            self.fold_names,
            self.several,
            self.drawn,
        )

    def check(self, where: str) -> None:
        """Checks that every fold can be tested.

        Raises:
            DataError: a class is absent from a fold given by the data, or in only one drawn fold (all its files have one source).
        """
        present = np.array([self.truth_FC[self.folds_F == fold].any(0) for fold in range(len(self.fold_names))])
        if self.drawn:
            single = [self.classes[place] for place in np.flatnonzero(present.sum(0) < 2)]
            if single:
                raise DataError(
                    f"{where}: all files of class {single[0]!r}{_and_others(single)} have one source; a class needs two sources, one to train "
                    "on and one to test on"
                )
            return
        for name, found_C in zip(self.fold_names, present, strict=True):
            absent = [self.classes[place] for place in np.flatnonzero(~found_C)]
            if absent:
                raise DataError(
                    f"{where}: fold {name!r} has no file of class {absent[0]!r}{_and_others(absent)}; expected every class in every fold"
                )


def _and_others(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} others" if len(names) > 1 else ""


def read_labelled(data: str, *, label: str, fold: str, source: str, folds: int, seed: int) -> Labelled:
    """Reads the classes and folds of a data set of any layout.

    Args:
        data: a layout with labels.
        label: column of the class; several classes of a file are separated by `;`.
        fold: column of the fold. If the data has none, `folds` folds are drawn, with all files of a source in one fold.
        source: column of the source.
        folds: number of folds to draw.
        seed: of the draw.

    Raises:
        DataError: labels are missing, there is only one class, a source is in two folds, or a class is absent from a fold.
    """
    entries = read_manifest(data)
    names = [_labels(_column(entry, label)) for entry in entries]
    unlabelled = [entry for entry, found in zip(entries, names, strict=True) if not found]
    if unlabelled:
        columns = sorted({column for entry in entries for column in entry.extra})
        raise DataError(
            f"{data}: {len(unlabelled)} of {len(entries)} files have no label in column {label!r}, such as {unlabelled[0].name}; "
            f"give the column with --label (other columns: {', '.join(columns) or 'none'})"
        )
    classes = sorted({name for found in names for name in found})
    if len(classes) < 2:
        raise DataError(f"{data}: got only one class, {classes[0]!r}, in column {label!r}; expected two or more")
    truth_FC = np.array([[name in found for name in classes] for found in names])
    sources = [str(_column(entry, source) or entry.source) for entry in entries]
    given = [_column(entry, fold) for entry in entries]
    drawn = all(value is None for value in given)
    if drawn:
        folds_F, fold_names = _draw_folds(sources, truth_FC, folds, seed), [str(number) for number in range(folds)]
    elif any(value is None for value in given):
        without = next(entry.name for entry, value in zip(entries, given, strict=True) if value is None)
        raise DataError(f"{data}: some files have no fold in column {fold!r}, such as {without}")
    else:
        fold_names = sorted({str(value) for value in given})
        folds_F = np.array([fold_names.index(str(value)) for value in given])
    if len(fold_names) < 2:
        raise DataError(
            f"{data}: got only one fold, {fold_names[0]!r}, in column {fold!r}; expected two or more, or no such column, and folds are drawn"
        )
    _check_overlap(data, sources, folds_F, fold_names)
    labelled = Labelled(entries, classes, truth_FC, folds_F, fold_names, bool((truth_FC.sum(1) > 1).any()), drawn)
    labelled.check(data)
    return labelled


def _column(entry: Entry, name: str) -> Any:
    value = getattr(entry, name) if name in ("label", "source", "split") else entry.extra.get(name)
    return None if value is None or str(value).strip() == "" else value


def _labels(value: Any) -> list[str]:
    return [] if value is None else [part.strip() for part in str(value).split(SEPARATOR) if part.strip()]


def _draw_folds(sources: Sequence[str], truth_FC: NDArray[np.bool_], folds: int, seed: int) -> NDArray[np.int64]:
    """Distributes the sources over folds class by class, so that every fold has about as many of each class."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        members[source].append(row)
    order = np.random.default_rng(seed).permutation(sorted(members))
    by_class = sorted(order.tolist(), key=lambda source: truth_FC[members[source]].any(0).tolist(), reverse=True)
    folds_F = np.zeros(len(sources), np.int64)
    for place, source in enumerate(by_class):
        folds_F[members[source]] = place % folds
    return folds_F


def _check_overlap(data: str, sources: Sequence[str], folds_F: NDArray[np.int64], names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for source, fold in zip(sources, folds_F.tolist(), strict=True):
        if seen.setdefault(source, fold) != fold:
            raise DataError(
                f"{data}: source {source!r} is in folds {names[seen[source]]!r} and {names[fold]!r}; expected each source in one fold, "
                "so that no test file was trained on"
            )
