"""Records that were offered while memory was full: only the ring has them, and here is which they are."""

from __future__ import annotations

from collections import deque

# As many as a ring can hold in practice; what is older has been overwritten.
_MOST = 16384


class Skips:
    """The training thread adds, the sender's thread takes, without a lock: appending to a deque is atomic."""

    def __init__(self) -> None:
        self._sequences: dict[int, deque[int]] = {}  # by optimizer
        self._added = self._taken = 0

    def __bool__(self) -> bool:
        return any(self._sequences.values())

    def add(self, optimizer: int, sequence: int) -> None:
        """The training thread: this record is in the ring alone."""
        sequences = self._sequences.get(optimizer)
        if sequences is None:
            sequences = self._sequences[optimizer] = deque(maxlen=_MOST)
        sequences.append(sequence)
        self._added += 1

    def counts(self) -> dict[int, int]:
        """How many wait, by optimizer."""
        return {optimizer: len(sequences) for optimizer, sequences in list(self._sequences.items())}

    def count_before(self, optimizer: int, sequence: int) -> int:
        """How many wait that come before this one."""
        return sum(each < sequence for each in list(self._sequences.get(optimizer, ())))

    def take(self, optimizer: int, count: int) -> list[int]:
        """The oldest ones, at most so many."""
        sequences = self._sequences.get(optimizer, deque())
        taken = [sequences.popleft() for _ in range(min(count, len(sequences)))]
        self._taken += len(taken)
        return taken

    def forgotten(self, most: int) -> int:
        """How many nobody remembers, because the sender did not come to look; at most so many, and told once."""
        count = min(most, max(0, self._added - self._taken - sum(map(len, self._sequences.values()))))
        self._taken += count
        return count
