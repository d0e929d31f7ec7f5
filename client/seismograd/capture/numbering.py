"""Step numbers, branches and sequences of one optimizer's records. Pure."""

from __future__ import annotations


class Numbering:
    """Counts steps from `first_step`; a step that does not grow begins a new branch."""

    def __init__(self, first_step: int = 0) -> None:
        self.next_step = first_step
        self._branch = 0
        self._sequence = 0
        self._last: int | None = None

    def begin_step(self) -> int:
        """The provisional number of a step that is being recorded; the count goes on from it."""
        step = self.next_step
        self.next_step = step + 1
        return step

    def settle(self, step: int) -> tuple[int, int, int]:
        """Branch, sequence and step of a record, for good; records are settled in order, each once."""
        if self._last is not None and step <= self._last:
            self._branch += 1
        self._last = step
        sequence = self._sequence
        self._sequence = sequence + 1
        return self._branch, sequence, step

    def follow(self, leader: Numbering, *, rewound: bool) -> None:
        """The user has numbered the first optimizer's steps: this one's go along, and back only when that one did."""
        self.next_step = leader.next_step if rewound else max(self.next_step, leader.next_step)
