"""Backups of a database that is being written to, and what stands in the way of putting one in its place."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seismograd_server.errors import (
    ConflictError,
    NotFoundError,
    StartError,
    StorageError,
    StorageFencedError,
    UsageError,
)
from seismograd_server.model import RankIdentity, StepBatch
from seismograd_server.store import backup as backups
from seismograd_server.store.backup import back_up, check, restore
from seismograd_server.store.database import Database


def unheard(done: int, total: int) -> None:
    """Nobody watches the progress."""


@pytest.fixture
def filled(
    database_path: Path, make_identity: Callable[..., RankIdentity], make_batch: Callable[..., StepBatch]
) -> Path:
    """A database with one run of 2,000 records."""
    with Database.open(f"sqlite:///{database_path}", owner="test") as database, database.begin() as transaction:
        handle = transaction.runs.open_rank(make_identity(), now=1.0).rank.handle
        transaction.segments.append([make_batch(handle, 0, 2000)], received_at=1.0)
    return database_path


def kill_while_serving(path: Path, statement: str) -> None:
    """Change a database so that it is left as by a server that was killed: the change is in its log only."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(statement)
    connection.commit()
    left = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    connection.close()
    for suffix, content in left.items():
        Path(f"{path}{suffix}").write_bytes(content)


def contents(directory: Path, pattern: str = "*") -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.glob(pattern) if each.is_file()}


def names_in(path: Path) -> list[str]:
    with Database.open(f"sqlite:///{path}", owner="test") as database, database.read() as transaction:
        return [run.key.run for run in transaction.runs.list()]


def records_in(path: Path) -> int:
    with Database.open(f"sqlite:///{path}", owner="test") as database, database.read() as transaction:
        steps = [batch.steps for _, batch in transaction.segments.read(1, 0)]
        (intervals,) = transaction.segments.received([1]).values()
        assert np.concatenate(steps).tolist() == list(range(intervals.watermark())), "one moment, no hole"
        return sum(len(each) for each in steps)


def test_a_backup_is_one_moment_of_a_database_that_is_written_to_all_the_while(
    database_path: Path,
    tmp_path: Path,
    make_identity: Callable[..., RankIdentity],
    make_batch: Callable[..., StepBatch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backups, "_PAGES_AT_ONCE", 1)  # so that many transactions come in between
    heard: list[int] = []
    with Database.open(f"sqlite:///{database_path}", owner="test") as database:
        with database.begin() as transaction:
            handle = transaction.runs.open_rank(make_identity(), now=1.0).rank.handle
        written, stop = [0], threading.Event()

        def append() -> None:
            with database.begin() as transaction:
                transaction.segments.append([make_batch(handle, written[0], 500)], received_at=1.0)
            written[0] += 500

        def write() -> None:
            while not stop.is_set():
                append()

        append()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            before = written[0]
            back_up(database_path, tmp_path / "backup.db", lambda done, _: heard.append(done))
            after = written[0]
        finally:
            stop.set()
            writer.join()

    assert before <= records_in(tmp_path / "backup.db") <= after
    assert before < after, "the server went on"
    assert heard == sorted(heard)
    assert len(heard) > 10


def test_a_backup_overwrites_nothing_and_leaves_nothing_unfinished(filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("do not touch")

    with pytest.raises(ConflictError, match="precious exists already: a backup overwrites nothing"):
        back_up(filled, target, unheard)
    with pytest.raises(NotFoundError, match="there is no directory"):
        back_up(filled, tmp_path / "nowhere" / "backup.db", unheard)
    with pytest.raises(NotFoundError, match="there is no database"):
        back_up(tmp_path / "nothing.db", tmp_path / "backup.db", unheard)

    assert target.read_text() == "do not touch"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "precious"]


def test_a_restored_database_is_the_one_that_was_backed_up(
    filled: Path, tmp_path: Path, make_batch: Callable[..., StepBatch]
) -> None:
    back_up(filled, tmp_path / "backup.db", unheard)
    with Database.open(f"sqlite:///{filled}", owner="test") as database, database.begin() as transaction:
        transaction.segments.append([make_batch(1, 2000, 500)], received_at=1.0)

    with pytest.raises(ConflictError, match="--force puts it aside"):
        restore(tmp_path / "backup.db", filled, force=False)
    assert records_in(filled) == 2500
    condition, aside = restore(tmp_path / "backup.db", filled, force=True)

    assert condition.runs == 1
    assert records_in(filled) == 2000
    assert aside is not None
    assert records_in(aside) == 2500, "a mistaken --force can be undone"
    assert restore(tmp_path / "backup.db", tmp_path / "elsewhere" / "seismograd.db", force=False)[1] is None
    assert records_in(tmp_path / "elsewhere" / "seismograd.db") == 2000


def test_a_restore_is_refused_while_a_server_has_the_database(filled: Path, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "backup.db", unheard)

    with (
        Database.open(f"sqlite:///{filled}", owner="seismograd serve"),
        pytest.raises(StartError, match=r"in use by .*seismograd serve"),
    ):
        restore(tmp_path / "backup.db", filled, force=True)

    assert records_in(filled) == 2000


def test_a_server_of_before_the_restore_cannot_write_into_what_was_restored(filled: Path, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "backup.db", unheard)
    for _ in range(3):  # later servers have raised the epoch beyond that of the backup
        Database.open(f"sqlite:///{filled}", owner="test").close()
    before = check(filled)

    after, _ = restore(tmp_path / "backup.db", filled, force=True)

    assert after.epoch > before.epoch
    with Database.open(f"sqlite:///{filled}", owner="test") as database:
        database._epoch = before.epoch  # a process that has slept through it all
        with pytest.raises(StorageFencedError), database.begin():
            pass


def test_the_write_ahead_log_of_what_was_there_is_not_played_into_what_is_restored(
    filled: Path, tmp_path: Path
) -> None:
    back_up(filled, tmp_path / "backup.db", unheard)
    kill_while_serving(filled, "UPDATE runs SET run = 'other'")

    restore(tmp_path / "backup.db", filled, force=True)

    assert names_in(filled) == ["lstm"]


def test_a_copy_of_what_a_killed_server_has_left_is_restored_with_all_that_is_in_its_log(
    filled: Path, tmp_path: Path
) -> None:
    kill_while_serving(filled, "UPDATE runs SET run = 'in the log'")
    given = contents(filled.parent, "*.db") | contents(filled.parent, "*-wal")
    restored = tmp_path / "new" / "seismograd.db"

    condition, _ = restore(filled, restored, force=False)

    assert contents(filled.parent, "*.db") | contents(filled.parent, "*-wal") == given, "it can be restored again"
    assert sorted(contents(restored.parent)) == ["seismograd.db", "seismograd.db.lock"], "all is in one file"
    assert condition.runs == 1
    assert names_in(restored) == ["in the log"]
    assert records_in(restored) == 2000


def test_what_a_killed_server_has_left_can_be_restored_onto_itself(filled: Path) -> None:
    kill_while_serving(filled, "UPDATE runs SET run = 'in the log'")

    _, aside = restore(filled, filled, force=True)

    assert names_in(filled) == ["in the log"]
    assert aside is not None
    assert names_in(aside) == ["in the log"]


def test_nothing_comes_to_be_beside_a_file_without_a_log_that_is_restored(filled: Path, tmp_path: Path) -> None:
    given = contents(
        filled.parent
    )  # of a server that has ended in order: no log, but the file says that it may have one

    restore(filled, tmp_path / "new" / "seismograd.db", force=False)

    assert contents(filled.parent) == given


def test_a_restore_that_fails_half_way_leaves_what_was_there(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(filled, tmp_path / "backup.db", unheard)
    kill_while_serving(filled, "UPDATE runs SET run = 'in the log'")

    def full(_source: object, part: Path, _progress: object) -> None:
        part.write_bytes(b"half")
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(backups, "_copy", full)
    with pytest.raises(StorageError, match=r"seismograd\.db, while .*backup\.db is copied to it: .*disk full"):
        restore(tmp_path / "backup.db", filled, force=True)

    assert names_in(filled) == ["in the log"]
    assert not filled.with_name("seismograd.db.part").exists()


@pytest.mark.parametrize("name", ["run#3", "50%", "a%41", "what?", "a b&c=d", "mode=ro?x"])
def test_a_name_may_have_any_character(filled: Path, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "any" / name
    directory.mkdir(parents=True)

    made = back_up(filled, directory / name, unheard)
    restored, _ = restore(directory / name, directory / f"{name}.db", force=False)
    again, aside = restore(directory / name, directory / f"{name}.db", force=True)

    assert made == check(directory / name)
    assert [made.runs, restored.runs, again.runs] == [1, 1, 1]
    assert aside is not None
    assert check(aside) == restored
    assert sorted(each.name for each in directory.parent.iterdir()) == [name], "nothing lies under half a name"


def test_a_directory_in_place_of_a_file_is_named_and_refused(filled: Path, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    directory.mkdir()
    refused = f"{directory} is a directory: give the path of a file"

    for attempt in (
        lambda: restore(directory, tmp_path / "new" / "seismograd.db", force=False),
        lambda: back_up(filled, directory, unheard),
        lambda: back_up(directory, tmp_path / "backup.db", unheard),
        lambda: check(directory),
    ):
        with pytest.raises(UsageError) as error:
            attempt()
        assert str(error.value) == refused
    with pytest.raises(UsageError, match="/dev/null is no regular file"):
        restore(Path("/dev/null"), tmp_path / "new" / "seismograd.db", force=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("offset", [0.02, 0.5, 0.9])
def test_a_damaged_backup_is_refused_and_what_is_there_stays(filled: Path, tmp_path: Path, offset: float) -> None:
    backup = tmp_path / "backup.db"
    back_up(filled, backup, unheard)
    data = bytearray(backup.read_bytes())
    at = int(len(data) * offset)
    more_than_a_page = 40_000  # what lies within one may be what a deleted row has left there
    data[at : at + more_than_a_page] = bytes(len(data[at : at + more_than_a_page]))
    backup.write_bytes(data)

    with pytest.raises(StorageError, match=r"damaged|no database"):
        restore(backup, filled, force=True)

    assert records_in(filled) == 2000


def test_what_is_no_backup_of_ours_is_refused(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary, " * 5000)
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE t (x)").connection.close()

    with pytest.raises(StorageError, match="not a SQLite database"):
        restore(tmp_path / "diary", filled, force=True)
    with pytest.raises(StorageError, match="no database of seismograd"):
        restore(tmp_path / "empty.db", filled, force=True)
    with pytest.raises(NotFoundError, match="there is no file"):
        restore(tmp_path / "nothing", filled, force=True)
    connection = sqlite3.connect(filled)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StartError, match="made by a newer program"):
        check(filled)
