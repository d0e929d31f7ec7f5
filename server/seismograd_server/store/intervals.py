"""Which sequences of a stream have been received: the idempotency key of ingest. Pure.

A stream that loses nothing is a single interval for its whole life, so that these stay tiny whatever the run's length.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """A set of sequence numbers as disjoint half-open ranges [first, end), rising and never touching."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        for first, end in ranges:
            self.add(first, end)

    def add(self, first: int, end: int) -> int:
        """Add [first, end) and tell how many of its numbers are new; an empty range adds nothing.

        Raises:
            ValueError: a negative first number.
        """
        if first < 0:
            raise ValueError(f"sequences start at 0, not at {first}")
        if end <= first:
            return 0
        # All ranges that overlap or touch [first, end) melt into one.
        low = bisect_left(self._ends, first)
        high = bisect_right(self._firsts, end)
        known = sum(max(0, min(self._ends[index], end) - max(self._firsts[index], first)) for index in range(low, high))
        if low < high:
            merged_first, merged_end = min(first, self._firsts[low]), max(end, self._ends[high - 1])
        else:
            merged_first, merged_end = first, end
        self._firsts[low:high] = [merged_first]
        self._ends[low:high] = [merged_end]
        return end - first - known

    def contains(self, sequence: int) -> bool:
        """Whether the number has been received."""
        index = bisect_right(self._firsts, sequence) - 1
        return index >= 0 and sequence < self._ends[index]

    def missing(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of [first, end) that have not been received, rising."""
        gaps: list[tuple[int, int]] = []
        position = first
        for index in range(bisect_right(self._ends, first), len(self._firsts)):
            if position >= end or self._firsts[index] >= end:
                break
            if self._firsts[index] > position:
                gaps.append((position, self._firsts[index]))
            position = self._ends[index]
        if position < end:
            gaps.append((position, end))
        return gaps

    def watermark(self) -> int:
        """The first number not received: all below it have been."""
        return self._ends[0] if self._firsts and self._firsts[0] == 0 else 0

    def end(self) -> int:
        """One more than the largest number received; 0 when nothing was."""
        return self._ends[-1] if self._ends else 0

    def count(self) -> int:
        """How many numbers have been received."""
        return sum(self._ends) - sum(self._firsts)

    def copy(self) -> Intervals:
        """An independent copy."""
        twin = Intervals()
        twin._firsts, twin._ends = self._firsts.copy(), self._ends.copy()
        return twin

    def to_bytes(self) -> bytes:
        """Pairs of little-endian int64."""
        flat = array("q")
        for first, end in self:
            flat.append(first)
            flat.append(end)
        if sys.byteorder == "big":
            flat.byteswap()
        return flat.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Intervals:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: the bytes are not pairs of rising numbers.
        """
        flat = array("q")
        flat.frombytes(data)
        if sys.byteorder == "big":
            flat.byteswap()
        if len(flat) % 2 or any(flat[index] >= flat[index + 1] for index in range(len(flat) - 1)):
            raise ValueError("stored intervals are damaged")
        intervals = cls()
        intervals._firsts, intervals._ends = list(flat[0::2]), list(flat[1::2])
        return intervals

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervals):
            return NotImplemented
        return self._firsts == other._firsts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # mutable: must not be a key

    def __repr__(self) -> str:
        return f"Intervals({list(self)!r})"
