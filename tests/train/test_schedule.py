from __future__ import annotations

import pytest

from cmmixer.train.schedule import step_size


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [step_size(step, total_steps=100, warmup_steps=10, peak=2.0, floor=0.0) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


@pytest.mark.parametrize(("step", "expected"), [(10, 2.0), (55, 1.05), (100, 0.1), (140, 0.1)])
def test_cosine_goes_from_peak_to_floor(step: int, expected: float) -> None:
    assert step_size(step, total_steps=100, warmup_steps=10, peak=2.0, floor=0.1) == pytest.approx(expected)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert step_size(0, total_steps=10, warmup_steps=0.0, peak=3.0, floor=0.0) == pytest.approx(3.0)
