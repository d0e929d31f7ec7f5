"""SIGKILLs of the server at named points and at random moments, while several clients ship to it.

Nothing acknowledged is lost, nothing is counted twice, and what comes of it is what would have come of it undisturbed.

`make prove` has a thousand kills, and prints the line that the README carries.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from seismograd_server.store.database import Database
from tests.faults.lives import Lives, lives
from tests.faults.outcome import Outcome, outcome_in
from tests.faults.shipping import STEPS, Shipper, ship_all, shippers
from tests.support.processes import eventually
from tests.support.reading import Stocked
from tests.support.synthetic import new_pipeline

KILLS = int(os.environ.get("SEISMOGRAD_KILLS", "50"))
# Between them, moments at random: from the birth of the process on, so that starting is under the axe too.
CHORES = ("ingest", "compact", "detect", "summarise", "retention")
POINTS = tuple(f"{chore}.{moment}" for moment in ("before_commit", "after_commit") for chore in CHORES)
GOLDEN = Path(__file__).parents[1] / "golden" / "store_revision_1.sqlite"
_LONGEST_LIFE = 0.9


@pytest.fixture(scope="module")
def server_lives() -> Iterator[Lives]:
    with lives() as started:
        yield started


@pytest.fixture(scope="module")
def unharmed(server_lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What comes of the runs when nobody is killed."""
    folder = tmp_path_factory.mktemp("unharmed")
    fleet = shippers(0)
    life = server_lives.start(folder)
    ship_all(fleet, life.port)
    life.kill()
    life.wait()
    assert all(shipper.done and not shipper.lost for shipper in fleet)
    outcome = what_came_of_it(folder)
    assert "runaway" in str(outcome)
    return outcome


def what_came_of_it(folder: Path) -> Outcome:
    """The outcome in a data directory whose database is sound."""
    path = folder / "seismograd.db"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return outcome_in(f"sqlite:///{path}")


def how_to_die(number: int, chance: random.Random, *, migrates: bool) -> dict[str, Any]:
    """Every second kill at a moment at random, the others at the named points in turn, or within a migration."""
    if number % 2:
        return {"kill_after": chance.uniform(0.0, _LONGEST_LIFE)}
    if migrates:
        return {"point": "statement", "hit": chance.randint(1, 40)}
    return {"point": POINTS[number // 2 % len(POINTS)], "hit": chance.randint(1, 3)}


def stock(folder: Path) -> None:
    """Put runs of long ago into a data directory, for retention to delete while others ship."""
    folder.mkdir()
    with Database.open(f"sqlite:///{folder / 'seismograd.db'}", owner="test") as database:
        store = Stocked(database, new_pipeline(database))
        for number in range(4):
            store.add(f"old-{number}", steps=300)


@pytest.mark.timeout(120 + 6 * KILLS)
def test_whatever_the_server_was_doing_when_it_was_killed_nothing_acknowledged_is_lost_or_counted_twice(
    server_lives: Lives, unharmed: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(KILLS)
    kills, acknowledged, lost, at_points, reached = 0, 0, 0, 0, set[str]()
    stock(tmp_path / "stocked")
    for generation in itertools.count():
        # In turn there are runs to be deleted, and a database to be migrated.
        folder = tmp_path / str(generation)
        folder.mkdir()
        if generation % 2:
            shutil.copyfile(GOLDEN, folder / "seismograd.db")
        else:
            shutil.copyfile(tmp_path / "stocked" / "seismograd.db", folder / "seismograd.db")
        fleet: list[Shipper] = shippers(generation)
        while not all(shipper.done for shipper in fleet):
            death = how_to_die(kills, chance, migrates=_revision(folder) == "0001")
            life = server_lives.start(folder, retention={"keep_days": 30}, **death)
            if life.port:
                ship_all(fleet, life.port)
            life.kill()
            assert life.wait() == -9, "killed, and by nothing else"
            kills += 1
            at_points += bool(life.died_at)
            reached.add(life.died_at.partition(".")[0])
        acknowledged += sum(shipper.journal for shipper in fleet)
        lost += sum(shipper.lost for shipper in fleet)
        assert what_came_of_it(folder) == unharmed
        if kills >= KILLS and reached >= {*CHORES, "statement"}:
            break
    with capsys.disabled():
        print(f"\n{kills} kills, {acknowledged:,} acknowledged, {lost} lost ({at_points} kills at named points)")
    assert lost == 0
    assert acknowledged == len(fleet) * STEPS * (generation + 1)
    assert at_points > kills / 4


def test_retention_that_is_killed_between_any_two_pieces_deletes_what_must_go_and_nothing_else(
    server_lives: Lives, unharmed: Outcome, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    stock(folder)
    fleet = shippers(0)
    chance = random.Random(3)
    for number in range(8):
        point = ("retention.before_commit", "retention.after_commit")[number % 2]
        life = server_lives.start(folder, point=point, hit=chance.randint(1, 3), retention={"keep_days": 30})
        if life.port:
            ship_all(fleet, life.port)
        if not all(shipper.done for shipper in fleet):
            assert life.wait() == -9
        life.kill()
        life.wait()
    life = server_lives.start(folder, retention={"keep_days": 30})
    ship_all(fleet, life.port)
    runs = f"http://127.0.0.1:{life.http_port}/api/v1/runs"
    eventually(lambda: len(httpx.get(runs, trust_env=False).json()["runs"]) == 2, 30, "every old run is gone")
    life.kill()
    life.wait()

    assert not any(shipper.lost for shipper in fleet)
    assert what_came_of_it(folder) == unharmed


def test_a_compaction_that_is_killed_at_every_commit_keeps_every_record_once(
    server_lives: Lives, unharmed: Outcome, tmp_path: Path
) -> None:
    fleet = shippers(0)
    life = server_lives.start(tmp_path)
    ship_all(fleet, life.port)
    kills = 0
    while life.died_at or not kills:
        life.kill()
        life.wait()
        # Long after the last piece, a life ends by the clock.
        point = ("compact.before_commit", "compact.after_commit")[kills % 2]
        life = server_lives.start(tmp_path, point=point, hit=1, kill_after=5.0)
        assert life.wait() == -9
        kills += 1
        assert kills < 100
    assert kills > 4
    assert what_came_of_it(tmp_path) == unharmed


def test_a_migration_that_is_killed_at_any_statement_is_done_by_the_next_start(
    server_lives: Lives, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "seismograd.db"
    path.parent.mkdir()
    for hit in itertools.count(1, 3):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        shutil.copyfile(GOLDEN, path)
        before = runs_of(path)
        life = server_lives.start(path.parent, point="statement", hit=hit)
        if life.port:
            break
        assert life.wait() == -9
        assert life.died_at == "statement"
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        life = server_lives.start(path.parent)
        assert life.port, "it starts"
        life.kill()
        life.wait()
        assert runs_of(path) == before
    life.kill()
    life.wait()
    assert hit > 10


def _revision(folder: Path) -> str:
    """The schema revision of the database in a data directory."""
    connection = sqlite3.connect(folder / "seismograd.db")
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return str(revision)


def runs_of(path: Path) -> list[tuple[Any, ...]]:
    """The names of the runs in a database of any revision, and how much there is of each."""
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT project, run, (SELECT count(*) FROM segments JOIN launches USING (launch_row) "
        "WHERE launches.run_id = runs.run_id) FROM runs ORDER BY run_id"
    ).fetchall()
    connection.close()
    return rows
