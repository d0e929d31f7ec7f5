from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from seismograd_server.errors import NotFoundError
from seismograd_server.model import AlertState, RankIdentity, Severity, Signature, Silence, Transition, Verdict
from seismograd_server.store.database import Database

FIRST = Silence("s1", "Ada räm", "a \U0001f6e0 planned", 10.0, 20.0, project="mt", run="sweep-*")
SECOND = Silence("s2", "Bob", "", 12.0, 30.0, signature=Signature.SPIKE)


def test_silences_come_back_as_they_were_and_newest_first(database: Database) -> None:
    with database.begin() as transaction:
        transaction.silences.add(FIRST)
        transaction.silences.add(SECOND)
    with database.read() as transaction:
        assert list(transaction.silences.list()) == [SECOND, FIRST]
        assert list(transaction.silences.list(limit=1)) == [SECOND]
        assert list(transaction.silences.list(active_at=11.0)) == [FIRST]
        assert list(transaction.silences.list(active_at=19.0)) == [SECOND, FIRST]
        assert list(transaction.silences.list(active_at=20.0)) == [SECOND]


def test_a_silence_is_ended_once(database: Database) -> None:
    with database.begin() as transaction:
        transaction.silences.add(FIRST)
        ended = transaction.silences.end("s1", "Bob", 15.0)
        assert ended == replace(FIRST, expires_at=15.0, ended_by="Bob")
        assert transaction.silences.end("s1", "Eve", 16.0) == ended
        with pytest.raises(NotFoundError, match="seismograd silence list"):
            transaction.silences.end("s9", "Eve", 16.0)


def test_what_people_were_told_and_said_is_kept_with_an_alert(
    database: Database, make_identity: Callable[..., RankIdentity], make_transition: Callable[..., Transition]
) -> None:
    with database.begin() as transaction:
        run_id = transaction.runs.open_rank(make_identity(), now=1.0).run.run_id
        transaction.alerts.apply([make_transition(run_id, told=Severity.WARNING, silenced_by="s1")])
        judged = replace(
            make_transition(run_id, before=AlertState.FIRING, cause="called wrong", verdict=Verdict.WRONG),
            author="Ada",
            note="räm",
        )
        transaction.alerts.apply([judged, judged])
        other = make_transition(run_id, alert_id="a2", opened_step=200, last_step=200, verdict=Verdict.RIGHT)
        transaction.alerts.apply([other])
    with database.read() as transaction:
        alert = transaction.alerts.get("a1")
        assert (alert.told, alert.silenced_by, alert.verdict) == (Severity.NONE, "", Verdict.WRONG)
        first, second = transaction.alerts.history("a1")
        assert (first.author, second.author, second.note) == ("", "Ada", "räm")
        (found,) = transaction.alerts.precision()
        assert (found.project, found.right, found.wrong) == ("mt", 1, 1)
