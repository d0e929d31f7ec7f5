"""What a gradient held is what the server's closed step says, for every type and at both ends of their ranges.

gradient -> capture -> record -> wire -> decoding -> composing: the way of a number, without the processes around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import seismograd
from seismograd.outbox.columns import normalise
from seismograd.outbox.encode import encode_batch, encode_catalog
from seismograd.testing import RecordingTransport
from seismograd_proto.v1 import telemetry
from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.compose import Composer
from seismograd_server.errors import InvalidBatchError
from seismograd_server.ingest.batches import decode_batches
from seismograd_server.ingest.identities import decode_catalog
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.model import ClosedBlock

LIMITS = IngestLimits()
REAL = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]


def refuse(_batch: telemetry.StepBatch, error: InvalidBatchError) -> None:
    raise error


def closed(model: nn.Module, gradients: list[Tensor], *, clip: bool = False) -> ClosedBlock:
    """One watched step with these gradients, as the server closes it."""
    transport = RecordingTransport()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = seismograd.watch(model, optimizer, project="tests", run="numbers", transport=transport)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    if clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert monitor.finish(timeout_seconds=20.0).complete
    (catalog,) = transport.ledger.catalogs
    wire = encode_batch(1, [normalise(record) for record in transport.ledger.records()])
    (batch,) = decode_batches([(wire, None)], lambda *_: len(catalog.parameters), LIMITS, refuse)
    aligner = Aligner(1, Patience(), now=0.0)
    aligner.offer(0, batch, now=0.0)
    (closing,) = aligner.close_all()
    composer = Composer(1, 1, catalogs={(0, 0): decode_catalog(encode_catalog(catalog), LIMITS)})
    (block,) = composer.compose(closing)
    return block


def vector(dtype: torch.dtype, count: int = 8) -> nn.Module:
    """A model of two parameters of this type."""
    model = nn.Module()
    model.first = nn.Parameter(torch.zeros(count, dtype=dtype))
    model.second = nn.Parameter(torch.zeros(3, dtype=dtype))
    return model


@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([math.nan, 1.0, math.nan], [2, 0, 0]),
        ([math.inf, 1.0, 0.5], [0, 1, 0]),
        ([-math.inf, -math.inf, 0.5], [0, 0, 2]),
        ([math.nan, math.inf, -math.inf], [1, 1, 1]),
    ],
    ids=["nan", "+inf", "-inf", "all"],
)
def test_what_is_not_finite_is_counted_by_kind_beside_the_norm_of_the_rest(
    values: list[float], counts: list[int], dtype: torch.dtype, clip: bool
) -> None:
    gradients = [torch.tensor([*values, 3.0, 4.0, 0.0, 0.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])]
    block = closed(vector(dtype), [gradient.to(dtype) for gradient in gradients], clip=clip)
    finite = [math.sqrt(sum(value**2 for value in values if math.isfinite(value)) + 25.0), 2.0]

    assert block.nonfinite.tolist() == [counts]
    assert [(each.layer, each.rank) for each in block.nonfinite_layers] == [(0, 0)]
    np.testing.assert_allclose(block.layer_norms[0], finite, rtol=1e-6)
    assert block.global_norm[0] == pytest.approx(math.hypot(*finite), rel=1e-6)


@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [
        (torch.float16, 60000.0),
        (torch.float16, 6e-8),  # its smallest subnormal
        (torch.bfloat16, 1e20),
        (torch.bfloat16, 1e-25),
        (torch.float32, 1e20),
        (torch.float32, 1e-25),
        (torch.float32, 1e38),
        (torch.float32, 1e-38),
        (torch.float32, 1e-42),  # subnormal
        (torch.float64, 1e20),
        (torch.float64, 1e-25),
        (torch.complex64, 1e20),
        (torch.complex64, 1e-25),
    ],
    ids=str,
)
def test_norms_whose_squares_leave_the_type_are_true(dtype: torch.dtype, magnitude: float, clip: bool) -> None:
    gradients = [torch.full((count,), magnitude, dtype=dtype) for count in (8, 3)]
    true = [float(gradient.abs().double().max()) * math.sqrt(gradient.numel()) for gradient in gradients]
    block = closed(vector(dtype), gradients, clip=clip)

    assert min(true) > 0.0
    # A subnormal float32 has few digits left: 1e-42 is a multiple of 1.4e-45.
    np.testing.assert_allclose(block.layer_norms[0], true, rtol=1e-6, atol=1e-45)
    assert block.global_norm[0] == pytest.approx(math.hypot(*true), rel=1e-3)
    assert not block.nonfinite.any()


@pytest.mark.parametrize(("magnitude", "shown"), [(1e300, np.finfo(np.float32).max), (1e-300, 1.401298464324817e-45)])
def test_what_no_float32_can_hold_is_neither_infinite_nor_zero(magnitude: float, shown: float) -> None:
    gradients = [torch.full((count,), magnitude, dtype=torch.float64) for count in (8, 3)]
    block = closed(vector(torch.float64), gradients)

    np.testing.assert_allclose(block.layer_norms[0], [shown, shown])
    assert 0.0 < block.global_norm[0] < math.inf
    assert not block.nonfinite.any()


def embedding() -> nn.Module:
    return nn.Embedding(6, 2, sparse=True)


@pytest.mark.parametrize(
    ("values", "counts", "norm"),
    [
        ([[1.0, 2.0], [2.0, 0.0], [4.0, 0.0]], [0, 0, 0], math.sqrt(9.0 + 4.0 + 16.0)),  # row 1 stands twice
        ([[1.0, math.nan], [2.0, 0.0], [4.0, math.inf]], [1, 1, 0], 5.0),
        ([[1e20, 0.0], [1e20, 0.0], [0.0, 0.0]], [0, 0, 0], 2e20),
        ([[1e-25, 0.0], [1e-25, 0.0], [0.0, 0.0]], [0, 0, 0], 2e-25),
    ],
    ids=["plain", "broken", "large", "small"],
)
def test_sparse_gradients_are_measured_as_the_sums_that_they_stand_for(
    values: list[list[float]], counts: list[int], norm: float
) -> None:
    gradient = torch.sparse_coo_tensor(torch.tensor([[1, 1, 3]]), torch.tensor(values), (6, 2), check_invariants=True)
    block = closed(embedding(), [gradient])

    assert block.nonfinite.tolist() == [counts]
    assert block.global_norm[0] == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("build", [lambda: vector(torch.float32), embedding], ids=["dense", "sparse"])
def test_a_gradient_of_zeros_is_zero(build: Callable[[], nn.Module]) -> None:
    model = build()
    block = closed(model, [torch.zeros_like(parameter) for parameter in model.parameters()])

    assert block.global_norm.tolist() == [0.0]
