"""Labels and folds: read from any layout, drawn where the data has none, and checked before decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmmixer.analysis.labels import Labelled, read_labelled
from cmmixer.analysis.probe import probe
from cmmixer.config import ProbeSettings
from cmmixer.errors import DataError
from tests.support.labelled_media import (
    columns_to_rows,
    write_manifest,
)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            columns_to_rows(path=["a.wav", "b.wav"], kind=["x", "y"]),
            {},
            r"2 of 2 files have no label in column 'label', such as a.wav; give the column with --label \(other columns: kind\)",
        ),
        (
            columns_to_rows(path=["a.wav", "b.wav"], label=["x", "x"]),
            {},
            "got only one class, 'x', in column 'label'; expected two or more",
        ),
        (
            columns_to_rows(path=["a.wav", "b.wav"], label=["x", "y"], fold=["1", "1"]),
            {},
            "got only one fold, '1', in column 'fold'; expected two or more, or no such column, and folds are drawn",
        ),
        (
            columns_to_rows(
                path=["a.wav", "b.wav", "c.wav"], label=["x", "y", "x"], fold=["1", "2", "2"], src=["s", "s", "t"]
            ),
            {"source": "src"},
            "source 's' is in folds '1' and '2'; expected each source in one fold, so that no test file was trained on",
        ),
        (
            columns_to_rows(path=["a.wav", "b.wav", "c.wav"], label=["x", "y", "x"], fold=["1", "1", "2"]),
            {},
            "fold '2' has no file of class 'y'; expected every class in every fold",
        ),
        (
            columns_to_rows(path=["a.wav", "b.wav"], label=["x", "y"], fold=["1", ""]),
            {},
            "some files have no fold in column 'fold', such as b.wav",
        ),
    ],
)
def test_labels_and_folds_are_checked_before_decoding(
    tmp_path: Path, content: list[dict[str, Any]], options: dict[str, str], message: str
) -> None:
    data = write_manifest(tmp_path, content)
    settings = ProbeSettings(model=str(tmp_path / "no run"), data=str(data), **options)
    with pytest.raises(DataError, match=message):
        probe(settings)


def test_drawn_folds_have_every_class_and_split_no_source(tmp_path: Path) -> None:
    content = [
        {"path": f"{label}{source}{part}.wav", "label": label, "source": f"{label}{source}"}
        for label in "xyz"
        for source in range(10)
        for part in range(2)
    ]
    found = read_labelled(
        str(write_manifest(tmp_path, content)), label="label", fold="fold", source="source", folds=5, seed=0
    )
    for fold in range(5):
        chosen = found.folds_F == fold
        assert found.truth_FC[chosen].sum(0).tolist() == [4, 4, 4]
    by_source = {entry.source: set() for entry in found.entries}
    for entry, fold in zip(found.entries, found.folds_F.tolist(), strict=True):
        by_source[entry.source].add(fold)
    assert all(len(folds) == 1 for folds in by_source.values())


def test_class_with_one_source_is_refused(tmp_path: Path) -> None:
    content = columns_to_rows(
        path=["a.wav", "b.wav", "c.wav", "d.wav"], label=["x", "x", "y", "y"], source=["s", "s", "t", "u"]
    )
    settings = ProbeSettings(model="no run", data=str(write_manifest(tmp_path, content)), folds=2)
    with pytest.raises(
        DataError,
        match="all files of class 'x' have one source; a class needs two sources, one to train on and one to test on",
    ):
        probe(settings)
    rare = columns_to_rows(
        path=["a.wav", "b.wav", "c.wav", "d.wav"], label=["x", "x", "y", "y"], source=["r", "s", "t", "u"]
    )
    found = read_labelled(
        str(write_manifest(tmp_path, rare)), label="label", fold="fold", source="source", folds=3, seed=0
    )
    assert found.drawn  # two sources in three folds: absent from one, which is allowed for drawn folds


def _read(data: Path, **options: Any) -> Labelled:
    values: dict[str, Any] = {"label": "label", "fold": "fold", "source": "source", "folds": 2, "seed": 0}
    return read_labelled(str(data), **{**values, **options})


def test_several_labels_are_separated_by_semicolons(tmp_path: Path) -> None:
    content = columns_to_rows(path=["a.wav", "b.wav", "c.wav", "d.wav"], label=["x; y", "y", "x;", "x;y"])
    found = _read(write_manifest(tmp_path, content), seed=3)
    assert (found.several, found.classes, found.drawn) == (True, ["x", "y"], True)
    assert found.truth_FC.tolist() == [[True, True], [False, True], [True, False], [True, True]]


def test_given_folds_keep_their_names_and_rows_keep_the_classes(tmp_path: Path) -> None:
    content = columns_to_rows(
        path=["a.wav", "b.wav", "c.wav", "d.wav"], label=["x", "y", "x", "y"], fold=["B", "B", "A", "A"]
    )
    found = _read(write_manifest(tmp_path, content))
    assert (found.fold_names, found.folds_F.tolist(), found.drawn) == (["A", "B"], [1, 1, 0, 0], False)
    part = found.rows([3, 0])
    assert [entry.path.rpartition("/")[2] for entry in part.entries] == ["d.wav", "a.wav"]
    assert (part.truth_FC.tolist(), part.folds_F.tolist()) == ([[False, True], [True, False]], [0, 1])
    with pytest.raises(DataError, match=r"^d: fold 'A' has no file of class 'x'; expected every class in every fold$"):
        part.check("d")


def test_drawn_folds_depend_on_the_seed_only(tmp_path: Path) -> None:
    content = columns_to_rows(path=[f"{n}.wav" for n in range(12)], label=["x", "y"] * 6)
    data = write_manifest(tmp_path, content)
    first, again, other = (_read(data, folds=3, seed=seed).folds_F.tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other) == [0] * 4 + [1] * 4 + [2] * 4


def test_messages_count_the_other_classes(tmp_path: Path) -> None:
    content = columns_to_rows(path=["a.wav", "b.wav", "c.wav"], label=["x", "y", "z"])
    with pytest.raises(DataError) as raised:
        _read(write_manifest(tmp_path, content))
    assert str(raised.value) == (
        f"{tmp_path / 'manifest.csv'}: all files of class 'x' and 2 others have one source; a class needs two sources, one to train "
        "on and one to test on"
    )
