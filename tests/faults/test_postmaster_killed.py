"""SIGKILLs of PostgreSQL, the postmaster and every process of it, while clients ship to a server that lives on.

Nothing acknowledged is lost, nothing is stored twice, and what comes of it is what would have come of it undisturbed:
commits whose answer was lost are looked up, and the server finds its database again by itself.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.faults.lives import Lives, lives
from tests.faults.outcome import outcome_in
from tests.faults.shipping import RUNS, STEPS, Shipper, ship_all, shippers
from tests.support.postgresql import Cluster
from tests.support.processes import eventually

KILLS = int(os.environ.get("SEISMOGRAD_POSTMASTER_KILLS", "5"))
# Between two kills: long enough for PostgreSQL to come back and take some records, short enough to hit one generation
# of clients several times.
_LONGEST_LIFE = 0.8
# A client whose server says UNAVAILABLE comes back after this.
_RETRY_SECONDS = 0.02
# Kills are scattered over generations of clients; this one has taken far too long.
_GENERATION_SECONDS = 60.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster.make("18", stack, fsync="on")


@pytest.fixture
def server_lives() -> Iterator[Lives]:
    with lives() as started:
        yield started


@pytest.mark.timeout(120 + 6 * KILLS)
def test_whatever_postgresql_was_doing_when_it_was_killed_nothing_acknowledged_is_lost_or_stored_twice(
    cluster: Cluster, server_lives: Lives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(KILLS)
    kills, acknowledged, lost = 0, 0, 0
    outcomes = set()
    for generation in itertools.count():
        url, fleet = cluster.new_database(), shippers(generation)
        life = server_lives.start(tmp_path / str(generation), database_url=url)
        clients = threading.Thread(target=ship_until_done, args=(fleet, life.port))
        clients.start()
        # The first generation is left in peace: the others must come to the same.
        while generation and clients.is_alive() and kills < KILLS:
            time.sleep(chance.uniform(0.05, _LONGEST_LIFE))  # moments at random are what this is about
            cluster.kill()
            kills += 1
            cluster.start()
        clients.join(_GENERATION_SECONDS)
        assert all(shipper.done for shipper in fleet)
        assert not life.ended.is_set(), "the server lives through all of it"
        eventually(partial(all_runs_are_over, cluster, url), 30, "every run has been judged to its end")
        life.kill()
        life.wait()
        acknowledged += sum(shipper.journal for shipper in fleet)
        lost += sum(shipper.lost for shipper in fleet)
        outcomes.add(repr(outcome_in(url)))
        if kills >= KILLS:
            break
    with capsys.disabled():
        print(f"\n{kills} kills of PostgreSQL, {acknowledged:,} acknowledged, {lost} lost")
    assert lost == 0
    assert acknowledged == len(fleet) * STEPS * (generation + 1)
    assert len(outcomes) == 1
    assert "runaway" in outcomes.pop()


def all_runs_are_over(cluster: Cluster, url: str) -> bool:
    with cluster.connect(Cluster.name_of(url)) as connection:
        query = "SELECT count(*) FROM runs WHERE state = 'finished'"
        return connection.execute(query).fetchone() == (len(RUNS),)


def ship_until_done(fleet: list[Shipper], port: int) -> None:
    deadline = time.monotonic() + _GENERATION_SECONDS
    while not all(shipper.done for shipper in fleet) and time.monotonic() < deadline:
        ship_all(fleet, port)
        time.sleep(_RETRY_SECONDS)
