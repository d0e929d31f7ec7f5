"""Norms in their places: the bits of torch, however they get there, and no number where the gradients are unusual."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seismograd.capture import row as row_module
from seismograd.capture.norms import stacked_norms
from seismograd.capture.row import NormRow, OwnRow

FEW, MANY = 1000, 0

SHAPES = st.one_of(
    st.sampled_from([(1,), (7,), (7,), (192,), (192,), (2048,), (2049,)]),
    st.tuples(st.integers(0, 3000)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.just(()),
)


def row_of(gradients: list[Tensor | None], *, worth_leaving: int = MANY, worth_copying: int = 2) -> NormRow:
    with (
        mock.patch.object(row_module, "WORTH_LEAVING", worth_leaving),
        mock.patch.object(row_module, "_WORTH_COPYING", worth_copying),
    ):
        return NormRow([None if gradient is None else gradient.shape for gradient in gradients])


@settings(deadline=None)
@given(
    shapes=st.lists(st.tuples(SHAPES, st.booleans()), min_size=1, max_size=30),
    worth_leaving=st.sampled_from([FEW, MANY]),
    worth_copying=st.sampled_from([2, 8]),
    exponent=st.integers(-12, 12),
    seed=st.integers(0, 99),
)
def test_the_norms_have_the_bits_of_torch_wherever_gradients_are_missing(
    shapes: list[tuple[tuple[int, ...], bool]], worth_leaving: int, worth_copying: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = [
        torch.randn(shape, generator=generator) * 10.0**exponent if present else None for shape, present in shapes
    ]
    there = [gradient for gradient in gradients if gradient is not None]
    row = row_of(gradients, worth_leaving=worth_leaving, worth_copying=worth_copying)

    for _ in range(2):
        row.measure(there)

        expected = torch.zeros(len(gradients))
        if there:
            present = torch.tensor([gradient is not None for gradient in gradients])
            expected[present] = stacked_norms(there, None)
        assert torch.equal(row.row, expected)
        assert row.data == expected.numpy().tobytes()


def test_gradients_that_are_not_contiguous_have_the_bits_of_torch_as_well() -> None:
    grid = torch.randn(192, 60, generator=torch.Generator().manual_seed(0))
    gradients: list[Tensor | None] = [*grid.t().unbind(), grid.t(), *torch.tensor([1.1, 2.1]).expand(192, 2).t()]
    row = row_of(gradients)

    row.measure([gradient for gradient in gradients if gradient is not None])

    assert torch.equal(row.row, torch.stack([torch.linalg.vector_norm(each) for each in gradients]))


@pytest.mark.parametrize("worth_leaving", [FEW, MANY])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(5, dtype=torch.float64),
        torch.ones(5, dtype=torch.bfloat16),
        torch.ones(5, dtype=torch.float16),
        torch.ones(5, dtype=torch.complex128),
        torch.ones(5, dtype=torch.int32),
        torch.ones(5, device="meta"),
        torch.ones(5).to_sparse(),
    ],
    ids=["float64", "bfloat16", "float16", "complex128", "int32", "elsewhere", "sparse"],
)
def test_a_gradient_of_another_kind_is_refused_among_whichever_it_is(
    odd: Tensor, place: int, worth_leaving: int
) -> None:
    usual: list[Tensor | None] = [torch.ones(5), torch.ones(2, 3), torch.ones(5)]
    row = row_of(usual, worth_leaving=worth_leaving)
    gradients = [gradient for gradient in usual if gradient is not None]

    with pytest.raises(RuntimeError):
        row.measure([*gradients[:place], odd, *gradients[place + 1 :]])

    row.measure(gradients)
    assert row.row.tolist() == torch.stack([gradient.norm() for gradient in gradients]).tolist()


@pytest.mark.parametrize("worth_leaving", [FEW, MANY])
def test_a_complex_gradient_is_refused_or_measured_as_torch_does(worth_leaving: int) -> None:
    odd = torch.full((5,), 3 + 4j)
    row = row_of([torch.ones(5)] * 2, worth_leaving=worth_leaving)

    try:
        row.measure([torch.ones(5), odd])
    except RuntimeError:
        assert worth_leaving == MANY
    else:
        assert row.row.tolist() == [float(torch.ones(5).norm()), float(torch.linalg.vector_norm(odd))]


@pytest.mark.parametrize(
    "odd", [torch.ones(5, dtype=torch.float64), torch.ones(5, dtype=torch.complex64), torch.ones(5, device="meta")]
)
def test_gradients_that_are_all_of_another_kind_are_refused(odd: Tensor) -> None:
    row = row_of([torch.ones(5)] * 4)

    with pytest.raises(RuntimeError):
        row.measure([odd] * 4)


@pytest.mark.parametrize("worth_leaving", [FEW, MANY])
@pytest.mark.parametrize("place", [0, 2])
def test_a_gradient_that_is_missing_unexpectedly_is_told_apart_from_an_odd_one(place: int, worth_leaving: int) -> None:
    gradients: list[Tensor | None] = [torch.ones(5), torch.ones(5), torch.ones(2, 3)]
    row = row_of(gradients, worth_leaving=worth_leaving)
    gradients[place] = None

    with pytest.raises((TypeError, AttributeError)):
        row.measure(gradients)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("shape", [(9,), (2, 2), (3, 3), (), (0,)])
@pytest.mark.parametrize("how_many", [1, 9, 17])
def test_gradients_that_have_become_other_shapes_are_measured_as_they_are(how_many: int, shape: tuple[int]) -> None:
    usual: list[Tensor | None] = [*[torch.ones(4)] * 9, *[torch.ones(5)] * 8, None]
    row = row_of(usual)
    gradients = [gradient for gradient in usual if gradient is not None]
    changed = [*[torch.full(shape, 2.0)] * how_many, *gradients[how_many:]]

    for now in (gradients, changed, gradients):
        row.measure(now)

        assert row.row.tolist() == [*(float(torch.linalg.vector_norm(each)) for each in now), 0.0]


@pytest.mark.parametrize("worth_leaving", [FEW, MANY])
def test_gradients_with_a_graph_are_measured_without_one(worth_leaving: int) -> None:
    gradients: list[Tensor | None] = [torch.ones(4), torch.ones(4, requires_grad=True) * 2.0, torch.ones(2, 2)]
    row = row_of(gradients, worth_leaving=worth_leaving)

    row.measure([gradient for gradient in gradients if gradient is not None])

    assert (row.row.tolist(), row.row.requires_grad) == ([2.0, 4.0, 2.0], False)


@pytest.mark.parametrize("worth_leaving", [FEW, MANY])
def test_the_row_that_a_clip_in_inference_mode_has_made_serves_every_other_clip(worth_leaving: int) -> None:
    with mock.patch.object(row_module, "WORTH_LEAVING", worth_leaving):
        own = OwnRow()
        with torch.inference_mode():
            own.measured([torch.ones(4)] * 9)

        assert own.measured([torch.full((4,), 2.0)] * 9).tolist() == [4.0] * 9


def test_what_was_measured_stays_as_it_is_when_the_next_gradients_are() -> None:
    own = OwnRow()

    first, second = own.measured([torch.ones(4)]), own.measured([torch.zeros(4)])

    assert (first.tolist(), second.tolist()) == ([2.0], [0.0])
