"""The ring holds the newest records, whole, while its process lives and after it was killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd.outbox.frames import frame
from seismograd.outbox.packing import pack
from seismograd.outbox.ring import RECORD_TAG, Ring, read_ring, ring_bytes
from seismograd.record import StepRecord
from tests.support.records import make_record

ROOT = Path(__file__).resolve().parents[3]
SMALL = 4096


def sequences(records: list[StepRecord]) -> list[int]:
    return [record.sequence for record in records]


def framed_size(parameters: int) -> int:
    return len(frame(RECORD_TAG, pack(make_record(0, parameters=parameters))))


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), max_size=60))
def test_the_ring_holds_the_newest_records_that_fit_like_its_slow_twin(sizes: list[int]) -> None:
    ring = Ring(None, SMALL)
    # The twin: whatever lies in the way of a new entry is gone, and nothing else is.
    kept: list[tuple[int, int, int]] = []
    head = 0
    for sequence, parameters in enumerate(sizes):
        size = framed_size(parameters)
        assert ring.write(make_record(sequence, parameters=parameters))
        wraps = head + size > SMALL
        kept = [each for each in kept if not (wraps and each[1] >= head)]
        begin = 0 if wraps else head
        head = begin + size
        kept = [each for each in kept if each[2] <= begin or each[1] >= head]
        kept.append((sequence, begin, head))

    assert sequences(ring.sequences(0, 10_000)) == [each[0] for each in kept]
    assert all(len(record.gradient_norms) == sizes[record.sequence] for record in ring.steps(0, 10_000))  # type: ignore[arg-type]  # every record has norms
    assert (ring.oldest, ring.end) == ((kept[0][0], len(sizes)) if kept else (0, 0))


@settings(deadline=None)
@given(written=st.integers(1, 40), cut=st.integers(0, SMALL - 1), length=st.integers(1, 200))
def test_whatever_a_kill_leaves_half_written_is_left_out_and_the_rest_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: int, cut: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring"
    ring = Ring(path, SMALL)
    for sequence in range(written):
        ring.write(make_record(sequence))
    places = list(ring._places)
    ring.close()
    content = bytearray(path.read_bytes())
    end = min(cut + length, SMALL)
    content[cut:end] = os.urandom(end - cut)
    path.write_bytes(content)

    untouched = [sequence for sequence, _, begin, stop in places if stop <= cut or begin >= end]
    touched = {sequence for sequence, *_ in places} - set(untouched)
    found = sequences(read_ring(path))

    assert found == sorted(found)
    assert set(untouched) <= set(found)
    assert set(found) - set(untouched) <= touched | set(range(places[0][0])), "an older one may have survived"


def test_steps_are_chosen_by_number_over_all_branches_and_come_as_they_were_written() -> None:
    ring = Ring(None, 1 << 20)
    for sequence in range(30):
        ring.write(make_record(sequence, norm=1.0 + sequence, step=sequence % 10, branch=sequence // 10))

    found = ring.steps(3, 4)

    assert [(record.branch, record.step, record.sequence) for record in found] == [
        (branch, step, 10 * branch + step) for branch in range(3) for step in (3, 4)
    ]
    assert found[0].gradient_norms is not None
    np.testing.assert_array_equal(found[0].gradient_norms, make_record(3, norm=4.0).gradient_norms)


def test_a_ring_of_the_size_computed_holds_the_steps_asked_for_with_every_quantity() -> None:
    size = ring_bytes(256, 2000, 1 << 30)
    ring = Ring(None, size)
    columns = {quantity: np.ones(2000, np.float32) for quantity in (10, 11, 12, 13, 14)}
    for sequence in range(700):
        ring.write(make_record(sequence, parameters=2000, tensors=columns))

    assert len(ring.sequences(0, 700)) >= 256
    assert ring_bytes(256, 2000, 1 << 20) == 1 << 20
    assert ring_bytes(256, 4, 1 << 30) == 4 << 20


def test_what_is_too_large_or_out_of_order_is_not_taken() -> None:
    ring = Ring(None, SMALL)

    assert not ring.write(make_record(0, parameters=5000))
    assert ring.write(make_record(1))
    assert not ring.write(make_record(1))
    assert sequences(ring.sequences(0, 9)) == [1]


def test_the_share_says_how_near_a_record_is_to_being_overwritten() -> None:
    ring = Ring(None, SMALL)
    assert ring.share_since(0) == 0.0
    for sequence in range(200):
        ring.write(make_record(sequence))

    assert ring.share_since(200) == 0.0
    assert 0.9 < ring.share_since(ring.oldest) <= 1.0
    assert 0.4 < ring.share_since((ring.oldest + ring.end) // 2) < 0.6
    assert ring.share_since(0) > 1.0


def test_readers_beside_the_writer_see_whole_records_or_none() -> None:
    ring = Ring(None, SMALL)
    over = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not over.is_set():
            for record in ring.sequences(0, 1 << 40):
                norms = record.gradient_norms
                if norms is None or not (norms == np.float32(record.sequence)).all():
                    failures.append(f"record {record.sequence} is not as it was written")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sequence in range(3000):
        ring.write(make_record(sequence, gradient_norms=np.full(sequence % 50, sequence, np.float32)))
    over.set()
    for reader in readers:
        reader.join()

    assert not failures


def test_a_file_is_private_reserved_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    Ring(path, 1 << 20).close()

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 >= 1 << 20
    with pytest.raises(FileExistsError):
        Ring(path, 1 << 20)


def test_a_disk_without_room_is_said_before_anything_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(OSError, match="No space left"):
        Ring(tmp_path / "ring", 1 << 20)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_every_record_that_was_written(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from seismograd.outbox.ring import Ring
from tests.support.records import make_record
ring = Ring(Path(sys.argv[1]), 1 << 20)
for sequence in range(500):
    ring.write(make_record(sequence, parameters=148))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "ring"
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False, timeout=60)

    assert ended.returncode == -signal.SIGKILL
    assert sequences(read_ring(path)) == list(range(500))
