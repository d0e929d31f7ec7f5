"""Columns of which nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from seismograd_server.model import is_unknown, unknown, unknown32


def test_unknown_columns_are_nan_everywhere_and_cannot_be_written_to() -> None:
    for column, dtype in ((unknown(3, 2), np.float64), (unknown32(3, 2), np.float32)):
        assert column.shape == (3, 2)
        assert column.dtype == dtype
        assert np.isnan(column).all()
        assert is_unknown(column)
        with pytest.raises(ValueError, match="read-only"):
            column[0, 0] = 1.0


def test_whatever_may_hold_a_number_is_looked_at() -> None:
    assert not is_unknown(np.array([1.0]))
    assert not is_unknown(np.full(3, np.nan)), "it may be written to"
    assert not is_unknown(np.broadcast_to(np.float64(1.0), (3, 2)))
    assert is_unknown(np.empty((0, 4)))
