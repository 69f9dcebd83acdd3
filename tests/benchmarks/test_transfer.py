"""What docs/transfer.md says is what the stored results say; sounds are spoiled by as much as is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.modalities import RATIOS_DB, figure, noisy, overlaid, told_by_vectors
from benchmarks.transfer import DOCUMENT, RESULT, ROOT, document


def test_the_document_is_made_from_the_stored_results() -> None:
    assert DOCUMENT.read_text() == document(json.loads(RESULT.read_text()))


def test_the_readme_s_figures_are_the_stored_ones() -> None:
    rows = [
        row for row in json.loads(RESULT.read_text()) if row["set"].startswith("ESC-10") and "retriever" in row["run"]
    ]
    figures = [rows[0][kind]["accuracy"] for kind in ("trained", "untrained", "statistics")]
    told = "ESC-10: {:.2f}, untrained {:.2f}, plain mel statistics {:.2f}".format(*figures)
    assert told in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("ratio_db", RATIOS_DB)
def test_sounds_are_spoiled_by_as_much_as_is_said(ratio_db: int) -> None:
    chance = np.random.default_rng(1)
    level = np.array([200.0, 1000.0, 3000.0])[:, None, None]
    sounds = (chance.normal(size=(3, 2, 4000)) * level).astype(np.int16)
    for spoil in (noisy, overlaid):
        added = spoil(sounds, ratio_db).astype(np.float64) - sounds
        ratio = np.square(sounds.astype(np.float64)).mean((1, 2)) / np.square(added).mean((1, 2))
        assert 10 * np.log10(ratio) == pytest.approx([ratio_db] * 3, abs=0.1)
    second = overlaid(sounds, ratio_db).astype(np.float64)[1] - sounds[1]
    assert np.corrcoef(second.ravel(), sounds[0].ravel())[0, 1] > 0.99


def test_what_is_tested_was_not_learnt() -> None:
    chance = np.random.default_rng(2)
    labels = [str(label) for label in chance.integers(0, 2, 100)]
    blind = chance.normal(size=(100, 60)).astype(np.float32)
    assert figure(told_by_vectors(blind, blind, labels))["accuracy"] < 0.7
    seeing = np.array([[label == "1", label == "0"] for label in labels], np.float32)
    assert figure(told_by_vectors(seeing, seeing, labels)) == {"accuracy": 1.0, "interval": [1.0, 1.0]}
