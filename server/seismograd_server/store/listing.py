"""Which runs are on a list, newest first, and how many there are in which state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select

from seismograd_server.model import Run, RunState
from seismograd_server.store.opening import run_of
from seismograd_server.store.schema import runs

# Bound parameters of one statement; every database takes this many.
_BOUND = 500


def list_runs(
    connection: Connection,
    project: str | None,
    state: RunState | None,
    limit: int,
    before: int | None,
    *,
    search: str,
    among: Collection[int] | None,
) -> list[Run]:
    """See RunRepository.list."""
    statement = _chosen(select(runs), project, search)
    if state is not None:
        statement = statement.where(runs.c.state == state)
    if before is not None:
        statement = statement.where(runs.c.run_id < before)
    if among is not None:
        # More than these are not shown anyway; the newest of them are.
        statement = statement.where(runs.c.run_id.in_(sorted(among)[-_BOUND:]))
    return [run_of(row) for row in connection.execute(statement.order_by(runs.c.run_id.desc()).limit(limit))]


def count_states(connection: Connection, project: str | None, search: str) -> dict[RunState, int]:
    """See RunRepository.states."""
    statement = _chosen(select(runs.c.state, func.count()), project, search).group_by(runs.c.state)
    return {RunState(state): count for state, count in connection.execute(statement)}


def _chosen(statement: Select[Any], project: str | None, search: str) -> Select[Any]:
    if project is not None:
        statement = statement.where(runs.c.project == project)
    if search:
        # Lower case on both sides: SQLite would ignore the case of ASCII letters alone, PostgreSQL none.
        wanted = search.lower()
        names = func.lower(runs.c.project), func.lower(runs.c.run)
        statement = statement.where(or_(*(name.contains(wanted, autoescape=True) for name in names)))
    return statement
