"""Under torch.compile: the same records, the same weights, and not a line of ours compiled."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seismograd.capture import untraced
from seismograd.record import NormSource, Quantity
from tests.client.capture.conftest import Watched

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's compiler meets torch's own deprecations

Watch = Callable[..., Watched]

# Where the client lies; what is around it may be called the same.
OURS = f"{Path(untraced.__file__).parents[1]}/"


@pytest.fixture(autouse=True)
def _compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.clear_compilation_metrics()
    yield
    torch._dynamo.reset()


def compiled_files() -> set[str]:
    """Files of which a function was compiled by itself; not that of the wrapper, which says no only once it runs."""
    files = {str(metrics.co_filename) for metrics in torch._dynamo.utils.get_compilation_metrics()}
    return {name for name in files if not name.endswith("/untraced.py")}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


class Training:
    """Trains a model in one way; `step` is what may be compiled."""

    def __init__(self, way: str, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        self.monitor: Watched | None = None
        self.norms: list[list[float]] = []
        self.way = way
        self.step: Callable[[], None] = torch.compile(getattr(self, way), backend="eager")

    def stepping(self) -> None:
        self.optimizer.step()

    def clipping(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.optimizer.step()

    def everything(self) -> None:
        self.optimizer.zero_grad()
        loss = self.model(torch.ones(4, 6)).pow(2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.optimizer.step()
        if self.monitor is not None:
            self.monitor.monitor.log(loss=loss)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.way != "everything":
                self.optimizer.zero_grad()
                self.model(torch.ones(4, 6)).pow(2).mean().backward()
                self.norms.append([float(p.grad.norm()) for p in self.model.parameters() if p.grad is not None])
            self.step()


@pytest.mark.parametrize("way", ["stepping", "clipping", "everything"])
def test_a_compiled_step_is_recorded_without_our_code_being_compiled(watch: Watch, way: str) -> None:
    unwatched = Training(way, network())
    unwatched.run(25)
    training = Training(way, network())
    watched = training.monitor = watch(training.model, training.optimizer, sample_every=2)

    training.run(25)

    assert not [name for name in compiled_files() if name.startswith(OURS)]
    records = watched.records()
    assert [record.step for record in records] == list(range(25))
    assert {record.source for record in records} == {
        NormSource.OPTIMIZER_STEP if way == "stepping" else NormSource.CLIP
    }
    assert all((Quantity.LOSS in record.scalars) == (way == "everything") for record in records)
    for record, norms in zip(records, training.norms, strict=False):
        np.testing.assert_allclose(record.gradient_norms, norms, rtol=1e-6)  # type: ignore[arg-type]  # there
    for mine, other in zip(training.model.parameters(), unwatched.model.parameters(), strict=True):
        assert torch.equal(mine, other)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.tanh(self.first(inputs)))
        return result


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.net(inputs) * 2.0
        return result


def test_a_torch_that_does_not_say_whether_it_compiles_is_taken_to_where_its_compiler_is(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untraced, "_compiler", untraced._imported)
    training = Training("clipping", network())
    watched = watch(training.model, training.optimizer)

    training.run(5)

    assert not [name for name in compiled_files() if name.startswith(OURS)]
    assert [record.source for record in watched.records()] == [NormSource.CLIP] * 5


def test_asking_whether_something_is_compiled_takes_no_reference_from_the_answer() -> None:
    """Up to torch 2.7 it did, and None was freed in the end; from Python 3.12 on None cannot be."""
    asked = untraced.untraced(lambda: None)
    before = sys.getrefcount(None)
    for _ in range(1000):
        asked()

    assert abs(sys.getrefcount(None) - before) < 500


@pytest.mark.parametrize("version", ["2.6.0+cu124", "2.7.1", "2.8.0a0+git"])
def test_a_torch_whose_answer_is_not_its_own_is_not_asked(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))

    assert untraced._find_compiler() is untraced._imported


@pytest.mark.parametrize("how", ["around", "in place", "a part"])
def test_a_compiled_model_is_compiled_once(watch: Watch, how: str) -> None:
    graphs = 0

    def counting(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    model: Any = Outer()
    if how == "around":
        model = torch.compile(model, backend=counting)
    else:
        (model if how == "in place" else model.net).compile(backend=counting)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watched = watch(model, optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(4, 6)).sum().backward()
        optimizer.step()

    assert len(watched.records()) == 4
    assert graphs == 1
    names = [parameter.name for parameter in watched.ledger.catalogs[0].parameters]
    assert names == ["net.first.weight", "net.first.bias", "net.second.weight", "net.second.bias"]


def test_a_copy_of_a_watched_model_can_be_compiled(watch: Watch) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    twin = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)

    assert torch.equal(twin(torch.ones(1, 6)), model(torch.ones(1, 6)))
