"""Places for the norms of gradients whose shapes are known, and the cheapest way to get the norms there on a host.

    few gradients ------------------------------------one by one--> row
    many: vectors of one length --side by side--> matrix --one call--> norms --in their order--> row
          everything else ----------------------one by one---------'

On a host each call for a norm costs a microsecond before the first element is read, and `_foreach_norm` is a loop of
such calls that makes a tensor for each norm. Most gradients of a model are short vectors (biases, scales), which have
few lengths among them. Copied side by side they are the rows of a matrix, whose norms one call takes, by the same
kernel and therefore with the same bits. Of the 148 gradients of a transformer that leaves 50. When some vector is not
what it was, all gradients are measured one by one.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seismograd.capture.norms import norm_into, outside_autograd

# Of fewer norms it is not worth it: between two steps, where nothing of ours is in the processor's caches, to leave
# autograd and to come back costs a dozen microseconds.
WORTH_LEAVING = 50
# Of fewer vectors the two calls cost what they save.
_WORTH_COPYING = 8
# Of twice this length, copying a vector costs what a call does; and a row keeps a copy of each, 8 KiB at most.
_LONGEST = 2048

_dtype = operator.attrgetter("dtype")
_is_contiguous = operator.methodcaller("is_contiguous")


class _Vectors(NamedTuple):
    """Gradients of one length."""

    choose: Callable[[list[Tensor]], tuple[Tensor, ...]]
    shape: torch.Size  # of each, as it was when the row was made
    matrix: Tensor  # [k, length], a copy of each
    norms: Tensor  # [k], their places among those that are not in order yet


class NormRow:
    """float32[n] on the host with a place for each of n gradients. Not for two threads at a time.

    Attributes:
        row: the norms; zero where there is no gradient.
        data: the same memory, as bytes.
    """

    __slots__ = ("_one_by_one", "_order", "_places", "_single", "_unordered", "_vectors", "data", "row")

    def __init__(self, shapes: Sequence[torch.Size | None]) -> None:
        """`shapes` are those of the gradients; None = there is none."""
        present = [place for place, shape in enumerate(shapes) if shape is not None]
        groups = _of_one_length([shape for shape in shapes if shape is not None])
        copied = [number for numbers in groups.values() for number in numbers]
        single = sorted(set(range(len(present))) - set(copied))
        # Where each place of the row finds its norm; the last one stays zero, for those without a gradient.
        order = [len(present)] * len(shapes)
        for at, number in enumerate(single + copied):
            order[present[number]] = at
        self._one_by_one = len(present) < WORTH_LEAVING
        with outside_autograd(False):  # what the job's inference mode has made could be written to in none but that
            self.data = bytearray(4 * len(shapes))
            self.row = torch.frombuffer(self.data, dtype=torch.float32)
            self._places = [self.row[place] for place in present]
            self._unordered = torch.frombuffer(bytearray(4 * len(present) + 4), dtype=torch.float32)
            self._order = torch.tensor(order, device="cpu")
            self._single = list(zip(single, self._unordered[: len(single)].unbind(), strict=True))
            places = self._unordered[len(single) : -1].split([len(numbers) for numbers in groups.values()])
            self._vectors: list[_Vectors] = []
            for (length, numbers), norms in zip(groups.items(), places, strict=True):
                matrix = torch.zeros(len(numbers), length, dtype=torch.float32, device="cpu")
                self._vectors.append(_Vectors(operator.itemgetter(*numbers), matrix.shape[1:], matrix, norms))

    def measure(self, gradients: list[Tensor]) -> None:
        """Takes the L2 norms of the gradients that there are, given in their order.

        Raises RuntimeError unless all are float32, dense and on the host; TypeError or AttributeError if one is None.
        One that is complex64, as no optimizer takes for a float32 parameter, may also be measured.
        """
        if self._one_by_one:
            try:
                # To look at their types first costs eight microseconds, and torch refuses those whose norms do not fit.
                self._measure_one_by_one(gradients)
            except RuntimeError:  # mostly a gradient with a graph of its own; then so have the next ones
                self._one_by_one = False
            else:
                return
        if list(map(_dtype, gradients)).count(torch.float32) != len(gradients):
            raise RuntimeError("a gradient is of another type than its parameter")
        with outside_autograd(True):
            if not self._measure_side_by_side(gradients):
                self._measure_one_by_one(gradients)

    def _measure_one_by_one(self, gradients: list[Tensor]) -> None:
        for gradient, place in zip(gradients, self._places, strict=True):
            norm_into(gradient, out=place)

    def _measure_side_by_side(self, gradients: list[Tensor]) -> bool:
        """False = some vectors are not what they were, or lie scattered in memory, where torch takes another kernel."""
        if not self._vectors:
            return False
        try:
            for choose, shape, matrix, norms in self._vectors:
                vectors = choose(gradients)
                # Of another shape than the matrix it would make that anew, and its norms others than their places.
                if vectors[0].shape != shape or not all(map(_is_contiguous, vectors)):
                    return False
                torch.stack(vectors, out=matrix)  # refuses those that are unlike the first
                norm_into(matrix, 2.0, 1, out=norms)
        except RuntimeError:
            return False
        for number, place in self._single:
            norm_into(gradients[number], out=place)
        torch.index_select(self._unordered, 0, self._order, out=self.row)
        return True


class OwnRow(threading.local):
    """The row of gradients that are always there: one for each thread that clips, made when it first does."""

    def __init__(self) -> None:
        self._row: NormRow | None = None

    def measured(self, gradients: list[Tensor]) -> Tensor:
        """Their L2 norms, float32[n], in a tensor of its own; raises as `NormRow.measure` does."""
        if self._row is None:
            self._row = NormRow([gradient.shape for gradient in gradients])
        self._row.measure(gradients)
        return self._row.row.clone()


def _of_one_length(shapes: Sequence[torch.Size]) -> dict[int, list[int]]:
    """Numbers of the vectors that are worth copying side by side, by their length."""
    groups: dict[int, list[int]] = {}
    for number, shape in enumerate(shapes):
        if len(shape) == 1 and 0 < shape[0] <= _LONGEST:
            groups.setdefault(shape[0], []).append(number)
    return {length: numbers for length, numbers in groups.items() if len(numbers) >= _WORTH_COPYING}
