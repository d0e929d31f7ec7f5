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

import re

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
# Not what a weight normalisation makes of it: neither of its two factors is the map that the state goes through.
_WEIGHT_HH = re.compile(r"weight_hh(_l\d+(_reverse)?)?")
_ITERATIONS = 2
# So many bytes are copied at a time, of small matrices to stand together, or of rows of half precision to be made
# float32: the guest must not take the memory of the job.
_COPIED_BYTES = 4 * 1024 * 1024
_WIDE = 4  # bytes of a float32

# Others (eight bits) have no matrix product everywhere.
_TYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

Slopes = tuple[float, ...]  # one per gate; the matrix has as many blocks of rows
_Matrix = tuple[int, Tensor, Slopes]  # column, parameter


def slopes_by_parameter(model: nn.Module | None) -> dict[int, Slopes]:
    """The matrices whose gain is worth knowing, by `id(parameter)`."""
    found: dict[int, Slopes] = {}
    for module in () if model is None else model.modules():
        slopes = next((slopes for kinds, slopes in _RECURRENT if isinstance(module, kinds)), None)
        for name, parameter in module.named_parameters(recurse=False):
            if slopes is not None and _WEIGHT_HH.fullmatch(name):
                found[id(parameter)] = slopes
            elif isinstance(module, nn.Linear) and _is_square(parameter):
                found[id(parameter)] = (_TANH,)
    return found


def _is_square(parameter: Tensor) -> bool:
    """Those that are made by the first forward pass have no shape yet."""
    shape = () if is_lazy(parameter) else parameter.shape
    return len(shape) == 2 and shape[0] == shape[1]


class GainSampler:
    """The gains of one optimizer's matrices; never waits for a device or touches a random generator of the job."""

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._layout: Layout | None = None
        self._columns: list[int] = []
        self._batches: list[_Batch] = []

    def are_in(self, layout: Layout) -> bool:
        """Whether any column has a gain."""
        self._follow(layout)
        return bool(self._columns)

    @torch.no_grad()
    def measure(self, layout: Layout) -> tuple[list[int], Tensor] | None:
        """Columns and their gains, float32[k] on the device; None when no column has one."""
        self._follow(layout)
        if not self._columns:
            return None
        gains: dict[int, Tensor] = {}
        with torch.autocast(layout.parameters[self._columns[0]].device.type, enabled=False):
            for batch in self._batches:
                gains |= batch.gains()
        return self._columns, together([gains[column] for column in self._columns])

    def _follow(self, layout: Layout) -> None:
        if layout is self._layout:
            return
        slopes = slopes_by_parameter(self._model)
        found = [
            (column, parameter, slopes[id(parameter)])
            for column, parameter in enumerate(layout.parameters)
            if id(parameter) in slopes and _is_whole_matrix(parameter)
        ]
        self._columns, self._batches = [column for column, _, _ in found], _batches(found)
        self._layout = None if any(map(is_lazy, layout.parameters)) else layout  # such may be matrices later


def _is_whole_matrix(parameter: Tensor) -> bool:
    """FSDP1 has flat slices in the place of the user's parameters."""
    return not is_sharded(parameter) and parameter.dim() == 2 and parameter.dtype in _TYPES


class _Batch:
    """Matrices of one kind that go through the same operations; a large one is alone in its batch."""

    def __init__(self, matrices: list[_Matrix]) -> None:
        self._columns = [column for column, _, _ in matrices]
        self._parameters = [parameter for _, parameter, _ in matrices]
        first = self._parameters[0]
        slopes = torch.tensor(matrices[0][2])
        self._slopes = slopes.to(first.device, non_blocking=True)  # float32[gates]
        self._vectors = _start(first).repeat(len(matrices) * len(slopes), 1)  # one per gate, of unit length

    def gains(self) -> dict[int, Tensor]:
        """By column, float32 without dimensions: the largest over the gates of each matrix."""
        held = [parameter.detach() for parameter in self._parameters]
        stacked = held[0][None] if len(held) == 1 else torch.stack(held)
        gates = stacked.unflatten(1, (len(self._slopes), -1)).flatten(0, 1)
        values, self._vectors = _largest_singular_values(gates, self._vectors)
        largest = (values.view(len(held), -1) * self._slopes).amax(dim=1)
        return dict(zip(self._columns, largest.unbind(), strict=True))


def _batches(matrices: list[_Matrix]) -> list[_Batch]:
    kinds: dict[object, list[list[_Matrix]]] = {}
    for matrix in matrices:
        _, parameter, slopes = matrix
        batches = kinds.setdefault((parameter.shape, parameter.dtype, parameter.device, slopes), [[]])
        if (len(batches[-1]) + 1) * _WIDE * parameter.numel() > _COPIED_BYTES and batches[-1]:
            batches.append([])
        batches[-1].append(matrix)
    return [_Batch(each) for batches in kinds.values() for each in batches]


def _start(parameter: Tensor) -> Tensor:
    """Any vector that no matrix of the world has been chosen against; made on the device by a generator of its own."""
    generator = torch.Generator(parameter.device).manual_seed(parameter.shape[1])
    vector = torch.randn(parameter.shape[1], generator=generator, device=parameter.device, dtype=torch.float32)
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit


def _largest_singular_values(matrices: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """What a few more iterations find, float32[k], NaN where a matrix is not finite; and the vectors to go on with.

    `matrices` are [k, rows, columns], `vectors` [k, columns] of unit length.
    """
    count, rows, columns = matrices.shape
    half = matrices.dtype in (torch.float16, torch.bfloat16)
    wide = torch.float32 if half else matrices.dtype
    pieces = matrices.split(max(1, _COPIED_BYTES // (_WIDE * count * columns)) if half else rows, dim=1)
    values = torch.zeros(count, device=vectors.device)
    for _ in range(_ITERATIONS):
        column = vectors.to(wide)[:, :, None]
        image = torch.cat([torch.bmm(piece.to(wide), column) for piece in pieces], dim=1)[:, :, 0]
        image, _ = _unit(image, torch.zeros_like(image))
        parts = image[:, None, :].split([piece.shape[1] for piece in pieces], dim=2)
        products = [torch.bmm(part, piece.to(wide)) for piece, part in zip(pieces, parts, strict=True)]
        back = products[0] if len(products) == 1 else torch.stack(products).sum(dim=0)
        vectors, values = _unit(back[:, 0, :], vectors)
    return values, vectors


def _unit(vectors: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """Each vector at unit length, or `otherwise` where its length is zero or not finite; and the lengths, float32."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=widest(vectors.device))  # squares of 1e20 leave float32
    sound = (lengths > 0.0) & torch.isfinite(lengths)
    unit = torch.where(sound[:, None], (vectors / lengths[:, None]).to(otherwise.dtype), otherwise)
    return unit, lengths.to(torch.float32)
