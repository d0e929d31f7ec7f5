"""How far runs have come and when ranks were last heard of: written often, so for many of them in one statement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, update

from seismograd_server.store.schema import ranks, runs


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: absolute values of its first optimizer; None leaves what is stored."""

    run_id: int
    last_step: int | None
    closed_steps: int
    last_record_at: float | None


def note_progress(connection: Connection, runs_of: Iterable[Progress]) -> None:
    """See `RunRepository.progress`."""
    rows = [
        {"of": each.run_id, "step": each.last_step, "steps": each.closed_steps, "at": each.last_record_at}
        for each in runs_of
    ]
    if rows:
        connection.execute(_PROGRESS, rows)


def note_heard(connection: Connection, handles: Iterable[int], now: float) -> None:
    """See `RunRepository.touch`."""
    rows = [{"seen": now, "of": handle} for handle in handles]
    if rows:
        connection.execute(_TOUCH, rows)


_TOUCH = update(ranks).where(ranks.c.handle == bindparam("of")).values(last_seen_at=bindparam("seen"))
_PROGRESS = (
    update(runs)
    .where(runs.c.run_id == bindparam("of"))
    .values(
        closed_steps=bindparam("steps"),
        last_step=func.coalesce(bindparam("step", type_=runs.c.last_step.type), runs.c.last_step),
        last_record_at=func.coalesce(bindparam("at", type_=runs.c.last_record_at.type), runs.c.last_record_at),
    )
)
