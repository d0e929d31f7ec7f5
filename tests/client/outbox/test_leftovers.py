"""What a dead process has left is delivered in its name: exactly once, whole, with how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seismograd.options import Options
from seismograd.outbox.disk import rings_of
from seismograd.outbox.folder import SpoolFolder, left_behind
from seismograd.outbox.journal import note_identity, read_account
from seismograd.outbox.leftovers import Delivery, deliver
from seismograd.outbox.sender import Sender
from seismograd.record import DirectiveAnswer, DirectiveKind, RunIdentity
from seismograd.testing import RecordingServer
from tests.client.outbox.test_process import ROOT
from tests.support.records import IDENTITY, make_catalog, make_record
from tests.support.seismograd import seismograd

NOWHERE = "127.0.0.1:1"

SCRIPT = """
import os, signal, sys, threading
from seismograd.options import Options
from seismograd.outbox.sender import Sender
from tests.support.records import IDENTITY, make_catalog, make_record

server, spool, first, end, ending = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
ring = {"ring_bytes": 1 << 20, "ring_steps": 100} if sys.argv[6:] == ["small"] else {}
sender = Sender(Options(server=server, spool_dir=spool, queue_bytes=1 << 20, finish_timeout_seconds=0.2, **ring))
sender.open(lambda: IDENTITY, [make_catalog()])
for sequence in range(end):
    sender.offer(make_record(sequence))
    if sequence + 1 == first or (sequence < first and sequence % 1000 == 999):
        while sender.state.acknowledged <= sequence:
            threading.Event().wait(0.005)
if ending == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
print(sender.finish(ending, "because"))
"""


def process(server: str, spool: Path, end: int, ending: str = "killed", first: int = 0, *, ring: str = "usual") -> None:
    """A process that offers records and dies, or ends with a server that is not there."""
    command = [sys.executable, "-c", SCRIPT, server, str(spool), str(first), str(end), ending, ring]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (-signal.SIGKILL if ending == "killed" else 0), done.stderr


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as running:
        yield running


def sequences(server: RecordingServer) -> list[int]:
    return [record.sequence for record in server.ledger.records()]


def take(spool: Path) -> SpoolFolder:
    (path,) = left_behind(spool)
    folder = SpoolFolder.take(path)
    assert folder is not None
    return folder


def deliver_to(server: RecordingServer, spool: Path) -> Delivery:
    return deliver(take(spool), lambda _: Options(server=server.address))


def test_the_rest_of_a_process_that_ran_for_longer_than_its_ring_is_delivered(
    server: RecordingServer, tmp_path: Path
) -> None:
    process(server.address, tmp_path, 10_050, first=10_000, ring="small")
    (path,) = left_behind(tmp_path)
    ring = rings_of(path)[0]
    assert ring.oldest > 0, "it has been written over, or this test tells nothing"

    delivery = deliver_to(server, tmp_path)

    assert (delivery.error, delivery.missing) == ("", 0)
    assert sequences(server) == list(range(10_050))


def test_what_a_killed_process_had_offered_is_delivered_from_ring_and_spool(
    server: RecordingServer, tmp_path: Path
) -> None:
    process(NOWHERE, tmp_path, 9000)

    delivery = deliver_to(server, tmp_path)

    assert (delivery.error, delivery.missing, delivery.ending) == ("", 0, "")
    assert (delivery.delivered, delivery.run) == (9000, "lstm-7")
    assert sequences(server) == list(range(9000))
    assert server.ledger.duplicates == 0
    assert server.ledger.catalogs[0] == make_catalog()
    assert server.ledger.closed == [], "nobody knows how it ended but the server, which hears nothing more"
    assert list(tmp_path.iterdir()) == []


def receivers() -> int:
    """Streams that somebody reads."""
    return sum(thread.name == "seismograd-receiver" for thread in threading.enumerate())


@pytest.mark.parametrize("broken_off", [False, True])
def test_a_delivery_leaves_no_stream_behind(server: RecordingServer, tmp_path: Path, broken_off: bool) -> None:
    process(NOWHERE, tmp_path, 9000)
    before = receivers()

    def wait(_seconds: float) -> bool:
        time.sleep(0.01)
        return not (broken_off and receivers() > before)

    delivery = deliver(take(tmp_path), lambda _: Options(server=server.address), wait=wait)

    assert delivery.error == ("interrupted" if broken_off else "")
    until = time.monotonic() + 10.0
    while receivers() > before:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_only_what_the_server_does_not_have_is_sent(server: RecordingServer, tmp_path: Path) -> None:
    process(server.address, tmp_path, 450, first=400)
    before = len(sequences(server))

    delivery = deliver_to(server, tmp_path)

    assert sequences(server) == list(range(450))
    assert server.ledger.duplicates == 0
    assert delivery.delivered == 450 - before
    identities = list(server.ledger.identities.values())
    assert [each.session_id for each in identities] == ["session"], "in the name of the dead"


@pytest.mark.parametrize("ending", ["finished", "failed"])
def test_how_the_process_ended_is_told_when_it_said_so(server: RecordingServer, tmp_path: Path, ending: str) -> None:
    process(NOWHERE, tmp_path, 100, ending)

    assert deliver_to(server, tmp_path).ending == ending
    assert server.ledger.closed == [(ending, "because")]
    assert sequences(server) == list(range(100))
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_the_folder_stays_and_the_reason_is_one_line(tmp_path: Path) -> None:
    process(NOWHERE, tmp_path, 10)

    delivery = deliver(take(tmp_path), lambda _: Options(server=NOWHERE))

    assert "UNAVAILABLE" in delivery.error
    assert "\n" not in delivery.error
    assert left_behind(tmp_path)


def test_a_delivery_that_is_broken_off_goes_on_where_it_was(server: RecordingServer, tmp_path: Path) -> None:
    process(NOWHERE, tmp_path, 9000)
    turns = iter(range(12))

    def wait(_seconds: float) -> bool:
        server.ledger.wait_for(lambda _: False, 0.02)
        return next(turns, None) is not None

    broken_off = deliver(take(tmp_path), lambda _: Options(server=server.address, queue_bytes=1 << 20), wait=wait)
    assert broken_off.error == "interrupted"

    deliver_to(server, tmp_path)

    assert sequences(server) == list(range(9000))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking beside threads is the point
def test_a_folder_whose_process_lives_is_never_touched(tmp_path: Path) -> None:
    sender = Sender(Options(server=NOWHERE, spool_dir=tmp_path))
    sender.open(lambda: IDENTITY, [make_catalog()])
    sender.offer(make_record(0))
    (path,) = left_behind(tmp_path)

    assert SpoolFolder.take(path) is None
    child = os.fork()
    if child == 0:
        os._exit(0 if SpoolFolder.take(path) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in path.iterdir()} == {0o600}
    assert sender.finish("finished", "", 0.2).spooled == 1
    assert SpoolFolder.take(path) is not None


def test_a_child_that_outlives_its_parent_does_not_keep_the_folder_locked(tmp_path: Path) -> None:
    script = """
import os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from seismograd.options import Options
from seismograd.outbox.sender import Sender
from tests.support.records import IDENTITY, make_catalog, make_record
sender = Sender(Options(server="127.0.0.1:1", spool_dir=sys.argv[1]))
sender.open(lambda: IDENTITY, [make_catalog()])
sender.offer(make_record(0))
child = os.fork()
if child == 0:
    threading.Event().wait(60)
    os._exit(0)
with open(sys.argv[1] + ".child", "w") as file:
    file.write(str(child))
os.kill(os.getpid(), signal.SIGKILL)
"""
    spool = tmp_path / "spool"
    subprocess.run([sys.executable, "-c", script, str(spool)], cwd=ROOT, check=False, timeout=60)
    child = int(Path(f"{spool}.child").read_text())
    try:
        (path,) = left_behind(spool)
        folder = SpoolFolder.take(path)
        assert folder is not None
        folder.release()
    finally:
        os.kill(child, signal.SIGKILL)


# ------------------------------------------------------------------------------------- before the ranks have agreed


def leave(spool: Path, rank: int, *, launch: str | None) -> None:
    """A folder of a rank that died with one record, before or after it knew its launch."""
    provisional = identity_of(rank, "host/7/0")
    agreed = None if launch is None else identity_of(rank, launch)
    sender = Sender(Options(server=NOWHERE, spool_dir=spool, run="run"))
    sender.open(lambda: agreed, [make_catalog()], provisional)
    sender.offer(make_record(0))
    sender.finish("failed", "killed", 0.5)


def identity_of(rank: int, launch: str) -> RunIdentity:
    changes: dict[str, Any] = {"rank": rank, "world_size": 2, "session_id": f"session-{rank}", "launch_id": launch}
    return RunIdentity(project="mt", run=f"run-{launch[:4]}", **changes)


def deliver_all(server: RecordingServer, spool: Path) -> list[Delivery]:
    folders = [SpoolFolder.take(path) for path in left_behind(spool)]
    return [deliver(each, lambda _: Options(server=server.address)) for each in folders if each is not None]


def test_a_rank_that_died_too_early_is_recovered_from_what_its_neighbour_knew(
    server: RecordingServer, tmp_path: Path
) -> None:
    leave(tmp_path, 1, launch=None)
    leave(tmp_path, 0, launch="agreed")

    assert [each.error for each in deliver_all(server, tmp_path)] == ["", ""]
    assert {each.launch_id for each in server.ledger.identities.values()} == {"agreed"}
    assert {each.run for each in server.ledger.identities.values()} == {"run-agre"}


def test_when_nobody_had_agreed_yet_all_of_them_are_one_launch(server: RecordingServer, tmp_path: Path) -> None:
    leave(tmp_path, 1, launch=None)
    leave(tmp_path, 0, launch=None)

    assert [each.error for each in deliver_all(server, tmp_path)] == ["", ""]
    assert len({each.launch_id for each in server.ledger.identities.values()}) == 1
    assert {each.rank for each in server.ledger.identities.values()} == {0, 1}


def test_a_rank_whose_launch_nobody_knows_is_kept_and_said(server: RecordingServer, tmp_path: Path) -> None:
    leave(tmp_path, 1, launch=None)

    (delivery,) = deliver_all(server, tmp_path)

    assert delivery.error.startswith("rank 1 of 2 died before the ranks had agreed on a launch")
    assert left_behind(tmp_path)


def test_a_journal_with_bytes_that_are_no_message_still_tells_the_rest(tmp_path: Path) -> None:
    folder = SpoolFolder.create([tmp_path])
    folder.note(18, b"\xff\xff\xff")
    folder.note(*note_identity(IDENTITY))
    folder.note(99, b"from a later version")

    assert read_account(folder.notes()).identity == IDENTITY
    folder.remove()
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- the command


def test_the_command_delivers_says_what_and_finds_nothing_the_second_time(
    server: RecordingServer, tmp_path: Path
) -> None:
    process(server.address, tmp_path / "spool", 50, "finished")
    process(NOWHERE, tmp_path / "spool", 300)

    unreachable = seismograd("sync", tmp_path)
    assert (unreachable.returncode, unreachable.stdout) == (0, "nothing to deliver\n"), "no folder is directly there"

    failed = seismograd("sync", tmp_path / "spool")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: mt/lstm-7 rank 0: UNAVAILABLE")
    assert len(failed.stderr.splitlines()) == 1

    done = seismograd("sync", tmp_path / "spool", "--server", server.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "mt/lstm-7 rank 0: 250 records delivered; it was killed\n"
    assert sequences(server) == list(range(300))

    again = seismograd("sync", tmp_path / "spool", "--json")
    assert again.returncode == 0
    assert '"folders": []' in again.stdout


def test_a_folder_that_is_not_there_is_a_wrong_call(tmp_path: Path) -> None:
    done = seismograd("sync", tmp_path / "nowhere")
    assert done.returncode == 2


def test_what_the_job_decided_while_nobody_listened_is_told_with_its_records(
    server: RecordingServer, tmp_path: Path
) -> None:
    sender = Sender(Options(server=NOWHERE, spool_dir=tmp_path, finish_timeout_seconds=0.2))
    sender.open(lambda: IDENTITY, [make_catalog()])
    for sequence in range(3):
        sender.offer(make_record(sequence))
    answer = DirectiveAnswer("", DirectiveKind.STOP, "applied", "another rank was asked", 2, by_another_rank=True)
    sender.answer_directive(answer)
    sender.finish("finished", "")

    delivery = deliver_to(server, tmp_path)

    assert (delivery.error, delivery.delivered, delivery.ending) == ("", 3, "finished")
    assert server.ledger.answers == [answer]


# ----------------------------------------------------------------------------------------------------- the next run


def running(server: RecordingServer, spool: Path) -> Sender:
    """The next run on the machine."""
    sender = Sender(Options(server=server.address, spool_dir=spool))
    sender.open(lambda: replace(IDENTITY, launch_id="next", run="next", session_id="next"), [make_catalog()])
    sender.offer(make_record(0))
    return sender


def test_the_next_run_delivers_what_was_left_for_the_same_server_and_nothing_else(
    server: RecordingServer, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    process(NOWHERE, spool, 10)  # for another server
    process(server.address, spool, 700)
    sender = running(server, spool)

    def launches() -> set[str]:
        return {identity.launch_id for identity in server.ledger.identities.values()}

    assert server.ledger.wait_for(lambda _: len(left_behind(spool)) == 2 and launches() == {"launch", "next"}, 20)
    report = sender.finish("finished", "")

    assert (report.delivered, report.complete) == (1, True)
    (left,) = left_behind(spool)
    assert read_account(SpoolFolder.notes_of(left)).server == NOWHERE


def test_leftovers_that_the_server_refuses_stay_and_the_run_does_not_hear_of_it(
    server: RecordingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process(server.address, tmp_path, 10)
    (path,) = left_behind(tmp_path)
    (path / "journal").write_bytes(b"")

    sender = running(server, tmp_path)
    assert server.ledger.wait_for(lambda _: sender.state.acknowledged == 1)
    assert sender.finish("finished", "").complete

    assert left_behind(tmp_path) == [path]
    assert not [each for each in caplog.records if each.levelname != "INFO"]
