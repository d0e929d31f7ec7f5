"""The pipeline on PostgreSQL: it finds what it finds on SQLite, whatever answers get lost and whoever dies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import psycopg
import pytest
from sqlalchemy import Connection, event

from seismograd_server.errors import StorageUncertainError
from seismograd_server.store.database import Database
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms, new_pipeline, outline

STEPS = 200
PIECE = 20
# Where it happens: in the middle of the explosion.
AT = 140
Outcome = tuple[list[Any], list[int], list[float]]


class Machine:
    """One database, and the servers on it, one after the other."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self._url = url
        self._stack = stack
        self.database = stack.enter_context(Database.open(url, owner="test"))
        self.run = SyntheticRun(
            new_pipeline(self.database), norms=exploding_norms(STEPS, AT), losses=exploding_losses(STEPS, AT)
        ).open()

    def live(self, disturb: Callable[[Machine, int, float], None] = lambda machine, first, now: None) -> Outcome:  # noqa: ARG005 (nothing happens)
        """Send and judge every record, and say what has come of it."""
        for first in range(0, STEPS, PIECE):
            now = NOW + 10.0 * first
            if first == AT:
                disturb(self, first, now)
            self.run.send(first, first + PIECE, now)
            self.run.pipeline.detect(now)
        self.run.close(NOW + 10.0 * STEPS)
        return self.outcome()

    def die(self, now: float) -> None:
        """The server is gone; another one opens the database, and the clients open their run again."""
        self.database.close()
        self.database = self._stack.enter_context(Database.open(self._url, owner="next"))
        self.run.pipeline = new_pipeline(self.database, now)
        self.run.open(now)

    def lose_an_answer(self, *, took_effect: bool) -> None:
        """The next commit is not answered; it has happened all the same, or never will."""
        engine = self.database._backend.writer

        def lose(connection: Connection) -> None:
            event.remove(engine, "commit", lose)
            driver: Any = connection.connection.dbapi_connection
            if took_effect:
                driver.execute("COMMIT")
            with psycopg.connect(driver.info.dsn, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [driver.info.backend_pid])
            driver.execute("SELECT 1")

        event.listen(engine, "commit", lose)

    def outcome(self) -> Outcome:
        with self.database.read() as transaction:
            (run,) = transaction.runs.list()
            chunks = list(transaction.steps.read(run.run_id, 0, all_branches=True))
            (launch,) = transaction.runs.launches(run.run_id)
            batches = [batch for _, batch in transaction.segments.read(launch.launch_row, 0)]
            for rank in range(2):
                own = [batch.steps for batch in batches if batch.rank_handle == self.run.handle(rank)]
                assert np.concatenate(own).tolist() == list(range(STEPS)), "each record once"
        steps = [step for chunk in chunks for step in chunk.steps.tolist()]
        return outline(self.database), steps, [norm for chunk in chunks for norm in chunk.global_norm.tolist()]


@pytest.fixture
def undisturbed(store_url: Callable[[str], str]) -> Outcome:
    """What comes of it on SQLite when nothing happens."""
    with ExitStack() as stack:
        outcome = Machine(store_url("sqlite"), stack).live()
    assert "runaway" in str(outcome[0])
    assert outcome[1] == list(range(STEPS))
    return outcome


def lose_an_acknowledgement(took_effect: bool) -> Callable[[Machine, int, float], None]:
    def disturb(machine: Machine, first: int, now: float) -> None:
        machine.lose_an_answer(took_effect=took_effect)
        with pytest.raises(StorageUncertainError):
            machine.run.send(first, first + PIECE, now)

    return disturb


def lose_a_judgement(took_effect: bool) -> Callable[[Machine, int, float], None]:
    def disturb(machine: Machine, first: int, now: float) -> None:
        machine.run.send(first, first + 10, now)
        machine.lose_an_answer(took_effect=took_effect)
        machine.run.pipeline.detect(now)
        machine.run.pipeline.detect(now + 2.0)

    return disturb


def die_unjudged(machine: Machine, first: int, now: float) -> None:
    machine.run.send(first, first + 10, now)
    machine.die(now + 1.0)


DISTURBANCES: dict[str, Callable[[Machine, int, float], None]] = {
    "nothing happens": lambda machine, first, now: None,  # noqa: ARG005 (as it says)
    "records are stored but not acknowledged": lose_an_acknowledgement(True),
    "records are neither stored nor acknowledged": lose_an_acknowledgement(False),
    "a judgement is stored and nobody knows": lose_a_judgement(True),
    "a judgement is not stored and nobody knows": lose_a_judgement(False),
    "the server dies before it has judged": die_unjudged,
}
Version = Literal["postgresql-15", "postgresql-18"]


@pytest.mark.parametrize("happening", DISTURBANCES)
def test_the_same_steps_and_alerts_come_of_it_whatever_happens(
    store_url: Callable[[str], str], undisturbed: Outcome, happening: str
) -> None:
    kind: Version = "postgresql-15" if happening == "the server dies before it has judged" else "postgresql-18"
    with ExitStack() as stack:
        assert Machine(store_url(kind), stack).live(DISTURBANCES[happening]) == undisturbed
