"""What compaction has done, and how far it may go.

A migration is history: it is never changed again, and so repeats what `schema.py` and `pipeline/series.py` say today.
"""

from __future__ import annotations

import json
import struct

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATES = sa.table(
    "detector_states",
    sa.column("run_id", sa.BigInteger()),
    sa.column("optimizer", sa.Integer()),
    sa.column("state", sa.LargeBinary()),
    sa.column("attempt", sa.Integer()),
    sa.column("segment", sa.BigInteger()),
)
_HEADER = struct.Struct("<4sI")


def upgrade() -> None:
    """Nothing is compacted yet; how far detectors have come is in their states, and is written out beside them."""
    nothing = sa.text("0")
    op.add_column("segments", sa.Column("settled", sa.SmallInteger(), nullable=False, server_default=nothing))
    op.add_column("closed_blocks", sa.Column("dense", sa.SmallInteger(), nullable=False, server_default=nothing))
    op.add_column("detector_states", sa.Column("attempt", sa.Integer(), nullable=False, server_default=nothing))
    op.add_column("detector_states", sa.Column("segment", sa.BigInteger(), nullable=False, server_default=nothing))
    connection = op.get_bind()
    columns = _STATES.c
    for run_id, optimizer in connection.execute(sa.select(columns.run_id, columns.optimizer)).all():
        one = (columns.run_id == run_id, columns.optimizer == optimizer)
        position = _position(connection.scalars(sa.select(columns.state).where(*one)).one())
        if position is not None:
            attempt, segment = position
            connection.execute(sa.update(_STATES).where(*one).values(attempt=attempt, segment=segment))


def _position(state: bytes) -> tuple[int, int] | None:
    """(attempt, segment); None = a state that nobody can read, from which no restart continues."""
    try:
        magic, length = _HEADER.unpack_from(state)
        header = json.loads(state[_HEADER.size : _HEADER.size + length]) if magic == b"SGP1" else {}
        return int(header["attempt"]), int(header["segment"])
    except (struct.error, ValueError, KeyError, TypeError):
        return None
