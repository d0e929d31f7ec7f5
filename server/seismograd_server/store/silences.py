"""What people do not want to be told of for a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, Row, insert, select, update

from seismograd_server.errors import NotFoundError
from seismograd_server.model import Signature, Silence
from seismograd_server.store.alert_tables import silences


class SilenceRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, silence: Silence) -> None:
        """Store a new one."""
        self._connection.execute(insert(silences).values(_values(silence)))

    def get(self, silence_id: str) -> Silence:
        """One by its id.

        Raises:
            NotFoundError: there is none.
        """
        row = self._connection.execute(select(silences).where(silences.c.silence_id == silence_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no silence {silence_id}: `seismograd silence list` shows those there are")
        return _silence(row)

    def list(self, *, active_at: float | None = None, limit: int = 1000) -> Sequence[Silence]:
        """Silences, newest first; with `active_at` only those that silence something then."""
        statement = select(silences).order_by(silences.c.silence_row.desc()).limit(limit)
        if active_at is not None:
            statement = statement.where(silences.c.expires_at > active_at, silences.c.created_at <= active_at)
        return [_silence(row) for row in self._connection.execute(statement)]

    def end(self, silence_id: str, by: str, now: float) -> Silence:
        """End one now, and return it; one that is over already stays as it is.

        Raises:
            NotFoundError: there is no such silence.
        """
        silence = self.get(silence_id)
        if silence.expires_at <= now:
            return silence
        ended = replace(silence, expires_at=now, ended_by=by)
        one = silences.c.silence_id == silence_id
        self._connection.execute(update(silences).where(one).values(_values(ended)))
        return ended


def _values(silence: Silence) -> dict[str, object]:
    return {
        "silence_id": silence.silence_id,
        "author": silence.author,
        "reason": silence.reason,
        "created_at": silence.created_at,
        "expires_at": silence.expires_at,
        "project": silence.project,
        "run": silence.run,
        "signature": "" if silence.signature is None else silence.signature.value,
        "ended_by": silence.ended_by,
    }


def _silence(row: Row[tuple[object, ...]]) -> Silence:
    return Silence(
        silence_id=row.silence_id,
        author=row.author,
        reason=row.reason,
        created_at=row.created_at,
        expires_at=row.expires_at,
        project=row.project,
        run=row.run,
        signature=Signature(row.signature) if row.signature else None,
        ended_by=row.ended_by,
    )
