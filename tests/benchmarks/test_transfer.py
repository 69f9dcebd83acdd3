"""docs/transfer.md matches the stored results, and the helpers of the modality benchmark are correct."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.modalities import RATIOS_DB, accuracy, classify_vectors, noisy, overlaid
from benchmarks.transfer import DOCUMENT, RESULT, document


def test_transfer_document_matches_stored_results() -> None:
    assert DOCUMENT.read_text() == document(json.loads(RESULT.read_text()))


@pytest.mark.parametrize("ratio_db", RATIOS_DB)
def test_added_audio_has_the_given_ratio(ratio_db: int) -> None:
    generator = np.random.default_rng(1)
    level = np.array([200.0, 1000.0, 3000.0])[:, None, None]
    sounds = (generator.normal(size=(3, 2, 4000)) * level).astype(np.int16)
    for spoil in (noisy, overlaid):
        added = spoil(sounds, ratio_db).astype(np.float64) - sounds
        ratio = np.square(sounds.astype(np.float64)).mean((1, 2)) / np.square(added).mean((1, 2))
        assert 10 * np.log10(ratio) == pytest.approx([ratio_db] * 3, abs=0.1)
    second = overlaid(sounds, ratio_db).astype(np.float64)[1] - sounds[1]
    assert np.corrcoef(second.ravel(), sounds[0].ravel())[0, 1] > 0.99


def test_vectors_are_classified_across_folds() -> None:
    generator = np.random.default_rng(2)
    labels = [str(label) for label in generator.integers(0, 2, 100)]
    uninformative = generator.normal(size=(100, 60)).astype(np.float32)
    assert accuracy(classify_vectors(uninformative, uninformative, labels))["accuracy"] < 0.7
    informative = np.array([[label == "1", label == "0"] for label in labels], np.float32)
    assert accuracy(classify_vectors(informative, informative, labels)) == {"accuracy": 1.0, "interval": [1.0, 1.0]}
