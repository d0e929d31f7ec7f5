"""Bits that a disk has changed, and bytes that it has lost: named, left out, and nothing else disturbed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import Column, Table, select, update

from seismograd_server.errors import StorageDamageError
from seismograd_server.model import ClosedBlock, RankIdentity, StepBatch
from seismograd_server.store.checking import check_database
from seismograd_server.store.columns import pack, unpack
from seismograd_server.store.damage import DamagedRow, DamageLog, damaged_steps
from seismograd_server.store.database import Database
from seismograd_server.store.schema import closed_blocks, segments

Damage = Callable[[bytes], bytes]


def cut(payload: bytes) -> bytes:
    """The last bytes never reached the disk."""
    return payload[: len(payload) * 2 // 3]


def flipped(payload: bytes) -> bytes:
    """One bit of a number: without a checksum, nobody would know."""
    at = len(payload) - 12
    return payload[:at] + bytes([payload[at] ^ 0x10]) + payload[at + 1 :]


@pytest.fixture
def filled(
    database: Database,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    make_block: Callable[..., ClosedBlock],
) -> Database:
    """Two runs of twelve steps; each in three segments and three closed blocks."""
    with database.begin() as transaction:
        for name in ("one", "other"):
            opened = transaction.runs.open_rank(make_identity(name), now=1.0)
            for first in (0, 4, 8):
                transaction.segments.append([make_batch(opened.rank.handle, first)], received_at=2.0)
                block = make_block(first, ranks=1)
                transaction.steps.append(opened.run.run_id, opened.launch.launch_row, 0, block)
    return database


def damage(database: Database, table: Table, key: Column[int], row: int, how: Damage) -> None:
    with database.begin() as transaction:
        payload = transaction.connection.scalars(select(table.c.payload).where(key == row)).one()
        transaction.connection.execute(update(table).where(key == row).values(payload=how(payload)))


@pytest.mark.parametrize("how", [cut, flipped])
def test_a_damaged_segment_is_named_and_left_out(filled: Database, database_url: str, how: Damage) -> None:
    damage(filled, segments, segments.c.segment_id, 2, how)

    with filled.read() as transaction:
        noting = transaction.damage.noting(1)
        found = [batch.first_sequence for _, batch in transaction.segments.read(1, 0, on_damage=noting)]
        other = [batch.first_sequence for _, batch in transaction.segments.read(2, 0)]
        with pytest.raises(StorageDamageError, match="segment 2 cannot be read"):
            list(transaction.segments.read(1, 0))
    assert (found, other) == ([0, 8], [0, 4, 8])
    assert damaged_steps(filled.damage.of_run(1)) == [(4, 7)]
    assert filled.damage.of_run(2) == []
    (only,) = check_database(database_url if "postgresql" in database_url else f"sqlite:///{filled.name}").damaged
    assert (only.project, only.run, only.rank, only.what) == ("mt", "one", 0, "segment")
    assert (only.first_step, only.last_step) == (4, 7)


@pytest.mark.parametrize("how", [cut, flipped])
def test_a_damaged_block_is_named_and_left_out(filled: Database, database_url: str, how: Damage) -> None:
    damage(filled, closed_blocks, closed_blocks.c.ordinal, 3, how)

    with filled.read() as transaction:
        noting = transaction.damage.noting(1)
        found = [step for chunk in transaction.steps.read(1, 0, on_damage=noting) for step in chunk.steps.tolist()]
        closings = [each.ordinal for each in transaction.steps.closings(1, 0, on_damage=noting)]
        other = [step for chunk in transaction.steps.read(2, 0) for step in chunk.steps.tolist()]
    assert (found, closings, other) == (list(range(8)), [1, 2], list(range(12)))
    assert damaged_steps(filled.damage.of_run(1)) == [(8, 11)]
    checked = check_database(database_url if "postgresql" in database_url else f"sqlite:///{filled.name}")
    (only,) = checked.damaged
    assert checked.payloads == 12
    assert (only.run, only.rank, only.what, only.first_step, only.last_step) == ("one", None, "closed_block", 8, 11)


def test_any_bit_and_any_length_but_the_right_one_is_noticed() -> None:
    data = pack([(1, np.arange(3)), (2, np.array([[1.5, np.nan]], np.float32)), (3, np.zeros(0, np.uint8))])
    assert list(unpack(data)) == [1, 2, 3]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="stored columns"):
            unpack(bytes(changed))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="stored columns"):
            unpack(data[:length])
    with pytest.raises(ValueError, match="checksum"):
        unpack(data + b"\0")


def test_a_row_is_told_once_whoever_finds_it() -> None:
    log, told = DamageLog(), list[DamagedRow]()
    log.listen(told.append)
    error = StorageDamageError("segment 7 cannot be read", what="segment", first_step=5, last_step=9)
    for _ in range(2):
        log.note(1, error)
    assert [row.reason for row in told] == ["segment 7 cannot be read"]
    assert log.of_run(1, first_step=9) == log.of_run(1, last_step=5) == told
    assert log.of_run(1, first_step=10) == log.of_run(1, last_step=4) == []


def test_ranges_that_touch_become_one() -> None:
    rows = [DamagedRow(1, "segment", *steps, "") for steps in ((20, 29), (0, 9), (5, 12), (13, 14), (16, 16))]
    assert damaged_steps(rows) == [(0, 14), (16, 16), (20, 29)]
