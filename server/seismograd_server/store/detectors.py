"""Checkpoints of the detectors: their state after the closed block `ordinal`, from which a replay continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from seismograd_server.store.schema import detector_states
from seismograd_server.store.upsert import insert_into


@dataclass(frozen=True, slots=True)
class DetectorCheckpoint:
    """The detectors of one optimizer of a run, after the closed block `ordinal`.

    A replay from here reads nothing of launches before `attempt`, and of this one only segments behind `segment`; by
    default it reads everything.
    """

    run_id: int
    optimizer: int
    ordinal: int
    state: bytes
    attempt: int = 0
    segment: int = 0


class DetectorRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def save_all(self, states: Sequence[DetectorCheckpoint], now: float) -> None:
        """Store some checkpoints; each replaces the one before of its series."""
        rows = [
            {
                "run_id": each.run_id,
                "optimizer": each.optimizer,
                "ordinal": each.ordinal,
                "state": each.state,
                "attempt": each.attempt,
                "segment": each.segment,
                "saved_at": now,
            }
            for each in states
        ]
        if rows:
            statement = insert_into(self._connection, detector_states)
            keys = [detector_states.c.run_id, detector_states.c.optimizer]
            replaced = {name: statement.excluded[name] for name in rows[0] if name not in {key.name for key in keys}}
            self._connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=replaced), rows)

    def load(self, run_id: int, optimizer: int) -> tuple[int, bytes] | None:
        """The last checkpoint: (ordinal, state); None = there is none yet."""
        row = self._connection.execute(
            select(detector_states.c.ordinal, detector_states.c.state).where(
                detector_states.c.run_id == run_id, detector_states.c.optimizer == optimizer
            )
        ).one_or_none()
        return None if row is None else (row.ordinal, row.state)
