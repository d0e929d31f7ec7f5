"""A disk under the server that is full, fails or is slow: records are refused with a time to come back, never lost."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.lives import Life, Lives, lives
from tests.faults.outcome import Outcome
from tests.faults.shipping import RUNS, Shipper, ship_all, shippers
from tests.faults.test_server_killed import server_lives, unharmed, what_came_of_it
from tests.support.processes import eventually, miss, require_program

__all__ = ["server_lives", "unharmed"]  # fixtures, used by name


@pytest.fixture
def failing_lives() -> Iterator[Lives]:
    """Servers whose system calls can be made to fail."""
    with lives(require_program("fiu-run", "fiu-utils"), "-x") as started:
        yield started


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the runs, and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False).returncode:
        miss("no small disk can be mounted: needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def ready(life: Life) -> bool:
    return httpx.get(f"http://127.0.0.1:{life.http_port}/readyz", trust_env=False).status_code == 200


def value_of(life: Life, metric: str) -> float:
    page = httpx.get(f"http://127.0.0.1:{life.http_port}/metrics", trust_env=False).text
    return float(next(line for line in page.splitlines() if line.startswith(metric + " ")).split()[1])


def refused(fleet: list[Shipper]) -> list[str]:
    return [reason for shipper in fleet for reason in shipper.refusals]


def ship_until_done(fleet: list[Shipper], life: Life) -> None:
    """One server's life until everything is acknowledged, or until it gives up."""
    while not life.ended.is_set() and not all(shipper.done for shipper in fleet):
        ship_all(fleet, life.port)


def end(life: Life, fleet: list[Shipper]) -> None:
    """Kill the server once it has judged everything; a disk that fails can make it try more than once."""

    def judged() -> bool:
        runs = httpx.get(f"http://127.0.0.1:{life.http_port}/api/v1/runs", trust_env=False).json()["runs"]
        return [run["state"] for run in runs] == ["finished"] * len(RUNS)

    eventually(judged, 60, "every run has been judged to its end")
    life.kill()
    life.wait()
    assert not any(shipper.lost for shipper in fleet)


def test_a_full_disk_refuses_and_says_so_until_there_is_room_again(
    server_lives: Lives, unharmed: Outcome, small_disk: Path
) -> None:
    fleet = shippers(1)
    life = server_lives.start(small_disk / "data")
    assert ready(life)
    connection = sqlite3.connect(small_disk / "data" / "seismograd.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # no room in the write-ahead log either
    connection.close()
    filler = small_disk / "of-somebody-else"
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))

    ship_all(fleet, life.port)

    assert not any(shipper.done for shipper in fleet)
    assert all("the disk is full: free some space" in reason for reason in refused(fleet))
    assert refused(fleet)
    assert not ready(life)
    assert value_of(life, "seismograd_storage_writable") == 0
    filler.unlink()
    eventually(lambda: ready(life), 15, "the server is ready again by itself, with nobody sending")
    assert value_of(life, "seismograd_storage_writable") == 1
    ship_until_done(fleet, life)
    end(life, fleet)
    assert what_came_of_it(small_disk / "data") == unharmed


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_writes_that_fail_now_and_then_are_refused_and_nothing_is_lost_without_a_restart(
    failing_lives: Lives, unharmed: Outcome, tmp_path: Path, number: int
) -> None:
    fleet = shippers(2)
    life = failing_lives.start(tmp_path, failures={"posix/io/rw/pwrite": (number, 1.0)})

    ship_until_done(fleet, life)

    assert refused(fleet)
    assert not life.ended.is_set(), "the same server all the time"
    end(life, fleet)
    assert what_came_of_it(tmp_path) == unharmed


def test_a_server_whose_disk_fails_to_sync_exits_and_the_next_one_has_all_that_was_acknowledged(
    failing_lives: Lives, unharmed: Outcome, tmp_path: Path
) -> None:
    fleet = shippers(3)
    exits: list[int] = []
    while not all(shipper.done for shipper in fleet):
        # The first never gets a commit through; chance alone may let a later one go on to the end.
        failure = (errno.EIO, 0.2 if exits else 1.0)
        life = failing_lives.start(tmp_path, failures={"posix/io/sync/fdatasync": failure}, durability="power")
        if life.port:
            ship_until_done(fleet, life)
        life.kill()
        exits.append(life.wait())

    assert exits[0] == 1, f"it gives up by itself: a second try could succeed without having written: {exits}"
    end(failing_lives.start(tmp_path), fleet)
    assert what_came_of_it(tmp_path) == unharmed


def test_a_slow_disk_delays_acks_and_loses_nothing(server_lives: Lives, unharmed: Outcome, tmp_path: Path) -> None:
    fleet = shippers(4)
    delays = {"ingest.before_commit": 0.3, "detect.before_commit": 0.2}
    life = server_lives.start(tmp_path, delays=delays, max_inflight_bytes=2**20)

    ship_until_done(fleet, life)

    assert not refused(fleet), "slow is not full"
    end(life, fleet)
    assert what_came_of_it(tmp_path) == unharmed
