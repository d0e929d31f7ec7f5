"""Whatever callers give: one message that names the thing, the value and the fix, and training that goes on as ever."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import torch
from torch import nn

import seismograd
from seismograd import arguments
from seismograd.capture import registry
from seismograd.testing import Ledger, RecordingTransport
from seismograd_server.ingest.limits import IngestLimits
from tests.support.processes import free_port

STEPS = 3


class Bare(nn.Module):
    """A model without parameters."""


class Loop:
    """A small training; `weights` is what it comes to."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.transport = RecordingTransport()

    def run(self, monitor: seismograd.Monitor | None, use: Callable[[seismograd.Monitor], object]) -> list[float]:
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            loss = self.model(torch.ones(3)).pow(2).sum()
            loss.backward()
            self.optimizer.step()
            if monitor is not None:
                use(monitor)
        if monitor is not None:
            monitor.finish(timeout_seconds=10.0)
            repr(monitor)
        weights: list[float] = self.model.weight.flatten().tolist()
        return weights


def use_after_the_end(monitor: seismograd.Monitor) -> None:
    monitor.finish()
    monitor.log(loss=1.0)
    monitor.checkpoint_saved(1, "/c")
    monitor.on_alert(print)
    assert not monitor.should_stop()


def nothing(_monitor: seismograd.Monitor) -> None:
    """A job that logs nothing."""


PLAIN = Loop().run(None, nothing)


@pytest.fixture(autouse=True)
def _torch_is_as_it_was() -> Iterator[None]:
    yield
    for watch in registry.watches():
        registry.remove(watch)


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, logger="seismograd"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name.startswith("seismograd")]


def assert_said_once(found: list[str], words: tuple[str, ...]) -> None:
    assert len(found) == 1, found
    assert "\n" not in found[0]
    assert all(word in found[0] for word in words), (words, found[0])


OPTIONS: list[tuple[str, Any, str]] = [  # option, value, a word of the fix
    *(
        (name, math.nan, "use")
        for name in ("sample_every", "sample_first", "flush_steps", "flush_bytes", "queue_bytes")
    ),
    *((name, math.nan, "use") for name in ("sample_budget", "flush_seconds", "finish_timeout_seconds")),
    *((name, "12", "use") for name in ("sample_every", "sample_budget", "flush_seconds", "queue_bytes")),
    *((name, -1, "use") for name in ("sample_every", "sample_budget", "flush_steps", "finish_timeout_seconds")),
    *((name, True, "use") for name in ("sample_every", "sample_budget", "flush_seconds")),
    ("sample_budget", 1.5, "0.01"),
    ("flush_seconds", math.inf, "positive"),
    ("project", 3, "name"),
    ("project", "", "1 to 256"),
    ("project", "a\nb", "control"),
    ("run", b"lstm", "name"),
    ("run", "\ud800", "Unicode"),
    ("tags", ["nlp"], "mapping"),
    ("tags", {"a b": "c"}, "match"),
    ("tags", {"team": 3}, "string"),
    ("tags", {"commit": "4e1f\n2a"}, "one line"),
    ("run", ".", "another name"),
    ("server", 7450, "host:port"),
    ("server", "http://x:y:z", "host:port"),
    ("mode", "onn", "'on'"),
    ("mode", math.nan, "'on'"),
    ("capture", 1, "'layers'"),
    ("token", 3, "token"),
    ("token", "with blanks in it", "without spaces"),
    ("token_file", 3, "path"),
    ("ca_file", "/nowhere/ca.pem", "PEM"),
    ("spool_dir", math.nan, "path"),
    ("sample_evry", 3, "sample_every"),
]


@pytest.mark.parametrize(("option", "value", "fix"), OPTIONS, ids=lambda each: str(each)[:20])
def test_an_option_that_cannot_work_is_named_with_its_value_and_the_fix(
    messages: Callable[[], list[str]], option: str, value: object, fix: str
) -> None:
    loop = Loop()
    options: dict[str, Any] = {"project": "tests", "run": "bad", option: value}
    monitor = seismograd.watch(loop.model, loop.optimizer, transport=loop.transport, **options)

    assert loop.run(monitor, lambda each: each.log(loss=1.0)) == PLAIN
    assert_said_once(messages(), ("training goes on without telemetry", option, fix))
    assert not monitor.active


class Deep(nn.Module):
    """A layer whose name is longer than the wire takes, around another one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.add_module("layer" * 60, inner)


def two() -> torch.optim.Optimizer:
    """Another optimizer, of two parameters, that never steps."""
    return torch.optim.SGD(nn.Linear(1, 1).parameters())


def with_rate(rate: object) -> Callable[[Loop], dict[str, Any]]:
    """Another optimizer than SGD, which has no such rate; it changes nothing."""

    class Still(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": rate})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]  # the shortest that can be watched
            pass

    def given(loop: Loop) -> dict[str, Any]:
        inner = loop.optimizer
        loop.optimizer = still = Still(loop.model.parameters())  # type: ignore[assignment]  # as good as any
        still.register_step_post_hook(lambda *_: inner.step())
        return {"optimizer": still}

    return given


ARGUMENTS: dict[str, tuple[Callable[[Loop], dict[str, Any]], tuple[str, ...], int]] = {  # keywords, words, records
    "step is NaN": (lambda _: {"step": math.nan}, ("step", "nan", "int"), 0),
    "step is a text": (lambda _: {"step": "7"}, ("step", "'7'", "int"), 0),
    "step is huge": (lambda _: {"step": 2**63}, ("step", "int"), 0),
    "no optimizer": (lambda _: {"optimizer": None}, ("optimizer", "None", "torch.optim.Optimizer"), 0),
    "optimizer by name": (lambda _: {"optimizer": "adam"}, ("optimizer", "'adam'", "torch.optim.Optimizer"), 0),
    "empty list": (lambda _: {"optimizer": []}, ("optimizer", "empty", "give"), 0),
    "swapped": (lambda loop: {"model": loop.optimizer, "optimizer": loop.model}, ("optimizer", "Linear", "give"), 0),
    "model by name": (lambda _: {"model": "gpt"}, ("model", "'gpt'", "torch.nn.Module"), 0),
    "transport": (lambda _: {"transport": "grpc"}, ("transport", "'grpc'", "leave it out"), 0),
    "config": (lambda _: {"config": 3}, ("config", "int", "mapping"), STEPS),
    "model without parameters": (lambda _: {"model": Bare()}, ("model", "Bare", "give the model"), STEPS),
    "another model": (lambda _: {"model": nn.Linear(2, 2)}, ("model", "Linear", "give the model"), STEPS),
    "a rate for each of two": (with_rate(torch.ones(2)), ("lr", "Still", "2 elements", "give a float"), STEPS),
    "a rate in words": (with_rate("low"), ("lr", "Still", "'low'", "give a float"), STEPS),
    "a long name": (lambda loop: {"model": Deep(loop.model)}, ("2 of its parameters", "layerlayer", "256"), STEPS),
    "more optimizers than fit": (
        lambda loop: {"optimizer": [loop.optimizer, *(two() for _ in range(69))]},
        ("optimizer", "70", "64", "give those first"),
        STEPS,
    ),
    "nothing to train": (
        lambda _: {"model": None, "optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1), requires_grad=False)])},
        ("optimizer", "requires a gradient"),
        0,
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_of_watch_that_cannot_work_is_named(messages: Callable[[], list[str]], case: str) -> None:
    keywords, words, records = ARGUMENTS[case]
    loop = Loop()
    given: dict[str, Any] = {"model": loop.model, "optimizer": loop.optimizer, "transport": loop.transport}
    monitor = seismograd.watch(**(given | keywords(loop)), project="tests", run="bad")

    assert loop.run(monitor, nothing) == PLAIN
    assert_said_once(messages(), words)
    assert len(loop.transport.ledger.records()) == records


CALLS: dict[str, tuple[Callable[[seismograd.Monitor], object], tuple[str, ...], int]] = {  # call, words, records
    "a loss of many elements": (lambda m: m.log(loss=torch.ones(2, 3)), ("log", "6 elements", "loss.mean()"), STEPS),
    "a loss of none": (lambda m: m.log(loss=torch.ones(0)), ("log", "0 elements", "loss.mean()"), STEPS),
    "a complex loss": (lambda m: m.log(loss=torch.ones((), dtype=torch.complex64)), ("loss", "complex64"), STEPS),
    "a loss in words": (lambda m: m.log(loss="low"), ("loss", "str", "float"), STEPS),  # type: ignore[arg-type]  # the point
    "a list of losses": (lambda m: m.log(loss=[1.0]), ("loss", "list", "float"), STEPS),  # type: ignore[arg-type]  # the point
    "a step that is NaN": (lambda m: m.log(loss=1.0, step=math.nan), ("step", "nan", "int"), STEPS),  # type: ignore[arg-type]  # the point
    "a step in words": (lambda m: m.log(loss=1.0, step="one"), ("step", "'one'", "int"), STEPS),  # type: ignore[arg-type]  # the point
    "a checkpoint nowhere": (lambda m: m.checkpoint_saved(1, None), ("path", "None", "pathlib.Path"), STEPS),  # type: ignore[arg-type]  # the point
    "a checkpoint never": (lambda m: m.checkpoint_saved("x", "/c"), ("step", "'x'", "int"), STEPS),  # type: ignore[arg-type]  # the point
    "no callback": (lambda m: m.on_alert("me"), ("callback", "'me'", "function"), STEPS),  # type: ignore[arg-type]  # the point
    "every none": (lambda m: m.should_stop(synchronize=True, every=0), ("every", "0", "from 1 up"), STEPS),
    "an outcome": (lambda m: m.finish("exploded"), ("outcome", "'exploded'", "'failed'"), 1),  # type: ignore[arg-type]  # the point
    "a timeout": (lambda m: m.finish(timeout_seconds=math.nan), ("timeout_seconds", "nan", "2 is taken"), 1),
    "a closed monitor": (use_after_the_end, ("closed", "log()", "watch()"), 1),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_cannot_work_is_named_once_however_often_it_is_made(
    messages: Callable[[], list[str]], case: str
) -> None:
    call, words, records = CALLS[case]
    loop = Loop()
    monitor = seismograd.watch(loop.model, loop.optimizer, project="tests", run="bad", transport=loop.transport)

    assert loop.run(monitor, call) == PLAIN
    assert_said_once(messages(), words)
    assert len(loop.transport.ledger.records()) == records


def test_a_wrong_call_does_not_spoil_the_right_ones_after_it(messages: Callable[[], list[str]]) -> None:
    loop = Loop()
    monitor = seismograd.watch(loop.model, loop.optimizer, project="tests", run="bad", transport=loop.transport)
    monitor.checkpoint_saved("one", "/c")  # type: ignore[arg-type]  # the point
    monitor.checkpoint_saved(1, "/c")

    loop.run(monitor, lambda each: each.log(loss=2.0))

    assert len(messages()) == 1
    assert loop.transport.ledger.checkpoints == [(1, "/c")]


def test_an_optimizer_watched_twice_is_named_and_recorded_by_both(messages: Callable[[], list[str]]) -> None:
    loop, other = Loop(), RecordingTransport()
    first = seismograd.watch(loop.model, loop.optimizer, project="tests", run="one", transport=loop.transport)
    second = seismograd.watch(loop.model, loop.optimizer, project="tests", run="two", transport=other)

    assert loop.run(second, nothing) == PLAIN
    first.finish(timeout_seconds=10.0)

    assert_said_once(messages(), ("optimizer", "watched already", "finish()"))
    assert len(loop.transport.ledger.records()) == len(other.ledger.records()) == STEPS


def test_of_too_many_optimizers_as_many_are_watched_as_the_server_takes() -> None:
    loop = Loop()
    many = [loop.optimizer, *(two() for _ in range(69))]
    monitor = seismograd.watch(loop.model, many, project="tests", run="bad", transport=loop.transport)

    assert loop.run(monitor, nothing) == PLAIN
    watched = {catalog.optimizer for catalog in loop.transport.ledger.catalogs}
    assert watched == set(range(IngestLimits().max_optimizers))


def test_more_parameters_than_the_server_takes_of_one_optimizer_are_said_at_once(
    messages: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "MOST_PARAMETERS", 1)
    loop = Loop()
    monitor = seismograd.watch(loop.model, loop.optimizer, project="tests", run="bad", transport=loop.transport)

    assert loop.run(monitor, nothing) == PLAIN
    assert_said_once(messages(), ("optimizer: 2 trainable parameters", "the server takes", "give several"))


def test_a_batch_that_is_no_unicode_is_told_as_far_as_it_is_and_every_record_arrives(
    messages: Callable[[], list[str]],
) -> None:
    loop, names = Loop(), iter(["a.wav", "caf\udce9.wav", "\udce9" * 5000])
    monitor = seismograd.watch(loop.model, loop.optimizer, project="tests", run="bad", transport=loop.transport)

    assert loop.run(monitor, lambda each: each.log(loss=1.0, batch=next(names))) == PLAIN

    first, second, third = [record.data_ids for record in loop.transport.ledger.records()]
    assert (first, second) == ("a.wav", "caf\\udce9.wav")
    assert third is not None
    assert third.startswith("\\udce9")
    assert len(third) == IngestLimits().max_data_ids_bytes
    assert messages() == []


class RefusingTokens(grpc.GenericRpcHandler):
    """A server that knows nobody."""

    def service(self, _details: Any) -> Any:
        def refuse(_requests: Any, context: grpc.ServicerContext) -> Any:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing_server() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((RefusingTokens(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def log_until_it_fails(monitor: seismograd.Monitor) -> None:
    """Logs, and waits until the sender has met what is wrong."""
    monitor.log(loss=1.0)
    ledger = Ledger()
    while monitor.state is None or not monitor.state.last_error:
        assert not ledger.wait_for(lambda _: False, timeout_seconds=0.02)


@pytest.mark.timeout(30)
def test_an_unreachable_server_is_named_once(messages: Callable[[], list[str]], tmp_path: Any) -> None:
    loop, address = Loop(), f"127.0.0.1:{free_port()}"
    options: dict[str, Any] = {"project": "tests", "run": "bad", "server": address, "spool_dir": tmp_path}
    monitor = seismograd.watch(loop.model, loop.optimizer, **options)

    assert loop.run(monitor, log_until_it_fails) == PLAIN
    first, *ending = messages()
    assert_said_once([first], (address, "seismograd serve", "SEISMOGRAD_SERVER", "training goes on"))
    assert all("not delivered before the end" in message for message in ending)


@pytest.mark.timeout(30)
def test_a_token_that_the_server_refuses_is_named_once(
    messages: Callable[[], list[str]], refusing_server: str, tmp_path: Any
) -> None:
    loop = Loop()
    monitor = seismograd.watch(
        loop.model, loop.optimizer, project="tests", run="bad", server=refusing_server, token="sg_x", spool_dir=tmp_path
    )

    assert loop.run(monitor, log_until_it_fails) == PLAIN
    first, *ending = messages()
    assert_said_once([first], (refusing_server, "refuses the token", "SEISMOGRAD_TOKEN"))
    assert all("not delivered before the end" in message for message in ending)
