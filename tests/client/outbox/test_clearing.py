"""What dead jobs leave is bounded as a whole; what lives, and what was kept on purpose, is not touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seismograd.outbox.clearing import clear_leftovers
from seismograd.outbox.folder import SpoolFolder
from seismograd.outbox.journal import note_kept, note_server

NOW = 1_800_000_000.0
MEGABYTE = 1_000_000


def leave(parent: Path, age: float, *, kept: bool = False, size: int = MEGABYTE) -> Path:
    """A folder of a process that died `age` seconds ago."""
    folder = SpoolFolder.create([parent])
    folder.note(*note_server("somewhere:7450"))
    if kept:
        folder.note(*note_kept())
    (folder.path / "records-1").write_bytes(b"\1" * size)
    folder.release()
    os.utime(folder.path, (NOW - age, NOW - age))
    return folder.path


def test_beyond_the_limit_the_oldest_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    oldest, old, young = (leave(tmp_path, age) for age in (300.0, 200.0, 100.0))

    assert clear_leftovers([tmp_path], 2 * MEGABYTE + MEGABYTE // 2, NOW) == 1

    assert [path.exists() for path in (oldest, old, young)] == [False, True, True]
    assert "what 1 dead jobs had left" in caplog.text


def test_within_the_limit_nothing_is_touched_or_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [leave(tmp_path, age) for age in (1.0, 1e7)]

    assert clear_leftovers([tmp_path], 3 * MEGABYTE, NOW) == 0

    assert all(path.exists() for path in paths)
    assert not caplog.text
    assert all(SpoolFolder.take(path) for path in paths), "the locks are free again"


def test_what_lives_neither_goes_nor_counts(tmp_path: Path) -> None:
    alive = SpoolFolder.create([tmp_path])
    (alive.path / "ring-0").write_bytes(b"\1" * 5 * MEGABYTE)
    dead = leave(tmp_path, 50.0)

    assert clear_leftovers([tmp_path], 2 * MEGABYTE, NOW) == 0

    assert alive.path.exists()
    assert dead.exists()
    alive.remove()


def test_what_a_job_kept_on_purpose_stays_whatever_its_size(tmp_path: Path) -> None:
    kept = leave(tmp_path, 1e7, kept=True, size=5 * MEGABYTE)
    dead = leave(tmp_path, 50.0)

    assert clear_leftovers([tmp_path], 2 * MEGABYTE, NOW) == 0

    assert kept.exists()
    assert dead.exists()


def test_a_folder_that_a_killed_process_never_named_goes_after_an_hour(tmp_path: Path) -> None:
    fresh, forgotten = tmp_path / ".new-1-a", tmp_path / ".new-2-b"
    for path, age in ((fresh, 10.0), (forgotten, 7200.0)):
        path.mkdir()
        (path / "lock").touch()
        os.utime(path, (NOW - age, NOW - age))

    clear_leftovers([tmp_path, tmp_path / "absent"], MEGABYTE, NOW)

    assert fresh.exists()
    assert not forgotten.exists()
