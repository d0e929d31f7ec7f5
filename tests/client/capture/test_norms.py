"""The numbers themselves: equal to torch's to the last bit where torch is followed, true where torch gives up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seismograd.capture import norms
from seismograd.capture.row import OwnRow


def gradients_of(dtype: torch.dtype, sizes: list[int], scale: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, generator=generator) * scale).to(dtype) for size in sizes]


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 37.0]),
    seed=st.integers(0, 2**31),
    alike=st.booleans(),
)
def test_the_total_norm_has_the_bits_of_torch(
    *, dtype: torch.dtype, sizes: list[int], scale: float, seed: int, alike: bool
) -> None:
    gradients = gradients_of(dtype, sizes, scale, seed)
    expected = torch.nn.utils.get_total_norm(gradients)

    own = OwnRow().measured if alike else None
    measured = norms.torch_norm(gradients, None, own)

    assert measured is not None
    assert measured.total.dtype == expected.dtype
    assert torch.equal(measured.total, expected)


def odd_gradients(kind: str, seed: int) -> list[Tensor]:
    """64 gradients, most of them vectors, of which some are not what they were when the row was made."""
    gradients = gradients_of(torch.float32, [5] * 40 + [9] * 20 + [300] * 4, 1.0, seed)
    if kind == "longer":
        gradients[:40] = gradients_of(torch.float32, [9] * 40, 1.0, seed)
    elif kind == "matrices":
        gradients[40:60] = [gradient.view(3, 3) for gradient in gradients[40:60]]
    elif kind == "numbers":
        gradients[40:60] = [gradient.sum() for gradient in gradients[40:60]]
    elif kind == "scattered":
        gradients[40:60] = [gradient.repeat(2)[::2] for gradient in gradients[40:60]]
        gradients[:40] = [torch.stack([gradient] * 3, 1)[:, 1] for gradient in gradients[:40]]
    elif kind == "complex":
        gradients[60:62] = [gradient.to(torch.complex64) for gradient in gradients[60:62]]
    elif kind == "double":
        gradients[3] = gradients[3].double()
    return gradients


@pytest.mark.parametrize("kind", ["usual", "longer", "matrices", "numbers", "scattered", "complex", "double"])
def test_the_total_has_the_bits_of_torch_whatever_the_gradients_have_become(kind: str) -> None:
    own = OwnRow()
    for seed in range(30):
        for gradients in (odd_gradients("usual", seed), odd_gradients(kind, seed)):
            measured = norms.torch_norm(gradients, None, own.measured)

            assert measured is not None
            assert torch.equal(measured.total, torch.nn.utils.get_total_norm(gradients))


def test_a_device_without_float64_is_never_asked_for_it() -> None:
    assert norms.widest(torch.device("mps")) is torch.float32
    assert norms.widest(torch.device("cuda")) is torch.float64
    assert norms.accumulation(torch.float32, torch.device("mps")) is None


def test_the_census_on_a_device_is_that_of_the_host() -> None:
    gradients = [torch.tensor([1.0, math.nan, math.inf, -math.inf, 2.0]), torch.zeros(2), torch.tensor([3.0 + 4.0j])]

    found = norms.device_census(gradients).tolist()

    assert found == [pytest.approx(list(norms.census(gradient))) for gradient in gradients]


def test_gradients_of_several_types_give_the_bits_of_torch() -> None:
    gradients = gradients_of(torch.float32, [5, 900], 1.0, 1) + gradients_of(torch.bfloat16, [70, 3], 1.0, 2)
    gradients = [gradients[2], gradients[0], gradients[3], gradients[1]]

    measured = norms.torch_norm(gradients, None)

    assert measured is not None
    assert torch.equal(measured.total, torch.nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize("magnitude", [1e30, 1e-30])
def test_a_norm_whose_squares_leave_float32_is_rescued(magnitude: float) -> None:
    found = norms.census(torch.full((4,), magnitude))

    assert found.norm == pytest.approx(2 * magnitude)
    assert found.nonfinite == 0


def test_a_norm_whose_squares_leave_even_float64_is_rescued() -> None:
    assert norms.census(torch.full((4,), 1e200, dtype=torch.float64)).norm == pytest.approx(2e200)
    assert norms.census(torch.full((4,), 1e-200, dtype=torch.float64)).norm == pytest.approx(2e-200)


def test_non_finite_elements_are_counted_by_kind_and_left_out_of_the_norm() -> None:
    gradient = torch.tensor([3.0, math.nan, 4.0, math.inf, math.inf, -math.inf])

    assert norms.census(gradient) == norms.Census(5.0, 1, 2, 1)
    assert norms.device_census([gradient, torch.ones(9)]).tolist() == [[5.0, 1.0, 2.0, 1.0], [3.0, 0.0, 0.0, 0.0]]


def test_a_gradient_with_a_graph_is_measured_beside_one_of_inference_mode() -> None:
    with torch.inference_mode():
        inferred = torch.tensor([3.0, 4.0])
    with_graph = torch.tensor([6.0, 8.0], requires_grad=True) * 1.0

    found = norms.stacked_norms([with_graph, inferred], torch.float32)

    assert (found.tolist(), found.requires_grad) == ([10.0, 5.0], False)


def test_sparse_complex_empty_and_half_gradients_have_norms() -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 3]]), torch.tensor([1.0, 2.0, 4.0]), (6,), check_invariants=True
    )
    assert float(norms.norm_of(sparse)) == pytest.approx(5.0)  # duplicates add up: 3 and 4
    assert float(norms.norm_of(torch.tensor([3 + 4j, 0j]))) == pytest.approx(5.0)
    assert float(norms.norm_of(torch.empty(0))) == 0.0
    assert float(norms.norm_of(torch.full((4,), 60000.0, dtype=torch.float16))) == pytest.approx(120000.0, rel=1e-3)


@pytest.mark.parametrize("foreach", [False, None])
def test_what_torch_had_better_do_itself_is_left_to_it(foreach: bool | None) -> None:
    class Special(Tensor):
        pass

    gradients = [torch.ones(3), torch.ones(3).as_subclass(Special)] if foreach is None else [torch.ones(3)]
    assert norms.torch_norm(gradients, foreach) is None
