"""What is PostgreSQL's own: a server that goes away and comes back, its locks, its partitions, its passwords."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import structlog
from sqlalchemy import text, update
from sqlalchemy.exc import SQLAlchemyError

from seismograd_server.errors import (
    StartError,
    StorageBusyError,
    StorageError,
    StorageFencedError,
    StorageUncertainError,
)
from seismograd_server.model import RankIdentity, StepBatch
from seismograd_server.store import postgresql_tenure as tenure_module
from seismograd_server.store.database import Database
from seismograd_server.store.schema import server_epoch
from tests.support.postgresql import Cluster, PostgresqlVersion
from tests.support.processes import eventually

Identities = Callable[..., RankIdentity]
Batches = Callable[..., StepBatch]


@pytest.fixture
def cluster(postgresql_cluster: Callable[[PostgresqlVersion], Cluster]) -> Cluster:
    return postgresql_cluster("18")


@pytest.fixture
def url(store_url: Callable[[str], str]) -> str:
    return store_url("postgresql-18")


@pytest.fixture
def opened(url: str) -> Iterator[Database]:
    with Database.open(url, owner="test") as database:
        yield database


def open_rank(database: Database, identity: RankIdentity) -> int:
    with database.begin() as transaction:
        return transaction.runs.open_rank(identity, now=1.0).rank.handle


def sessions_of(cluster: Cluster, url: str, *, state: str = "%") -> list[int]:
    with cluster.connect() as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND state LIKE %s"
        return [pid for (pid,) in connection.execute(query, [Cluster.name_of(url), state])]


def end(cluster: Cluster, pids: list[int]) -> None:
    with cluster.connect() as connection:
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def test_without_its_driver_postgresql_is_refused_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StartError, match=re.escape('pip install "seismograd[cluster]"')):
        Database.open("postgresql://localhost/db", owner="test")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("postgresql://ada:hunter2@/postgres?host={}", "password authentication failed"),
        ("postgresql://ada:hunter2@/missing?host={}", "password authentication failed"),
        ("postgresql://ada:hunter2@/postgres?host={}/nowhere", "does not answer"),
    ],
)
def test_no_error_shows_a_password(given: str, message: str, own_postgresql: Cluster) -> None:
    with own_postgresql.connect() as connection:
        connection.execute("CREATE USER ada PASSWORD 'other'")
    access = own_postgresql.directory / "data" / "pg_hba.conf"
    access.write_text(f"local all ada scram-sha-256\n{access.read_text()}")
    with own_postgresql.connect() as connection:
        connection.execute("SELECT pg_reload_conf()")

    with pytest.raises(StartError, match=message) as caught:
        Database.open(given.format(own_postgresql.directory), owner="test")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_commit_is_flushed_whatever_the_databases_own_settings_say(url: str, cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute(f'ALTER DATABASE "{Cluster.name_of(url)}" SET synchronous_commit = off')

    with Database.open(url, owner="test") as database, database.begin() as transaction:
        assert transaction.connection.scalar(text("SHOW synchronous_commit")) == "on"


def test_durability_power_is_refused_where_nothing_is_flushed(url: str) -> None:
    with pytest.raises(StartError, match=r'durability = "power" needs fsync = on'):
        Database.open(url, owner="test", durability="power")


def test_after_postgresql_was_killed_the_next_transaction_goes_through(
    own_postgresql: Cluster, make_identity: Identities, make_batch: Batches
) -> None:
    with Database.open(own_postgresql.new_database(), owner="test") as database:
        handle = open_rank(database, make_identity())
        with database.begin() as transaction:
            transaction.segments.append([make_batch(handle, 0)], received_at=1.0)
        own_postgresql.kill()
        with pytest.raises(StorageBusyError, match="it does not answer: is PostgreSQL running"):
            open_rank(database, make_identity())
        with pytest.raises(StorageBusyError, match="it does not answer"), database.read():
            pass
        own_postgresql.start()

        with database.begin() as transaction:
            transaction.segments.append([make_batch(handle, 4)], received_at=1.0)
        with database.read() as transaction:
            (intervals,) = transaction.segments.received([handle]).values()
            assert list(intervals) == [(0, 8)]


def test_a_connection_that_is_lost_inside_a_transaction_leaves_nothing_of_it(
    opened: Database, url: str, cluster: Cluster, make_identity: Identities
) -> None:
    def lose_it() -> None:
        with opened.begin() as transaction:
            transaction.runs.open_rank(make_identity(), now=1.0)
            end(cluster, sessions_of(cluster, url, state="idle in transaction"))
            transaction.runs.list()

    with pytest.raises(StorageBusyError) as caught:
        lose_it()
    assert not isinstance(caught.value, StorageUncertainError)

    with opened.read() as transaction:
        assert transaction.runs.list() == []
    assert open_rank(opened, make_identity()) > 0


def test_a_connection_that_is_lost_at_the_commit_leaves_the_matter_open(
    opened: Database, url: str, cluster: Cluster, make_identity: Identities
) -> None:
    def lose_it() -> None:
        with opened.begin() as transaction:
            transaction.runs.open_rank(make_identity(), now=1.0)
            end(cluster, sessions_of(cluster, url, state="idle in transaction"))

    with pytest.raises(StorageUncertainError, match="the connection was lost during a commit"):
        lose_it()

    with opened.read() as transaction:
        assert transaction.runs.list() == [], "here it had no effect; a commit that has one looks the same"


def test_what_reads_after_an_uncertain_commit_waits_for_its_end(opened: Database, url: str, cluster: Cluster) -> None:
    owners: list[str] = []

    def read() -> None:
        with opened.read() as transaction:
            owners.append(transaction.connection.scalars(text("SELECT owner FROM server_epoch")).one())

    with pytest.raises(StorageUncertainError), opened.begin():
        end(cluster, sessions_of(cluster, url, state="idle in transaction"))
    # Whoever holds the epoch's row is the transaction whose answer was lost: it is not over yet.
    with psycopg.connect(host=str(cluster.directory), user="postgres", dbname=Cluster.name_of(url)) as zombie:
        zombie.execute("SELECT epoch FROM server_epoch FOR UPDATE")
        zombie.execute("UPDATE server_epoch SET owner = 'the zombie'")
        reader = threading.Thread(target=read)
        reader.start()
        eventually(lambda: waiting_in(cluster), 10, "the reader waits for the row")
        zombie.commit()
    reader.join(timeout=10)
    assert owners == ["the zombie"]


def waiting_in(cluster: Cluster) -> bool:
    with cluster.connect() as connection:
        return connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() != (0,)


def test_nobody_is_told_that_a_transaction_is_stored_in_which_a_statement_failed(opened: Database) -> None:
    def swallow_an_error() -> None:
        with opened.begin() as transaction, contextlib.suppress(SQLAlchemyError):
            transaction.connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(StorageBusyError, match="nothing of it has been stored"):
        swallow_an_error()


@pytest.mark.parametrize(
    ("code", "message", "passes"),
    [
        ("53100", "the disk of PostgreSQL is full: free some space", True),
        ("53200", "memory of PostgreSQL is exhausted", True),
        ("40P01", "came into the way of another one", True),
        ("57014", "a statement took too long", True),
        ("58030", "the disk of PostgreSQL failed", False),
        ("XX001", "it is damaged", False),
        ("42501", "the user lacks a privilege", False),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(
    opened: Database, make_identity: Identities, code: str, message: str, passes: bool
) -> None:
    failing = text(f"DO $$ BEGIN RAISE EXCEPTION 'it happened' USING ERRCODE = '{code}'; END $$")
    with pytest.raises(StorageError, match=message) as caught, opened.begin() as transaction:
        transaction.connection.execute(failing)
    assert isinstance(caught.value, StorageBusyError) == passes

    assert open_rank(opened, make_identity()) > 0, "the server goes on in either case"


def test_a_replica_is_left_and_the_primary_found(
    opened: Database, url: str, cluster: Cluster, make_identity: Identities
) -> None:
    with cluster.connect() as connection:
        connection.execute(f'ALTER DATABASE "{Cluster.name_of(url)}" SET default_transaction_read_only = on')
        end(cluster, sessions_of(cluster, url))
        with pytest.raises(StorageBusyError, match="it is read-only: connect to the primary"):
            open_rank(opened, make_identity())
        connection.execute(f'ALTER DATABASE "{Cluster.name_of(url)}" RESET default_transaction_read_only')

    assert open_rank(opened, make_identity()) > 0


def test_a_text_with_the_character_nul_is_stored_with_a_mark_in_its_place(
    opened: Database, make_identity: Identities
) -> None:
    handle = open_rank(opened, make_identity())
    with opened.begin() as transaction:
        assert transaction.runs.close_rank(handle, "failed", "segfault\0in malloc", now=2.0).reason == (
            "segfault\N{REPLACEMENT CHARACTER}in malloc"
        )


def test_large_tables_are_spread_by_run_and_read_in_one_part(
    opened: Database, make_identity: Identities, make_batch: Batches
) -> None:
    handles = [open_rank(opened, make_identity(f"run-{number}")) for number in range(40)]
    with opened.begin() as transaction:
        transaction.segments.append([make_batch(handle) for handle in handles], received_at=1.0)
        spread = transaction.connection.execute(
            text("SELECT tableoid::regclass::text AS part, count(DISTINCT launch_row) FROM segments GROUP BY 1")
        ).all()
        plan = transaction.connection.scalars(
            text("EXPLAIN SELECT payload FROM segments WHERE launch_row = 1 AND optimizer = 0 AND kind = 1")
        ).all()
    assert len(spread) > 8
    assert max(launches for _, launches in spread) < 10
    assert len(set(re.findall(r"segments_p\d\d", " ".join(plan)))) == 1


def holders_of(cluster: Cluster, url: str) -> list[int]:
    """The sessions that have the lock of the database: one or none."""
    with cluster.connect(Cluster.name_of(url)) as connection:
        query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = %s"
        return [pid for (pid,) in connection.execute(query, [tenure_module._KEY])]


def test_a_server_whose_session_is_lost_holds_the_database_again(
    opened: Database, url: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure_module, "_BEAT_SECONDS", 0.02)
    opened.watch(lambda error: pytest.fail(str(error)))
    end(cluster, sessions_of(cluster, url))

    eventually(lambda: holders_of(cluster, url), 10, "the lock is held again")
    with pytest.raises(StartError, match="is in use by"):
        Database.open(url, owner="second")


def test_a_server_asks_for_the_lock_until_the_session_that_still_has_it_is_gone(
    opened: Database, url: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure_module, "_BEAT_SECONDS", 0.02)
    lost = holders_of(cluster, url)

    def told(lines: list[Any], event: str) -> int:
        return sum(line["event"].startswith(event) for line in lines)

    # Whoever queues for the lock has it at once when the server's session ends: as if that session lingered.
    with cluster.connect(Cluster.name_of(url)) as lingering, structlog.testing.capture_logs() as lines:
        take = f"SELECT pg_advisory_lock({tenure_module._THE_KEY})"
        queue = threading.Thread(target=lingering.execute, args=(take,))
        queue.start()
        eventually(lambda: waiting_in(cluster), 10, "it waits for the lock")
        opened.watch(lambda error: pytest.fail(str(error)))
        end(cluster, lost)
        queue.join(timeout=10)
        assert holders_of(cluster, url) == [lingering.info.backend_pid]
        eventually(lambda: told(lines, "the lock of the database is not free"), 10, "the server has found it taken")
        assert told(lines, "the database is held again") == 0

        lingering.execute("SELECT pg_advisory_unlock_all()")
        (holder,) = eventually(lambda: holders_of(cluster, url), 10, "the lock is held again")
        assert holder not in [*lost, lingering.info.backend_pid]
        eventually(lambda: told(lines, "the database is held again"), 10, "the server says so")
        opened.close()  # nothing is logged by it from here on
    counts = [told(lines, event) for event in ("the hold on", "the lock of the database", "the database is held")]
    assert counts == [1, 1, 1], "each is said once"


def test_a_server_that_writes_nothing_is_told_all_the_same_that_it_was_replaced(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure_module, "_BEAT_SECONDS", 0.02)
    told: list[StorageError] = []
    opened.watch(told.append)
    with opened.begin() as transaction:
        transaction.connection.execute(update(server_epoch).values(epoch=server_epoch.c.epoch + 1))

    (error,) = eventually(lambda: told, 10, "it is told")
    assert isinstance(error, StorageFencedError)
    assert "this server must exit" in str(error)
