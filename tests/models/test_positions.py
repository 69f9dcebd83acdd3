from __future__ import annotations

import pytest
import torch

from cmmixer.models.positions import sincos_positions
from tests.reference import strip_slow


@pytest.mark.parametrize(("rows", "cols", "dim"), [(1, 1, 4), (2, 5, 8), (14, 56, 32), (3, 200, 12)])
def test_equal_the_slow_twin(rows: int, cols: int, dim: int) -> None:
    slow = torch.tensor(strip_slow.positions(rows, cols, dim))
    torch.testing.assert_close(sincos_positions(rows, cols, dim), slow, rtol=1e-6, atol=1e-6)


def test_published_defect_square_table_on_a_rectangular_grid() -> None:
    """There, a 28 x 28 table lay on a 14 x 56 grid; here, places in a row share the row's half, in a column the column's."""
    table = sincos_positions(14, 56, 64).reshape(14, 56, 64)
    assert torch.equal(table[:, :, :32], table[:1, :, :32].expand(14, 56, 32))
    assert torch.equal(table[:, :, 32:], table[:, :1, 32:].expand(14, 56, 32))
    assert len(table.reshape(-1, 64).unique(dim=0)) == 14 * 56


def test_a_longer_strip_keeps_the_positions_of_the_shorter_one() -> None:
    short, long = sincos_positions(4, 16, 32).reshape(4, 16, 32), sincos_positions(4, 64, 32).reshape(4, 64, 32)
    assert torch.equal(long[:, :16], short)


def test_a_width_that_two_axes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4; got 6"):
        sincos_positions(2, 2, 6)
