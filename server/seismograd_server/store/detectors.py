"""Checkpoints of the detectors: their state after the closed block `ordinal`, from which a replay continues."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from seismograd_server.store.schema import detector_states
from seismograd_server.store.upsert import insert_into


class DetectorRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def save_all(self, states: Sequence[tuple[int, int, int, bytes]], now: float) -> None:
        """Store (run id, optimizer, ordinal, state after that block) of some; each replaces the one before."""
        rows = [
            {"run_id": run_id, "optimizer": optimizer, "ordinal": ordinal, "saved_at": now, "state": state}
            for run_id, optimizer, ordinal, state in states
        ]
        if rows:
            statement = insert_into(self._connection, detector_states)
            replaced = {name: statement.excluded[name] for name in ("ordinal", "saved_at", "state")}
            keys = [detector_states.c.run_id, detector_states.c.optimizer]
            self._connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=replaced), rows)

    def load(self, run_id: int, optimizer: int) -> tuple[int, bytes] | None:
        """The last checkpoint: (ordinal, state); None = there is none yet."""
        row = self._connection.execute(
            select(detector_states.c.ordinal, detector_states.c.state).where(
                detector_states.c.run_id == run_id, detector_states.c.optimizer == optimizer
            )
        ).one_or_none()
        return None if row is None else (row.ordinal, row.state)
