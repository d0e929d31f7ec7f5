"""What a log of another tool holds, whatever its format: named columns of numbers over steps.

files of a format -> Log (columns as they were written) -> recognising: which is the norm? -> records of a run
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seismograd_server.model import Float64, Int64

# Steps are stored as int64, and a number of steps must fit between any two.
_MOST_STEP = 2**62


@dataclass(slots=True)
class Column:
    """One named number over steps, in the order of the log; a step may come more than once."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def put(self, step: int, value: float) -> None:
        """Note a value."""
        self.steps.append(step)
        self.values.append(value)

    def latest(self) -> tuple[Int64, Float64]:
        """Steps, rising and each once, with the value that was written last: a job that resumed wrote some again."""
        steps, values = np.array(self.steps, np.int64), np.array(self.values, np.float64)
        kept, places = np.unique(steps[::-1], return_index=True)
        return kept, values[::-1][places]


@dataclass(slots=True)
class Log:
    """A run as another tool has written it down.

    Attributes:
        name: of the run, as the log or its file is called.
        project: empty = the log names none.
        columns: numbers by name.
        times: Unix seconds of steps, where the log has them.
        config: hyper-parameters.
        unreadable: columns that hold no numbers, and what they hold.
        notes: what the reader should know: a torn end, lines without a step.
        failed: why the run failed; empty = it did not, or nobody knows.
    """

    name: str
    project: str = ""
    columns: dict[str, Column] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str = ""

    def put(self, name: str, step: int, value: float) -> None:
        """Note a value of a column."""
        self.columns.setdefault(name, Column()).put(step, value)

    def put_row(self, step: int, row: Mapping[str, object], time: float | None = None) -> None:
        """Note all numbers of a step; what is none makes its column unreadable, unless numbers came before it."""
        if time is not None and math.isfinite(time):
            self.times[step] = time
        for name, value in row.items():
            number = number_of(value)
            if number is not None:
                self.put(name, step, number)
            elif value is not None and value != "":
                self.unreadable.setdefault(name, kind_of(value))


def number_of(value: object) -> float | None:
    """A value as a number; words that tools write for numbers count. None = it is none."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:  # a whole number beyond any float
            return math.inf
    if isinstance(value, str):
        try:
            return float(value)  # also "NaN", "Infinity", "-inf"
        except ValueError:
            return None
    return None


def step_of(value: object) -> int | None:
    """A value as a step: a whole number within what can be stored; None = it is none."""
    number = number_of(value)
    if number is None or not math.isfinite(number) or number != int(number) or abs(number) >= _MOST_STEP:
        return None
    return int(number)


def kind_of(value: object) -> str:
    """What a value is that is no number, in a word."""
    return {"dict": "objects", "list": "lists", "str": "text"}.get(type(value).__name__, type(value).__name__)
