from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from seismograd_server.errors import StorageError
from seismograd_server.model import Line, RankIdentity, RunState, Summary, SummaryKind
from seismograd_server.store.database import Database
from seismograd_server.store.summaries import SummaryRepository, SummaryRow
from seismograd_server.store.summary_codec import decode_summary, encode_summary

LINE = Line(optimizer=0, attempt=1, branch=0, first_step=0, last_step=10_000, summarised_to=None)


@pytest.fixture
def summaries(database: Database, make_identity: Callable[..., RankIdentity]) -> Iterator[SummaryRepository]:
    """The repository inside one write transaction, with a run."""
    with database.begin() as transaction:
        transaction.runs.open_rank(make_identity(), now=1.0)
        yield transaction.summaries


def summary(buckets: list[int], names: tuple[str, ...] = ("a", "b"), **changes: Any) -> Summary:
    count, width = len(buckets), len(names)
    index = np.array(buckets, np.int64)
    table = np.arange(count * width, dtype=np.float32).reshape(count, width)
    values: dict[str, Any] = {
        "first_steps": index * 256,
        "last_steps": index * 256 + 255,
        "steps": np.full(count, 256, np.int64),
        "minimum": table - 1,
        "maximum": table + 1,
        "mean": table,
        "known": np.full((count, width), 256, np.int64),
        "nonfinite": np.zeros((count, width), np.int64),
        "tallies": np.zeros((count, 0), np.int64),
    }
    return Summary(256, names, index, **(values | changes))


def test_a_summary_comes_back_to_the_bit_but_for_its_mean() -> None:
    odd = np.array([[np.nan, -0.0], [np.inf, 1e-45], [np.float32(np.pi), 3e38]], np.float32)
    given = summary([-3, 0, 7], names=("läyer", "b"), minimum=odd, maximum=odd, mean=odd)

    found = decode_summary(encode_summary(given))

    assert (found.size, found.names) == (256, ("läyer", "b"))
    for name in ("buckets", "first_steps", "last_steps", "steps", "known", "nonfinite", "tallies"):
        stored, wanted = getattr(found, name), getattr(given, name)
        assert (stored.dtype, stored.shape) == (wanted.dtype, wanted.shape), name
        np.testing.assert_array_equal(stored, wanted, err_msg=name)
    for extreme in (found.minimum, found.maximum):
        assert np.ascontiguousarray(extreme).tobytes() == odd.tobytes()
    np.testing.assert_allclose(found.mean, odd, rtol=2.0**-13, atol=1e-38)  # one that is subnormal may become 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_mean_is_rounded_to_twelve_bits_and_never_to_infinity(kind: Any) -> None:
    mean = np.array([[1 + 2.0**-12 + 2.0**-20, np.finfo(kind).max]], kind)
    found = decode_summary(encode_summary(summary([0], mean=mean))).mean
    assert found.tolist() == [[1 + 2.0**-12, np.finfo(kind).max]]


@pytest.mark.parametrize("damage", [b"", b"SGC1\0\0\0\0", b"nonsense"])
def test_damaged_bytes_are_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="stored"):
        decode_summary(damage)


def test_a_damaged_column_is_refused() -> None:
    data = bytearray(encode_summary(summary([0, 1])))
    data[-16:] = b"\xff" * 16
    with pytest.raises(ValueError, match="damaged"):
        decode_summary(bytes(data))


def test_rows_are_read_by_range_and_replaced_as_wholes(summaries: SummaryRepository) -> None:
    rows = [SummaryRow.of(SummaryKind.LAYERS, summary([first, first + 3])) for first in (-16, 0, 16)]
    assert [row.first_step for row in rows] == [-4096, 0, 4096]

    summaries.save(1, LINE, rows, last_step=5000)
    summaries.save(1, LINE, [SummaryRow.of(SummaryKind.LAYERS, summary([0, 3, 5]))], last_step=6000)

    def buckets(first: int, last: int, **changes: Any) -> list[list[int]]:
        found = summaries.read(1, LINE, SummaryKind.LAYERS, 256, first_step=first, last_step=last, **changes)
        return [each.buckets.tolist() for each in found]

    assert buckets(-(2**62), 2**62) == [[-16, -13], [0, 3, 5], [16, 19]]
    assert buckets(4095, 4096) == [[0, 3, 5], [16, 19]]
    assert buckets(0, 9000, limit=1) == [[0, 3, 5]]
    assert buckets(-1, -1) == [[-16, -13]]
    assert summaries.summarised_to(1, LINE) == 6000


def test_lines_are_known_when_only_their_summaries_are_left(database: Database, summaries: SummaryRepository) -> None:
    summaries.save(1, LINE, [SummaryRow.of(SummaryKind.LAYERS, summary([0]))], last_step=255)
    with database.read() as before:
        assert before.steps.lines(1) == [], "nothing is committed yet"
    assert summaries.movements() == [(1, RunState.RUNNING, 0, 0)]


def test_a_line_goes_as_far_as_its_blocks_and_its_summaries(
    database: Database, make_identity: Callable[..., RankIdentity], make_block: Callable[..., Any]
) -> None:
    with database.begin() as transaction:
        transaction.runs.open_rank(make_identity(), now=1.0)
        transaction.steps.append(1, 1, 0, make_block(300, 10))
        transaction.steps.append(1, 1, 0, make_block(200, 10, branch=1))
        transaction.steps.append(1, 1, 2, make_block(7, 1))
        transaction.summaries.save(1, LINE, [SummaryRow.of(SummaryKind.LAYERS, summary([0]))], last_step=255)
    with database.read() as transaction:
        assert transaction.steps.lines(1, 0) == [Line(0, 1, 0, 0, 309, 255), Line(0, 1, 1, 200, 209, None)]
        assert transaction.steps.lines(1)[-1] == Line(2, 1, 0, 7, 7, None)


def test_a_damaged_row_is_named(summaries: SummaryRepository) -> None:
    summaries.save(1, LINE, [SummaryRow(SummaryKind.LAYERS, 256, 4096, b"SGC1\0\0\0\0")], last_step=5000)
    with pytest.raises(StorageError, match=r"summary of run 1 at step 4096, .*: stored summary lacks column"):
        summaries.read(1, LINE, SummaryKind.LAYERS, 256, first_step=0, last_step=9000)
