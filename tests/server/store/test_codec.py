from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from seismograd_server.model import StepBatch
from seismograd_server.store.codec import decode, encode, slice_batch
from seismograd_server.store.columns import pack, unpack

BatchMaker = Callable[..., StepBatch]


def test_a_rank_without_parameters_keeps_its_empty_columns(make_batch: BatchMaker) -> None:
    batch = make_batch(1, gradient_norms=np.empty((4, 0), np.float32))

    back = decode(encode(batch))

    assert back.gradient_norms is not None
    assert back.gradient_norms.shape == (4, 0)


def test_decoded_columns_are_views_that_nobody_can_change(make_batch: BatchMaker) -> None:
    norms = decode(encode(make_batch(1))).gradient_norms

    assert norms is not None
    assert not norms.flags.writeable
    assert not norms.flags.owndata


def test_columns_of_another_type_are_refused_by_name(make_batch: BatchMaker) -> None:
    with pytest.raises(ValueError, match="column 2 is int32"):
        encode(make_batch(1, steps=np.arange(4, dtype=np.int32)))


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (2, 1), (-1, 2), (0, 5)])
def test_a_slice_outside_the_batch_is_refused(make_batch: BatchMaker, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="of a batch of 4"):
        slice_batch(make_batch(1), start, stop)


def test_the_whole_slice_is_the_batch_itself(make_batch: BatchMaker) -> None:
    batch = make_batch(1)

    assert slice_batch(batch, 0, 4) is batch


def test_a_column_that_this_version_does_not_know_is_passed_over(make_batch: BatchMaker) -> None:
    known = unpack(encode(make_batch(1)))

    later = decode(pack([*known.items(), (900, np.arange(3.0))]))

    assert later.count == 4


def test_bytes_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="begin with"):
        decode(b"SQLite format 3\0")
