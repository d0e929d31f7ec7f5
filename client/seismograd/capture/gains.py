"""Spectral gain of recurrent and square weight matrices: by how much one passage can make a state larger.

A state that goes through the same matrix again and again grows when the largest singular value of the matrix times the
largest slope of the activation behind it is above 1 (Pascanu, Mikolov and Bengio 2013: 1/gamma is the threshold for the
singular value, gamma = 1 for tanh and ReLU, 1/4 for the sigmoid). A gated network has one recurrent matrix per gate,
stacked in `weight_hh`; a singular value of the whole stack would belong to no map that the state goes through. The gain
of a `weight_hh` is therefore the largest over its gates of slope x singular value: with the slopes in, 1 is the
threshold for all of them. A square Linear weight has the slope 1.

Power iteration on the Gram matrix finds the singular value (Miyato et al. 2018 keep the vector in the same way): the
vector is kept between samples, weights move little meanwhile, and so two iterations a sample converge over samples.
The estimate is never above the true value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seismograd.capture.layout import Layout
from seismograd.capture.norms import together, widest
from seismograd.capture.pieces import is_sharded

_TANH = 1.0  # also ReLU
_SIGMOID = 0.25
# The order of the gates in `weight_hh` as torch documents it: LSTM input, forget, cell, output; GRU reset, update, new.
_RECURRENT: tuple[tuple[tuple[type[nn.Module], ...], tuple[float, ...]], ...] = (
    ((nn.LSTM, nn.LSTMCell), (_SIGMOID, _SIGMOID, _TANH, _SIGMOID)),
    ((nn.GRU, nn.GRUCell), (_SIGMOID, _SIGMOID, _TANH)),
    ((nn.RNN, nn.RNNCell), (_TANH,)),
)
_ITERATIONS = 2
# Rows of half precision are made float32 so many bytes at a time: the guest must not take the memory of the job.
_WIDENED_BYTES = 4 * 1024 * 1024

# Others (eight bits) have no matrix product everywhere.
_TYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

Slopes = tuple[float, ...]  # one per gate; the matrix has as many blocks of rows


def slopes_by_parameter(model: nn.Module | None) -> dict[int, Slopes]:
    """The matrices whose gain is worth knowing, by `id(parameter)`."""
    found: dict[int, Slopes] = {}
    for module in () if model is None else model.modules():
        slopes = next((slopes for kinds, slopes in _RECURRENT if isinstance(module, kinds)), None)
        for name, parameter in module.named_parameters(recurse=False):
            if slopes is not None and name.startswith("weight_hh"):
                found[id(parameter)] = slopes
            elif isinstance(module, nn.Linear) and parameter.dim() == 2 and parameter.shape[0] == parameter.shape[1]:
                found[id(parameter)] = (_TANH,)
    return found


@dataclass(slots=True, eq=False)
class _Matrix:
    column: int
    parameter: Tensor
    slopes: Slopes
    vectors: list[Tensor]  # one per gate, float32[columns of the matrix], of unit length


class GainSampler:
    """The gains of one optimizer's matrices; never waits for a device or touches a random generator of the job."""

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._layout: Layout | None = None
        self._matrices: list[_Matrix] = []

    @torch.no_grad()
    def measure(self, layout: Layout) -> tuple[list[int], Tensor] | None:
        """Columns and their gains, float32[k] on the device; None when no column has one."""
        if layout is not self._layout:
            self._layout = layout
            self._matrices = _matrices(layout, slopes_by_parameter(self._model))
        if not self._matrices:
            return None
        with torch.autocast(self._matrices[0].parameter.device.type, enabled=False):
            return [matrix.column for matrix in self._matrices], together([_iterate(each) for each in self._matrices])


def _matrices(layout: Layout, slopes: Mapping[int, Slopes]) -> list[_Matrix]:
    return [
        _Matrix(column, parameter, slopes[id(parameter)], [_start(parameter)] * len(slopes[id(parameter)]))
        for column, parameter in enumerate(layout.parameters)
        if id(parameter) in slopes and not is_sharded(parameter) and parameter.dtype in _TYPES
    ]


def _start(parameter: Tensor) -> Tensor:
    """Any vector that no matrix of the world has been chosen against; made on the device by a generator of its own."""
    generator = torch.Generator(parameter.device).manual_seed(parameter.shape[1])
    vector = torch.randn(parameter.shape[1], generator=generator, device=parameter.device, dtype=torch.float32)
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit


def _iterate(matrix: _Matrix) -> Tensor:
    """The gain of one matrix, float32 without dimensions: the largest over its gates."""
    blocks = matrix.parameter.detach().chunk(len(matrix.slopes))
    gains = []
    for gate, (block, slope) in enumerate(zip(blocks, matrix.slopes, strict=True)):
        value, matrix.vectors[gate] = _largest_singular_value(block, matrix.vectors[gate])
        gains.append(value * slope)
    largest: Tensor = torch.stack(gains).amax()
    return largest


def _largest_singular_value(block: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """What a few more iterations find, NaN where the matrix is not finite; and the vector to go on with."""
    half = block.dtype in (torch.float16, torch.bfloat16)
    pieces = block.split(max(1, _WIDENED_BYTES // (4 * block.shape[1]))) if half else (block,)
    wide = torch.float32 if half else block.dtype
    value = torch.zeros((), device=block.device)
    for _ in range(_ITERATIONS):
        image = torch.cat([torch.mv(piece.to(wide), vector.to(wide)) for piece in pieces])
        image, _ = _unit(image, torch.zeros_like(image))
        parts = image.split([len(piece) for piece in pieces])
        products = [torch.mv(piece.to(wide).t(), part) for piece, part in zip(pieces, parts, strict=True)]
        back = products[0] if len(products) == 1 else torch.stack(products).sum(dim=0)
        vector, value = _unit(back, vector)
    return value, vector


def _unit(vector: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """The vector at unit length, or `otherwise` where its length is zero or not finite; and its length, float32."""
    length = torch.linalg.vector_norm(vector, dtype=widest(vector.device))  # squares of 1e20 leave float32
    sound = (length > 0.0) & torch.isfinite(length)
    return torch.where(sound, (vector / length).to(otherwise.dtype), otherwise), length.to(torch.float32)
