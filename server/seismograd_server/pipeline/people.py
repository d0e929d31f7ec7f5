"""What people do: take an alert on, say whether it was right, ask not to be told of something, delete a run.

Each is one transaction of its own, beside the pipeline's: that reads alerts and silences from the store whenever it
changes one, and so finds what people have done.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from seismograd_server.alerts import lifecycle
from seismograd_server.errors import ConflictError, UsageError
from seismograd_server.model import Alert, RunKey, RunState, Silence, Transition, Verdict
from seismograd_server.pipeline.judging import OutboxEntries
from seismograd_server.store.database import Database, Transaction

# Long enough for any holiday; a silence that nobody remembers hides the next explosion.
LONGEST_SILENCE_SECONDS = 90 * 86_400.0
_LONGEST_TEXT = 500  # of a note, a reason, a pattern
_LONGEST_NAME = 200


class People:
    """From any thread; blocks."""

    def __init__(self, database: Database, entries_for: OutboxEntries, clock: Callable[[], float]) -> None:
        self._database = database
        self._entries_for = entries_for
        self._clock = clock

    def acknowledge(self, alert_id: str, by: str, note: str = "") -> Alert:
        """Somebody has taken an alert on; the first one stays. If its run is over, that lays it to rest.

        Raises:
            NotFoundError: there is no such alert.
            ConflictError: it does not fire, and nobody acknowledged it while it did.
            UsageError: a name or a note that cannot be kept.
            StorageError: nothing has been changed.
        """
        person, note = _name(by), _text(note, "note")
        now = self._clock()
        with self._database.begin() as transaction:
            alert = transaction.alerts.get(alert_id)
            change = lifecycle.acknowledge(alert, person, transaction.runs.by_id(alert.run_id), now, note)
            if change is None and not alert.acknowledged_by:
                raise ConflictError(f"alert {alert_id} is {alert.state.value}: only what fires can be acknowledged")
            return self._store(transaction, alert, change, now)

    def judge(self, alert_id: str, verdict: Verdict, by: str, note: str = "") -> Alert:
        """Somebody says whether an alert was right; the last word counts.

        Raises:
            NotFoundError: there is no such alert.
            UsageError: a name or a note that cannot be kept.
            StorageError: nothing has been changed.
        """
        person, note = _name(by), _text(note, "note")
        now = self._clock()
        with self._database.begin() as transaction:
            alert = transaction.alerts.get(alert_id)
            return self._store(transaction, alert, lifecycle.judge(alert, verdict, person, now, note), now)

    def silence(self, wanted: Silence, seconds: float) -> Silence:
        """Begin a silence now, for so long; its id and its times are given to it here.

        Raises:
            UsageError: it is about everything, lasts too long or not at all, or has a text that cannot be kept.
            StorageError: nothing has been changed.
        """
        if not wanted.project and not wanted.run and wanted.signature is None:
            raise UsageError("silence: say of what: a project, a run (its name or a pattern), or a signature")
        if not 0 < seconds <= LONGEST_SILENCE_SECONDS:
            raise UsageError(
                f"seconds: {seconds:,.0f} is none of 1 to {LONGEST_SILENCE_SECONDS:,.0f}, which are 90 days"
            )
        now = self._clock()
        silence = replace(
            wanted,
            silence_id=secrets.token_hex(12),
            author=_name(wanted.author),
            reason=_text(wanted.reason, "reason"),
            project=_text(wanted.project, "project"),
            run=_text(wanted.run, "run"),
            created_at=now,
            expires_at=now + seconds,
            ended_by="",
        )
        with self._database.begin() as transaction:
            transaction.silences.add(silence)
        return silence

    def end_silence(self, silence_id: str, by: str) -> Silence:
        """End a silence now; what it covers and still fires is told within seconds.

        Raises:
            NotFoundError: there is no such silence.
            UsageError: a name that cannot be kept.
            StorageError: nothing has been changed.
        """
        person = _name(by)
        with self._database.begin() as transaction:
            return transaction.silences.end(silence_id, person, self._clock())

    def delete_part(self, key: RunKey, most_bytes: int) -> bool:
        """Delete a run that is over, about so many bytes of it or what is left; tell whether there is more.

        Who has heard of its alerts hears that they are over: nobody could lay them to rest any more.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it is still running.
            StorageError: nothing has been changed.
        """
        now = self._clock()
        with self._database.begin() as transaction:
            run = transaction.runs.get(key)
            if run.state is RunState.RUNNING:
                raise ConflictError(
                    f"run {key} is still running: stop it first (a run that fell silent is `lost` a little later)"
                )
            if transaction.runs.delete_part(run.run_id, most_bytes):
                return True
            last_words = lifecycle.withdraw(transaction.alerts.open_for_run(run.run_id), now)
            transaction.runs.delete(run.run_id)  # and with it what is still to be told of its alerts
            for change in last_words:
                if change.notify:
                    transaction.outbox.add(self._entries_for(change, now))
            return False

    def _store(self, transaction: Transaction, alert: Alert, change: Transition | None, now: float) -> Alert:
        if change is None:
            return alert
        transaction.alerts.apply([change])
        if change.notify:
            transaction.outbox.add(self._entries_for(change, now))
        return change.alert


def _name(text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= _LONGEST_NAME or not _is_storable(name):
        raise UsageError(f"by: say who you are, in at most {_LONGEST_NAME} characters")
    return name


def _text(text: str, field: str) -> str:
    kept = text.strip()
    if len(kept) > _LONGEST_TEXT or not _is_storable(kept):
        raise UsageError(f"{field}: is a text of at most {_LONGEST_TEXT} characters")
    return kept


def _is_storable(text: str) -> bool:
    """Whether every kind of database takes it: PostgreSQL knows no NUL, and a lone surrogate is no UTF-8."""
    return "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text)
