"""What the user holds: it tells, asks, ends in time, and never gets in the way of training."""

from __future__ import annotations

import functools
import gc
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import seismograd
from seismograd import ending
from seismograd import monitor as monitor_module
from seismograd.capture import registry
from seismograd.capture.harvest import Harvest
from seismograd.capture.local_norms import LocalNorms
from seismograd.capture.weights import WeightSampler
from seismograd.guard import Guard
from seismograd.record import AlertNotice, Directive, DirectiveKind, Quantity
from seismograd.testing import RecordingServer, RecordingTransport
from tests.support.processes import eventually


class Loop:
    """A model under watch."""

    def __init__(self, **options: Any) -> None:
        self.transport = RecordingTransport()
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        chosen: dict[str, Any] = {"project": "tests", "run": "monitor", "transport": self.transport} | options
        self.monitor = seismograd.watch(self.model, self.optimizer, **chosen)
        self.ledger = self.transport.ledger

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.model(torch.ones(4, 3)).pow(2).sum()
        loss.backward()
        seismograd.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.monitor.log(loss=loss)


@pytest.fixture
def loop() -> Iterator[Loop]:
    begun = Loop()
    yield begun
    begun.monitor.finish()


def test_the_name_is_enough_and_torch_comes_only_with_watch() -> None:
    code = "import sys, seismograd; assert 'torch' not in sys.modules; seismograd.watch; assert 'torch' in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_options_that_cannot_work_are_said_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(server="no port here:x", spool="nowhere")
    loop.step()

    assert repr(loop.monitor) == "<seismograd.Monitor: inert>"
    assert not loop.monitor.active
    assert "training goes on without telemetry" in caplog.text
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert loop.monitor.finish().complete


def test_mode_off_does_nothing_at_all() -> None:
    loop = Loop(mode="off")
    loop.step()
    loop.monitor.checkpoint_saved(1, "a")

    assert not loop.optimizer._optimizer_step_pre_hooks
    assert not loop.ledger.identities


def test_no_optimizer_is_said_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    monitor = seismograd.watch(nn.Linear(2, 2), object(), transport=RecordingTransport())  # type: ignore[arg-type]  # on purpose
    monitor.log(loss=1.0)

    assert not monitor.active
    assert "training goes on" in caplog.text
    monitor.finish()


@pytest.mark.parametrize(
    ("owner", "method", "feature"),
    [(Harvest, "take", "capture"), (Harvest, "add", "capture"), (WeightSampler, "after", "weight and update norms")],
)
def test_a_defect_of_ours_is_said_once_and_never_reaches_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: type, method: str, feature: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(owner, method, fail)
    loop = Loop()
    before = loop.model.weight.detach().clone()
    for _ in range(3):
        loop.step()

    assert not torch.equal(before, loop.model.weight)
    assert [record.message for record in caplog.records if "a defect" in record.message] == [
        f"{feature} is off from now on, training goes on: ZeroDivisionError: a defect"
    ]
    loop.monitor.finish()
    if feature != "capture":
        assert len(loop.ledger.records()) == 3, "the rest still works"


def test_a_defect_in_a_backward_hook_never_reaches_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard()
    local = LocalNorms(guard)
    model = nn.Linear(3, 2)
    monkeypatch.setattr("seismograd.capture.local_norms.norm_of", lambda _gradient: 1 / 0)
    local.arm(list(model.parameters()))
    model(torch.ones(3)).sum().backward()

    assert "local norms" in guard.broken
    assert model.weight.grad is not None
    local.disarm()


def test_the_run_says_who_it_is() -> None:
    loop = Loop(config={"lr": 0.1, "api_key": "hunter2"}, tags={"team": "nlp"})
    loop.step()
    loop.monitor.finish()

    (identity,) = loop.ledger.identities.values()
    assert (identity.project, identity.run, identity.rank, identity.world_size) == ("tests", "monitor", 0, 1)
    assert identity.config_json == '{"api_key": "[redacted]", "lr": 0.1}'
    assert identity.tags == {"team": "nlp"}
    assert identity.framework == f"torch {torch.__version__}"
    assert identity.process_id == os.getpid()
    assert identity.strategy == "single"
    assert identity.optimizers[0].class_name == "torch.optim.sgd.SGD"
    assert '"lr": 0.1' in identity.optimizers[0].hyperparameters_json


def test_two_watches_in_one_process_are_two_launches() -> None:
    loops = [Loop(), Loop()]
    for loop in loops:
        loop.step()
        loop.monitor.finish()

    launches = {identity.launch_id for loop in loops for identity in loop.ledger.identities.values()}
    assert len(launches) == 2


def test_a_run_without_a_name_is_named_after_its_script() -> None:
    loop = Loop(run=None)
    loop.step()
    loop.monitor.finish()

    (identity,) = loop.ledger.identities.values()
    stem, digits = identity.run.rsplit("-", 1)
    assert stem
    assert len(digits) == 8


def test_checkpoints_are_told(loop: Loop) -> None:
    loop.step()
    loop.monitor.checkpoint_saved(0, "ckpt/0.pt")
    loop.monitor.finish()

    assert loop.ledger.checkpoints == [(0, "ckpt/0.pt")]


def test_our_own_cost_is_told(loop: Loop) -> None:
    for _ in range(9):
        loop.step()
    loop.monitor.finish(timeout_seconds=20.0)

    assert all(record.scalars[Quantity.CAPTURE_SECONDS] > 0.0 for record in loop.ledger.records())
    session: Any = loop.monitor._session
    assert session._series[0].watch.hook_calls >= 36  # two around the clip and two around the step


NOTICE = AlertNotice("a1", "runaway", "critical", "firing", 3, "doubles every 4 steps")


def test_alerts_reach_callbacks_at_a_step_boundary(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[AlertNotice] = []

    def fail(_notice: AlertNotice) -> None:
        raise RuntimeError("somebody's defect")

    loop.monitor.on_alert(fail)
    loop.monitor.on_alert(heard.append)
    for _ in range(2):
        loop.ledger.notify([NOTICE])
        arrived = len(heard)
        deadline = time.monotonic() + 20.0
        while len(heard) == arrived and time.monotonic() < deadline:
            loop.step()
            loop.ledger.wait_for(lambda ledger: bool(ledger.frames), 0.05)

    assert heard == [NOTICE, NOTICE]
    assert caplog.text.count("is not called again") == 1


def test_a_stop_is_a_hint_until_it_is_asked_for_and_then_it_is_answered(loop: Loop) -> None:
    assert not loop.monitor.should_stop()
    assert not loop.monitor.should_checkpoint()
    loop.ledger.notify(
        directives=[
            Directive("s", DirectiveKind.STOP, "runaway", "a1", 0, 0),
            Directive("c", DirectiveKind.CHECKPOINT, "", "", 0, 0),
        ]
    )
    deadline = time.monotonic() + 20.0
    while not loop.monitor.should_stop() and time.monotonic() < deadline:
        loop.step()
        loop.ledger.wait_for(lambda ledger: bool(ledger.frames), 0.05)

    assert loop.monitor.should_stop(synchronize=True), "one rank agrees with itself"
    assert [loop.monitor.should_checkpoint(), loop.monitor.should_checkpoint()] == [True, False]
    loop.step()
    loop.monitor.finish()
    answers = [(each.directive_id, each.kind, each.outcome, each.by_another_rank) for each in loop.ledger.answers]
    assert sorted(answers) == [
        ("c", DirectiveKind.CHECKPOINT, "applied", False),
        ("s", DirectiveKind.STOP, "applied", False),
    ]
    assert all(each.step is not None and each.step >= 0 for each in loop.ledger.answers)


def test_what_the_job_never_asked_about_is_told_when_it_ends(loop: Loop) -> None:
    heard: list[AlertNotice] = []
    loop.monitor.on_alert(heard.append)
    loop.ledger.notify([NOTICE], directives=[Directive("s", DirectiveKind.STOP, "runaway", "a1", 0, 0)])
    deadline = time.monotonic() + 20.0
    while not heard and time.monotonic() < deadline:
        loop.step()  # the alert came with the directive
        loop.ledger.wait_for(lambda ledger: bool(ledger.frames), 0.05)
    loop.monitor.finish()
    assert [(each.directive_id, each.outcome) for each in loop.ledger.answers] == [("s", "ignored")]


def test_the_alert_that_stops_a_job_is_heard_before_the_job_is_told_to_stop(loop: Loop) -> None:
    heard: list[AlertNotice] = []
    loop.monitor.on_alert(heard.append)
    loop.ledger.notify([NOTICE], directives=[Directive("s", DirectiveKind.STOP, "runaway", "a1", 0, 0)])
    loop.step()  # the last one: what it is answered comes between two steps
    deadline = time.monotonic() + 20.0
    while not loop.monitor.should_stop() and time.monotonic() < deadline:
        assert not heard
        loop.ledger.wait_for(lambda ledger: bool(ledger.frames), 0.05)
    assert heard == [NOTICE]


@pytest.mark.parametrize("every", [0, -3, "2", None])
def test_a_cadence_that_is_none_takes_every_call(loop: Loop, caplog: pytest.LogCaptureFixture, every: Any) -> None:
    assert [loop.monitor.should_stop(synchronize=True, every=every) for _ in range(2)] == [False, False]
    assert caplog.text.count("every call is taken") == 1


def test_an_inert_rank_still_takes_part_in_the_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    votes: list[bool] = []

    def agree(flag: bool) -> bool:
        votes.append(flag)
        return True

    monkeypatch.setattr(monitor_module, "any_rank", agree)
    inert = Loop(mode="off").monitor

    assert inert.should_stop(synchronize=True)
    assert [inert.should_checkpoint(synchronize=True, every=2) for _ in range(4)] == [False, True, False, True]
    assert votes == [False, False, False]


def test_the_text_form_tells_how_things_stand(loop: Loop) -> None:
    assert "no step yet" in repr(loop.monitor)
    loop.step()
    loop.monitor.log(step=41)

    assert "tests/monitor to localhost:7450: 2 parameters, step " in repr(loop.monitor)


def test_the_context_ends_the_run_and_says_how() -> None:
    loop = Loop()
    with loop.monitor:
        loop.step()
    failing = Loop()

    def train_too_hot() -> None:
        with failing.monitor:
            failing.step()
            raise ValueError("too  hot\nhere")

    with pytest.raises(ValueError, match="too  hot"):
        train_too_hot()

    assert loop.ledger.closed == [("finished", "")]
    assert failing.ledger.closed == [("failed", "ValueError: too hot here")]
    assert not registry.watches()


def test_finishing_twice_gives_the_same_report(loop: Loop) -> None:
    loop.step()

    assert loop.monitor.finish() is loop.monitor.finish()
    assert not loop.monitor.active
    loop.step()  # training may go on after the end of the watch
    assert len(loop.ledger.records()) == 1


SCRIPT = """
    import sys, torch, seismograd
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    {assign}seismograd.watch(model, optimizer, project="tests", run="script", server=sys.argv[1])
    for _ in range(3):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
    {end}
"""


def run_script(server: str, end: str, assign: str = "monitor = ") -> tuple[subprocess.CompletedProcess[str], float]:
    code = textwrap.dedent(SCRIPT.format(end=end, assign=assign))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, server], capture_output=True, text=True, timeout=120, check=False
    )
    return done, time.monotonic() - began


@pytest.mark.parametrize(
    ("end", "closed"),
    [
        ("", ("finished", "")),
        ("raise RuntimeError('loss is NaN')", ("failed", "RuntimeError: loss is NaN")),
        ("sys.excepthook = lambda *_: None; monitor.finish('failed', 'by hand')", ("failed", "by hand")),
        ("sys.exit(0)", ("finished", "")),
        ("sys.exit(3)", ("failed", "SystemExit: 3")),
    ],
    ids=["normally", "by an exception", "by hand", "with status 0", "with another status"],
)
def test_a_program_that_ends_says_how(end: str, closed: tuple[str, str]) -> None:
    with RecordingServer() as server:
        done, _ = run_script(server.address, end)
        assert server.ledger.closed == [closed]
        assert [record.step for record in server.ledger.records()] == [0, 1, 2]

    assert ("RuntimeError" in done.stderr) == ("raise" in end), "the traceback is still printed"
    assert done.returncode == (1 if "raise" in end else 3 if "exit(3)" in end else 0)


def test_an_exit_that_somebody_catches_is_no_end(loop: Loop) -> None:
    """As the main function of a command line does when it is called by a program."""
    loop.monitor.finish()
    before = sys.exit
    loop = Loop()
    loop.step()
    with pytest.raises(SystemExit):
        sys.exit(2)
    loop.step()

    ending._endings.end()  # what the end of the process calls

    assert loop.ledger.closed == [("finished", "")]
    assert sys.exit is before, "it is whoever's it was before"


CHILDREN = """
    import multiprocessing, sys, torch, seismograd

    def train(number, server, how):
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seismograd.watch(model, optimizer, project="tests", run="child", server=server)
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        if how == "error":
            raise RuntimeError("loss is NaN")
        if how == "status":
            sys.exit(4)

    if __name__ == "__main__":
        server, launcher, how = sys.argv[1:]
        if launcher == "torch":
            torch.multiprocessing.spawn(train, (server, how))
        else:
            child = multiprocessing.get_context("spawn").Process(target=train, args=(0, server, how))
            child.start()
            child.join()
            sys.exit(child.exitcode)
"""


@pytest.mark.parametrize(
    ("launcher", "how", "closed"),
    [
        ("torch", "error", ("failed", "RuntimeError: loss is NaN")),
        ("python", "error", ("failed", "RuntimeError: loss is NaN")),
        ("python", "status", ("failed", "SystemExit: 4")),
        ("python", "", ("finished", "")),
    ],
)
def test_a_child_of_multiprocessing_says_how_it_ends(
    launcher: str, how: str, closed: tuple[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(CHILDREN))
    with RecordingServer() as server:
        done = subprocess.run(
            [sys.executable, script, server.address, launcher, how],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert server.ledger.closed == [closed], done.stderr
    assert done.returncode == {"error": 1, "status": 4, "": 0}[how], done.stderr


def test_the_end_waits_two_seconds_for_a_server_that_says_nothing_and_no_longer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = "import time; began = time.monotonic(); monitor.finish(); print(time.monotonic() - began)"
        done, _ = run_script(f"127.0.0.1:{silent.getsockname()[1]}", code)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 6.0  # promised: two seconds


SEVERAL = """
    import atexit, sys, time, torch, seismograd

    atexit.register(lambda: print(time.monotonic() - began))  # called last
    kept = []
    for number in range({monitors}):
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kept.append(seismograd.watch(model, optimizer, project="tests", run=str(number), server=sys.argv[1]))
        for _ in range({steps}):
            model(torch.ones(3)).sum().backward()
            optimizer.step()
    time.sleep(0.5)
    began = time.monotonic()
    sys.exit({status})
"""


def run_several(server: str, monitors: int, steps: int, status: int) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(SEVERAL.format(monitors=monitors, steps=steps, status=status))
    return subprocess.run(
        [sys.executable, "-c", code, server], capture_output=True, text=True, timeout=120, check=False
    )


def test_several_monitors_share_the_two_seconds_of_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run_several(f"127.0.0.1:{silent.getsockname()[1]}", monitors=4, steps=3, status=0)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4.0  # promised: two seconds; one after the other takes seven


def test_more_monitors_than_python_nests_calls_end_as_the_program_says() -> None:
    done = run_several("localhost:1", monitors=1100, steps=0, status=3)

    assert (done.returncode, done.stderr) == (3, "")


def test_several_monitors_that_end_with_the_process_each_say_how() -> None:
    with RecordingServer() as server:
        done = run_several(server.address, monitors=3, steps=3, status=3)
        assert server.ledger.closed == [("failed", "SystemExit: 3")] * 3

    assert done.returncode == 3


def test_a_run_whose_model_and_optimizer_are_gone_ends_by_itself_and_lets_its_files_go(tmp_path: Path) -> None:
    def open_rings() -> int:
        links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return sum(str(tmp_path) in str(link) for link in links)

    def senders() -> int:
        return sum(each.name == "seismograd-sender" for each in threading.enumerate())

    before = senders()
    loops = [Loop(spool_dir=str(tmp_path / str(number))) for number in range(5)]
    ledgers = [loop.ledger for loop in loops]
    for loop in loops:
        loop.step()
        loop.optimizer.step()  # whose loss is never logged
    assert open_rings() >= 5
    del loops, loop
    gc.collect()
    eventually(lambda: (open_rings(), senders()) == (0, before), 20.0, "threads and files are let go")

    assert [ledger.closed for ledger in ledgers] == [[("finished", "")]] * 5
    assert [len(ledger.records()) for ledger in ledgers] == [2] * 5
    assert not ending._endings._endings


@pytest.mark.parametrize(
    "end",
    ["", "import gc; gc.collect()", "del model, optimizer; import gc; gc.collect()"],
    ids=["kept", "collected", "dropped"],
)
def test_a_monitor_that_nobody_keeps_still_finishes(end: str) -> None:
    with RecordingServer() as server:
        done, _ = run_script(server.address, end, assign="")
        assert done.returncode == 0, done.stderr
        assert server.ledger.closed == [("finished", "")]
        assert [record.step for record in server.ledger.records()] == [0, 1, 2]


def test_an_ended_monitor_leaves_no_hook_on_the_interpreter() -> None:
    before = sys.excepthook
    loop = Loop()
    assert sys.excepthook != before
    loop.monitor.finish()

    assert sys.excepthook is before


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)], ids=str)
def test_monitors_that_end_in_any_order_leave_no_hook_on_the_interpreter(order: tuple[int, int, int]) -> None:
    gc.collect()  # runs of other tests end in the background, and must not do so meanwhile
    eventually(lambda: not ending._endings._endings, 20.0, "no run of another test is left")
    ending._endings.leave()
    before = sys.excepthook, sys.exit
    loops = [Loop() for _ in range(3)]
    for place in order:
        loops[place].monitor.finish()

    assert (sys.excepthook, sys.exit) == before


def test_a_hook_that_somebody_else_keeps_keeps_no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    kept = sys.excepthook
    monkeypatch.setattr(sys, "excepthook", functools.partial(kept))
    sender = weakref.ref(loop.monitor._sender)
    loop.monitor.finish()
    del loop
    gc.collect()

    assert sender() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_inert_and_its_parent_goes_on(loop: Loop) -> None:
    loop.step()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # Plain arithmetic on the weights: torch's own threads did not survive the fork.
            for parameter in loop.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            loop.optimizer.step()
            loop.monitor.log(loss=1.0)
            loop.monitor.finish()
            code = 0 if not registry.watches() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    loop.step()
    assert loop.monitor.finish(timeout_seconds=20.0).delivered == 2


def test_a_watch_that_is_dropped_lets_its_model_go() -> None:
    import gc
    import weakref

    loop = Loop()
    loop.step()
    reference = weakref.ref(loop.model)
    loop.monitor.finish()
    del loop
    gc.collect()

    assert reference() is None


def test_warnings_do_not_repeat_every_step(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            loop.monitor.log(loss=torch.ones(3))
            loop.step()

    assert len([record for record in caplog.records if record.name == "seismograd"]) == 1
    loop.monitor.finish(timeout_seconds=20.0)
    assert all(Quantity.LOSS in record.scalars for record in loop.ledger.records()), "a wrong call spoils no other"
