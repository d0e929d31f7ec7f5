"""Plain steps take a short way; it gives what the long way gives, whatever the job does between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import seismograd
from seismograd.capture import plain as plain_module
from seismograd.capture import row as row_module
from seismograd.capture.budget import Budget
from seismograd.capture.plain import PlainSteps
from seismograd.outbox.packing import Heading, pack, pack_step
from seismograd.outbox.template import Template
from seismograd.record import NormSource, Quantity, RecordFlag, StepRecord
from seismograd.testing import RecordingTransport
from tests.client.capture.conftest import Watched

Watch = Callable[..., Watched]

# What a job may do in one iteration. Most are ordinary, so that plain and other steps alternate.
HABITS = st.lists(
    st.fixed_dictionaries(
        {
            "clip": st.sampled_from([None, None, 1e-3, 1e3, "torch", "twice", "in two"]),
            "log": st.sampled_from(["after", "after", "before", "never", "behind the next backward", "twice"]),
            "said": st.sampled_from([{}, {}, {}, {"batch": "b7"}, {"step": 3}, {"step": 40}]),
            "oddity": st.sampled_from(
                [None] * 6
                + ["zero", "tiny", "nan", "missing", "all missing", "thawed", "in a graph"]
                + ["changed", "closure", "rate", "skipped", "grown", "two backwards", "replaced", "raised"]
            ),
        }
    ),
    min_size=1,
    max_size=14,
)
ORDINARY: dict[str, Any] = {"clip": None, "log": "after", "said": {}, "oddity": None}
TIMES = {Quantity.STEP_SECONDS, Quantity.CAPTURE_SECONDS}


def train(
    habits: list[dict[str, Any]],
    *,
    short: bool,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    **options: Any,
) -> tuple[list[StepRecord], int]:
    """Trains with these habits; the records, and how many of the steps were plain ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = kind([*model.parameters(), frozen], lr=0.01)
    transport = RecordingTransport()
    ended = PlainSteps.ended
    plain = count()

    def count_and_end(self: PlainSteps) -> None:
        next(plain)
        ended(self)

    # How often samples are taken depends on what they cost, which differs from run to run.
    with mock.patch.object(PlainSteps, "ended", count_and_end), mock.patch.object(Budget, "samples_took"):
        options = {"sample_every": 7, "sample_first": 0} | options
        monitor = seismograd.watch(model, optimizer, project="p", run="r", transport=transport, **options)
        if short:
            iterate(habits, model, optimizer, monitor)
        else:
            with mock.patch("seismograd.capture.series.can_be_plain", return_value=False):
                iterate(habits, model, optimizer, monitor)
        assert monitor.active
        assert monitor.finish(timeout_seconds=20.0).complete
    return transport.ledger.records(), next(plain)


def iterate(
    habits: list[dict[str, Any]], model: nn.Module, optimizer: torch.optim.Optimizer, monitor: seismograd.Monitor
) -> None:
    generator = torch.Generator().manual_seed(1)
    late = None
    for number, habit in enumerate(habits):
        if habit["log"] == "before":
            monitor.log(loss=float(number), **habit["said"])
        optimizer.zero_grad()
        for _ in range(2 if habit["oddity"] == "two backwards" else 1):
            model(torch.randn(5, 3, generator=generator)).pow(2).mean().backward()
        if late is not None:
            monitor.log(loss=late)
        late = float(number) if habit["log"] == "behind the next backward" else None
        change(habit["oddity"], model, optimizer)
        clip(habit["clip"], list(model.parameters()))
        step(habit["oddity"], model, optimizer, monitor)
        if habit["log"] in ("after", "twice"):
            monitor.log(loss=torch.tensor(float(number)), **habit["said"])
        if habit["log"] == "twice":
            monitor.log(loss=-1.0)


def change(how: str | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    first, second = list(model.parameters())[:2]
    assert first.grad is not None
    if how == "zero":
        first.grad.zero_()
    elif how == "tiny":
        first.grad.fill_(1e-30)  # whose squares are zero in float32
    elif how == "all missing":
        optimizer.zero_grad()
    elif how == "thawed":
        optimizer.param_groups[0]["params"][-1].requires_grad_().grad = torch.ones(2)
    elif how == "nan":
        first.grad[0, 0] = math.nan
    elif how == "missing":
        second.grad = None
    elif how == "in a graph":
        first.grad.requires_grad_()
    elif how == "rate":
        optimizer.param_groups[0]["lr"] *= 0.5
    elif how == "replaced":
        replace_first(model, optimizer)
    elif how == "grown":
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


def replace_first(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As a model does that is made denser: another parameter, in the same place of the same group."""
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    new = nn.Parameter(layer.weight.detach().clone())
    new.grad, layer.weight = layer.weight.grad, new
    optimizer.param_groups[0]["params"][0] = new


def step(how: str | None, model: nn.Module, optimizer: torch.optim.Optimizer, monitor: seismograd.Monitor) -> None:
    first = next(model.parameters())
    if how == "changed" and first.grad is not None:
        first.grad.mul_(0.5)
    if how == "skipped":
        monitor.log(loss=0.5, skipped=True)
    elif how == "raised":
        handle = optimizer.register_step_pre_hook(fail)
        with pytest.raises(ArithmeticError):
            optimizer.step()
        handle.remove()
    elif how == "closure":
        optimizer.step(lambda: torch.zeros(()))  # type: ignore[arg-type,return-value]  # torch says float, takes tensors
    else:
        optimizer.step()


def fail(*_: object) -> None:
    raise ArithmeticError("this is the job's own")


def clip(how: object, parameters: list[nn.Parameter]) -> None:
    if how == "torch":
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    elif how == "twice":
        seismograd.clip_grad_norm_(parameters, 0.5)
        seismograd.clip_grad_norm_(parameters, 0.1)
    elif how == "in two":
        for half in (parameters[:1], parameters[1:]):
            seismograd.clip_grad_norm_(half, 0.1)
    elif isinstance(how, float):
        seismograd.clip_grad_norm_(parameters, how)


def timeless(record: StepRecord) -> bytes:
    """The record but for what a clock said."""
    scalars = {quantity: 0.0 if quantity in TIMES else value for quantity, value in record.scalars.items()}
    return pack(replace(record, time_unix_seconds=0.0, scalars=scalars))


@contextmanager
def measured_as(parameters: str) -> Iterator[None]:
    """Of a few parameters norms are taken without leaving autograd, of many outside of it."""
    with (
        mock.patch.object(row_module, "WORTH_LEAVING", 1000 if parameters == "few" else 0),
        mock.patch.object(row_module, "_WORTH_COPYING", 2),
    ):
        yield


@settings(max_examples=40, deadline=None)
@given(HABITS, st.sampled_from(["few", "many"]))
@example([ORDINARY | {"log": "before", "said": {"batch": "b7"}}, ORDINARY], "few")
@example([ORDINARY | {"clip": 1e-3, "oddity": "changed"}, ORDINARY], "many")
@example([ORDINARY | {"oddity": "in a graph"}, ORDINARY], "few")
@example([ORDINARY | {"clip": 1e-3, "oddity": "replaced"}, ORDINARY], "few")
@example([ORDINARY | {"oddity": "raised"}, ORDINARY | {"clip": 1e-3}], "few")
def test_whatever_a_job_does_both_ways_give_the_same_records(habits: list[dict[str, Any]], parameters: str) -> None:
    habits = [ORDINARY] * 3 + habits  # from the third step on they may be plain
    with measured_as(parameters):
        shortly, _ = train(habits, short=True)
    at_length, plain = train(habits, short=False)

    assert plain == 0
    assert list(map(timeless, shortly)) == list(map(timeless, at_length))


@pytest.mark.parametrize("how", [None, 1e-3, 1e3, "torch"])
@pytest.mark.parametrize("log", ["after", "before", "never"])
@pytest.mark.parametrize("kind", [{}, {"foreach": True}, {"fused": True}], ids=["default", "foreach", "fused"])
@pytest.mark.parametrize("parameters", ["few", "many"])
def test_ordinary_steps_are_plain_ones(how: object, log: str, kind: dict[str, Any], parameters: str) -> None:
    habits = [ORDINARY | {"clip": how, "log": log}] * 40

    with measured_as(parameters):
        records, plain = train(habits, short=True, kind=partial(torch.optim.SGD, **kind), sample_every=0)

    assert len(records) == 40
    # The sender's thread begins with the first record. And as long as a loss is expected in vain, the step that misses
    # it is ended by the next one, on the long way.
    assert plain >= (18 if log == "never" else 38)


@pytest.mark.parametrize("how", [None, 1e-3])
def test_a_job_that_logs_now_and_then_after_its_steps_has_plain_ones(how: object) -> None:
    habits = [ORDINARY | {"clip": how, "log": "after" if number % 5 == 4 else "never"} for number in range(40)]

    shortly, plain = train(habits, short=True, sample_every=0)
    at_length, _ = train(habits, short=False, sample_every=0)

    assert plain >= 33  # all from the second step on behind the first that was logged
    assert list(map(timeless, shortly)) == list(map(timeless, at_length))


@pytest.mark.parametrize("parameters", ["few", "many"])
def test_gradients_with_a_graph_of_their_own_leave_steps_plain(parameters: str) -> None:
    habits = [*[ORDINARY] * 5, *[ORDINARY | {"oddity": "in a graph"}] * 20, *[ORDINARY] * 15]

    with measured_as(parameters):
        records, plain = train(habits, short=True, sample_every=0)

    assert len(records) == 40
    assert plain >= 38


@pytest.mark.parametrize("how", [None, 1e-3, "torch"])
@pytest.mark.parametrize("oddity", ["missing", "zero"])
def test_a_gradient_that_is_missing_or_zero_does_not_make_a_step_unusual(oddity: str, how: object) -> None:
    """Of unused and frozen parameters and dead layers there is one in nearly every model."""
    ordinary = ORDINARY | {"clip": how}
    habits = [ordinary] * 3 + [ordinary | {"oddity": oddity}] * 20 + [ordinary] * 20

    shortly, plain = train(habits, short=True, sample_every=0)
    at_length, _ = train(habits, short=False, sample_every=0)

    assert plain >= 40
    assert list(map(timeless, shortly)) == list(map(timeless, at_length))


@pytest.mark.parametrize("with_loss", [False, True])
@given(
    norms=st.lists(st.floats(2.0**-99, 2.0**99, width=32), min_size=1, max_size=9),
    numbers=st.tuples(st.integers(0, 2**40), st.integers(-(2**40), 2**40), st.floats(0, 1e10)),
)
def test_a_template_gives_the_bytes_of_the_record_that_it_stands_for(
    with_loss: bool, norms: list[float], numbers: tuple[int, int, float]
) -> None:
    sequence, step, when = numbers
    row = np.array(norms, np.float32)
    scalars = {Quantity.LEARNING_RATE: 0.1, Quantity.STEP_SECONDS: 2.0} | ({Quantity.LOSS: 3.5} if with_loss else {})
    heading = Heading(2, 3, sequence, step, when, 1, len(row))
    packed = pack_step(heading, NormSource.CLIP, RecordFlag.CLIPPED, row, scalars, data_ids=None)
    template = Template(heading._replace(sequence=0, step=0), NormSource.CLIP, RecordFlag.CLIPPED, list(scalars))

    template.fill(7, 8, 9.0, tuple(range(len(scalars))), bytes(row.nbytes))
    filled = template.fill(sequence, step, when, tuple(scalars.values()), row.tobytes())

    assert filled == packed.data


def test_a_plain_step_is_in_the_ring_when_the_step_is_over_and_when_its_loss_was_logged(watch: Watch) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer, sample_every=0, sample_first=0)
    session: Any = watched.monitor._session
    for step in range(6):
        optimizer.zero_grad()
        model(torch.ones(2)).sum().backward()
        optimizer.step()
        watched.monitor.log(loss=float(step))

        ring = session._sender.rings.of(0)
        assert [record.scalars[Quantity.LOSS] for record in ring.sequences(step, step + 1)] == [float(step)]
    assert session._series[0].watch.plain is not None


def test_what_a_job_clips_within_the_step_belongs_to_that_step(watch: Watch) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer, sample_every=0, sample_first=0)

    def clip_late(*_: object) -> None:
        seismograd.clip_grad_norm_(model.parameters(), 0.5)

    optimizer.register_step_pre_hook(clip_late)
    for step in range(6):
        optimizer.zero_grad()
        (model(torch.ones(2)).sum() * (step + 1)).backward()
        optimizer.step()
        watched.monitor.log(loss=float(step))

    records = watched.records()
    assert [record.scalars[Quantity.CLIP_THRESHOLD] for record in records] == [0.5] * 6
    norms = [float(np.linalg.norm(record.gradient_norms)) for record in records if record.gradient_norms is not None]
    np.testing.assert_allclose(norms, [math.sqrt(3.0) * (step + 1) for step in range(6)], rtol=1e-6)


def test_gradients_that_are_never_plain_are_not_measured_twice_for_long(watch: Watch) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer, sample_every=0, sample_first=0)
    tried = count()
    with mock.patch.object(row_module, "norm_into", side_effect=lambda *_, **__: next(tried)):
        for step in range(40):
            optimizer.zero_grad()
            (model(torch.ones(2)).sum() * math.nan).backward()
            optimizer.step()
            watched.monitor.log(loss=float(step))

    records = watched.records()
    assert len(records) == 40
    assert all(record.nonfinite is not None for record in records)
    assert next(tried) <= 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of", [torch.float32, torch.complex64])
@pytest.mark.parametrize("parameters", ["few", "many"])
def test_norms_of_gradients_of_another_type_than_their_parameters_are_not_rounded_to_it(
    watch: Watch, dtype: torch.dtype, of: torch.dtype, parameters: str
) -> None:
    weight: Any = nn.Parameter(torch.zeros(300, dtype=of))
    if not hasattr(Tensor, "grad_dtype"):  # up to torch 2.8 there is no such gradient
        with pytest.raises(RuntimeError, match="attempting to assign a gradient with dtype"):
            weight.grad = torch.zeros(300, dtype=dtype)
        return
    weight.grad_dtype = None
    bias = nn.Parameter(torch.zeros(4, dtype=of))
    optimizer = torch.optim.SGD([weight, bias], lr=0.0)
    with measured_as(parameters):
        watched = watch(None, optimizer, sample_every=0, sample_first=0)
        for _ in range(12):
            weight.grad, bias.grad = torch.full((300,), 0.3, dtype=dtype), torch.ones(4, dtype=of)
            watched.monitor.log(loss=1.0)
            optimizer.step()
        records = watched.records()

    exact = float(torch.full((300,), 0.3, dtype=dtype).double().norm())
    assert len(records) == 12
    for record in records:
        assert record.gradient_norms is not None
        assert record.gradient_norms.tolist() == pytest.approx([exact, 2.0], rel=1e-6)


def test_a_model_of_which_ever_other_parts_are_used_has_plain_steps_and_a_row_for_each(watch: Watch) -> None:
    heads = nn.ModuleList(nn.Linear(2, 3) for _ in range(10))
    optimizer = torch.optim.SGD(heads.parameters(), lr=0.0)
    watched = watch(heads, optimizer, sample_every=0, sample_first=0)
    rows = mock.Mock(side_effect=row_module.NormRow)
    used = [*[0, 1, 2] * 10, *range(10), *[0, 1, 2] * 10]
    with measured_as("many"), mock.patch.object(plain_module, "NormRow", rows):
        for step, head in enumerate(used):
            optimizer.zero_grad()
            (heads[head](torch.ones(2)).sum() * (step + 1)).backward()
            optimizer.step()
            watched.monitor.log(loss=float(step))

    records = watched.records()
    assert 10 <= rows.call_count <= 20
    for step, (head, record) in enumerate(zip(used, records, strict=True)):
        assert record.gradient_norms is not None
        expected = np.zeros(20)
        expected[2 * head : 2 * head + 2] = np.sqrt([6.0, 3.0]) * (step + 1)
        np.testing.assert_allclose(record.gradient_norms, expected, rtol=1e-6)


@pytest.mark.parametrize("after", [None, "closure", "nan"])
def test_a_step_that_raised_leaves_nothing_in_the_record_of_the_next_one(watch: Watch, after: str | None) -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watched = watch(model, optimizer, sample_every=0, sample_first=0)
    fails = False

    def fail(*_: object) -> None:
        if fails:
            raise ArithmeticError("this is the job's own")

    for step in range(9):
        fails = step == 5
        optimizer.zero_grad()
        (model(torch.tensor([3.0, 4.0])).sum() * (math.nan if step == 6 and after == "nan" else step + 1)).backward()
        with pytest.raises(ArithmeticError) if fails else nullcontext():
            if step == 2:
                optimizer.register_step_pre_hook(fail)
            if step == 6 and after == "closure":
                optimizer.step(lambda: torch.zeros(()))
            else:
                optimizer.step()
            watched.monitor.log(loss=float(step))

    records = watched.records()
    norms = [float(record.gradient_norms[0]) for record in records if record.gradient_norms is not None]
    odd = 0.0 if after == "nan" else 35.0
    assert norms == [5.0, 10.0, 15.0, 20.0, 25.0, odd, 40.0, 45.0]
    assert [record.nonfinite is not None for record in records] == [place == 5 and after == "nan" for place in range(8)]
