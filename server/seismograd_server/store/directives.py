"""Directives, whom they were addressed to, and what each rank made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Row, insert, select, update

from seismograd_server.model import Addressee, Answer, AskedDirective, Directive, DirectiveKind, DirectiveOutcome
from seismograd_server.store.directive_tables import directive_addressees, directives
from seismograd_server.store.schema import ranks
from seismograd_server.store.upsert import insert_into

AnyRow = Row[tuple[object, ...]]


class DirectiveRepository:
    """Bound to one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, directive: Directive, handles: Iterable[int]) -> bool:
        """Store a directive with its addressees; whether it is new, by its id."""
        added = self._connection.execute(
            insert_into(self._connection, directives)
            .values(
                directive_id=directive.directive_id,
                run_id=directive.run_id,
                kind=int(directive.kind),
                asked_by=directive.asked_by,
                asked_at=directive.asked_at,
                expires_at=directive.expires_at,
                reason=directive.reason,
                alert_id=directive.alert_id,
                first_step=directive.first_step,
                last_step=directive.last_step,
            )
            .on_conflict_do_nothing(index_elements=[directives.c.directive_id])
            .returning(directives.c.directive_row)
        ).scalar_one_or_none()
        if added is None:
            return False
        rows = [_addressee_row(added, handle) for handle in handles]
        if rows:
            self._connection.execute(insert(directive_addressees), rows)
        return True

    def sent(self, told: Iterable[tuple[str, int]], now: float) -> None:
        """Note that (directive, rank handle) went down a stream; the first time counts."""
        for directive_id, handle in told:
            self._connection.execute(
                update(directive_addressees)
                .where(
                    directive_addressees.c.directive_row == _row_of(directive_id),
                    directive_addressees.c.rank_handle == handle,
                    directive_addressees.c.sent_at.is_(None),
                )
                .values(sent_at=now)
            )

    def answer(self, answer: Answer, now: float) -> bool:
        """Note what a rank made of a directive, and tell whether that was news; its first answer counts.

        A rank that acted with others without having seen the directive answers the newest one of that kind.
        """
        if answer.directive_id:
            directive_row = self._connection.scalar(
                select(directives.c.directive_row)
                .join(directive_addressees, directive_addressees.c.directive_row == directives.c.directive_row)
                .where(
                    directives.c.directive_id == answer.directive_id,
                    directive_addressees.c.rank_handle == answer.rank_handle,
                )
            )
        else:
            directive_row = self._newest(answer)
        if directive_row is None:
            return False  # nothing of this kind was ever asked of this run
        self._connection.execute(
            insert_into(self._connection, directive_addressees)
            .values(**_addressee_row(directive_row, answer.rank_handle))
            .on_conflict_do_nothing(
                index_elements=[directive_addressees.c.directive_row, directive_addressees.c.rank_handle]
            )
        )
        changed = self._connection.execute(
            update(directive_addressees)
            .where(
                directive_addressees.c.directive_row == directive_row,
                directive_addressees.c.rank_handle == answer.rank_handle,
                directive_addressees.c.outcome == "",
            )
            .values(
                outcome=answer.outcome,
                reason=answer.reason,
                step=answer.step,
                by_another_rank=int(answer.by_another_rank),
                answered_at=now,
            )
        )
        return changed.rowcount > 0

    def of_run(self, run_id: int, limit: int) -> Sequence[AskedDirective]:
        """The latest directives of a run, newest first."""
        found = select(directives).where(directives.c.run_id == run_id).order_by(directives.c.directive_row.desc())
        return self._with_addressees(self._connection.execute(found.limit(limit)).all())

    def recent(self, run_id: int, asked_after: float) -> Sequence[AskedDirective]:
        """What a run has been asked for since then, newest first."""
        found = (
            select(directives)
            .where(directives.c.run_id == run_id, directives.c.asked_at > asked_after)
            .order_by(directives.c.directive_row.desc())
        )
        return self._with_addressees(self._connection.execute(found).all())

    def unanswered(self, now: float) -> list[tuple[int, Directive]]:
        """(rank handle, directive) that has neither been answered nor expired, of ranks that have not ended."""
        rows = self._connection.execute(
            select(directives, directive_addressees.c.rank_handle)
            .join(directive_addressees, directive_addressees.c.directive_row == directives.c.directive_row)
            .join(ranks, ranks.c.handle == directive_addressees.c.rank_handle)
            .where(
                directives.c.expires_at > now,
                directive_addressees.c.outcome == "",
                ranks.c.ended_at.is_(None),
            )
            .order_by(directives.c.directive_row)
        )
        return [(row.rank_handle, _directive(row)) for row in rows]

    def _newest(self, answer: Answer) -> int | None:
        if answer.kind is None:
            return None
        of_rank = select(ranks.c.run_id).where(ranks.c.handle == answer.rank_handle).scalar_subquery()
        return self._connection.scalar(
            select(directives.c.directive_row)
            .where(directives.c.run_id == of_rank, directives.c.kind == int(answer.kind))
            .order_by(directives.c.directive_row.desc())
            .limit(1)
        )

    def _with_addressees(self, rows: Sequence[AnyRow]) -> list[AskedDirective]:
        numbers = {row.directive_row for row in rows}
        found = self._connection.execute(
            select(directive_addressees, ranks.c.rank)
            .join(ranks, ranks.c.handle == directive_addressees.c.rank_handle)
            .where(directive_addressees.c.directive_row.in_(numbers))
            .order_by(ranks.c.rank)
        ).all()
        return [
            AskedDirective(
                _directive(row), tuple(_addressee(each) for each in found if each.directive_row == row.directive_row)
            )
            for row in rows
        ]


def _row_of(directive_id: str) -> object:
    return select(directives.c.directive_row).where(directives.c.directive_id == directive_id).scalar_subquery()


def _addressee_row(directive_row: int, handle: int) -> dict[str, object]:
    return {
        "directive_row": directive_row,
        "rank_handle": handle,
        "outcome": "",
        "reason": "",
        "by_another_rank": 0,
    }


def _directive(row: AnyRow) -> Directive:
    return Directive(
        directive_id=row.directive_id,
        run_id=row.run_id,
        kind=DirectiveKind(row.kind),
        asked_by=row.asked_by,
        asked_at=row.asked_at,
        expires_at=row.expires_at,
        reason=row.reason,
        alert_id=row.alert_id,
        first_step=row.first_step,
        last_step=row.last_step,
    )


def _addressee(row: AnyRow) -> Addressee:
    return Addressee(
        rank_handle=row.rank_handle,
        rank=row.rank,
        sent_at=row.sent_at,
        outcome=DirectiveOutcome(row.outcome) if row.outcome else None,
        reason=row.reason,
        step=row.step,
        by_another_rank=bool(row.by_another_rank),
        answered_at=row.answered_at,
    )
