"""Series as a server sends them, joined to numpy arrays; tables for pandas and Arrow on request."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd.errors import BadAnswerError, QueryError
from seismograd_proto.v1 import query

Column = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class GradNorms:
    """Global L2 norms of the finite gradient elements, before clipping and after unscaling; one row per closed step."""

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]  # NaN = not captured
    nonfinite_counts: npt.NDArray[np.uint64]  # elements that were NaN or Inf

    def __len__(self) -> int:
        return len(self.steps)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame indexed by step. Raises QueryError without pandas."""
        return _to_pandas(self._columns(), {})

    def to_arrow(self) -> Any:
        """A pyarrow.Table. Raises QueryError without pyarrow."""
        return _to_arrow(self._columns(), {})

    def _columns(self) -> dict[str, Column]:
        return {"step": self.steps, "grad_norm": self.values, "nonfinite": self.nonfinite_counts}


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Run-level series, one row per closed step; `known` says where a scalar was recorded, because NaN is a value."""

    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]  # Unix seconds
    grad_norms: npt.NDArray[np.float64]  # NaN = not captured
    nonfinite_counts: npt.NDArray[np.uint64]
    flags: npt.NDArray[np.uint16]  # seismograd.record.RecordFlag bits
    ranks_present: npt.NDArray[np.uint32]
    attempts: npt.NDArray[np.uint32]
    scalars: Mapping[str, npt.NDArray[np.float64]]  # "loss", "learning_rate", ...; NaN where not known
    known: Mapping[str, Bool]

    def __len__(self) -> int:
        return len(self.steps)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame indexed by step; scalars are nullable: NA is not NaN. Raises QueryError without pandas."""
        return _to_pandas(self._columns(), self._masked())

    def to_arrow(self) -> Any:
        """A pyarrow.Table; scalars are null where not known. Raises QueryError without pyarrow."""
        return _to_arrow(self._columns(), self._masked())

    def _columns(self) -> dict[str, Column]:
        return {
            "step": self.steps,
            "time": self.times,
            "grad_norm": self.grad_norms,
            "nonfinite": self.nonfinite_counts,
            "flags": self.flags,
            "ranks_present": self.ranks_present,
            "attempt": self.attempts,
        }

    def _masked(self) -> dict[str, tuple[Column, Bool]]:
        return {name: (values, ~self.known[name]) for name, values in self.scalars.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Gradient norms by step and layer; NaN = not captured."""

    names: tuple[str, ...]
    steps: npt.NDArray[np.int64]  # [n]
    values: npt.NDArray[np.float32]  # [n, len(names)]

    def __len__(self) -> int:
        return len(self.steps)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, steps by layers. Raises QueryError without pandas."""
        return _to_pandas(self._columns(), {})

    def to_arrow(self) -> Any:
        """A pyarrow.Table, a column per layer. Raises QueryError without pyarrow."""
        return _to_arrow(self._columns(), {})

    def _columns(self) -> dict[str, Column]:
        return {"step": self.steps, **{name: self.values[:, index] for index, name in enumerate(self.names)}}


def join_norms(chunks: Iterable[query.GetSeriesResponse]) -> GradNorms:
    """Joins the chunks of one answer. Raises BadAnswerError when a column's length contradicts its chunk."""
    found = [(each.count, each.steps, each.gradient_norms, each.nonfinite_counts) for each in chunks]
    return GradNorms(
        _join([(count, steps) for count, steps, _, _ in found], "<i8", "steps"),
        _join([(count, norms) for count, _, norms, _ in found], "<f8", "gradient_norms"),
        _join([(count, counts) for count, _, _, counts in found], "<u8", "nonfinite_counts"),
    )


def join_series(chunks: Iterable[query.GetSeriesResponse]) -> Series:
    """Joins the chunks of one answer. Raises BadAnswerError when a column's length contradicts its chunk."""
    found = list(chunks)

    def column(name: str, kind: str) -> Column:
        return _join([(chunk.count, getattr(chunk, name)) for chunk in found], kind, name)

    scalars, known = _join_scalars(found)
    return Series(
        steps=column("steps", "<i8"),
        times=column("times_unix_seconds", "<f8"),
        grad_norms=column("gradient_norms", "<f8"),
        nonfinite_counts=column("nonfinite_counts", "<u8"),
        flags=column("flags", "<u2"),
        ranks_present=column("ranks_present", "<u4"),
        attempts=column("attempts", "<u4"),
        scalars=scalars,
        known=known,
    )


def _join_scalars(chunks: list[query.GetSeriesResponse]) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, Bool]]:
    total = sum(chunk.count for chunk in chunks)
    scalars: dict[str, npt.NDArray[np.float64]] = {}
    known: dict[str, Bool] = {}
    start = 0
    for chunk in chunks:
        end = start + chunk.count
        for each in chunk.scalars:
            values = scalars.setdefault(each.name, np.full(total, np.nan))
            mask = known.setdefault(each.name, np.zeros(total, np.bool_))
            values[start:end] = _column(each.values, chunk.count, "<f8", each.name)
            mask[start:end] = _column(each.known, chunk.count, "u1", each.name) != 0 if each.known else True
            values[start:end][~mask[start:end]] = np.nan
        start = end
    return scalars, known


def join_layers(chunks: Iterable[query.GetLayersResponse]) -> Layers:
    """Joins the chunks of one answer; a layer that a chunk does not have is NaN there. Raises BadAnswerError."""
    names: dict[str, int] = {}
    current: list[int] = []
    parts: list[tuple[Column, Column, list[int]]] = []
    for chunk in chunks:
        if chunk.layers:
            current = [names.setdefault(name, len(names)) for name in chunk.layers]
        values = _column(chunk.gradient_norms, chunk.count * len(current), "<f4", "gradient_norms")
        steps = _column(chunk.steps, chunk.count, "<i8", "steps")
        parts.append((steps, values.reshape(chunk.count, len(current)), current))
    joined = np.full((sum(len(steps) for steps, _, _ in parts), len(names)), np.nan, np.float32)
    start = 0
    for steps, values, columns in parts:
        joined[start : start + len(steps), columns] = values
        start += len(steps)
    empty: Column = np.empty(0, np.int64)
    return Layers(tuple(names), np.concatenate([empty, *(steps for steps, _, _ in parts)]), joined)


def _join(parts: list[tuple[int, bytes]], kind: str, name: str) -> Column:
    empty: Column = np.empty(0, np.dtype(kind))
    return np.concatenate([empty, *(_column(data, count, kind, name) for count, data in parts)])


def _column(data: bytes, count: int, kind: str, name: str) -> Column:
    width = np.dtype(kind).itemsize
    if len(data) != count * width:
        raise BadAnswerError(f"{name}: the server sent {len(data)} bytes, expected {count * width}")
    return np.frombuffer(data, kind)


def _to_pandas(columns: Mapping[str, Column], masked: Mapping[str, tuple[Column, Bool]]) -> Any:
    pandas = _optional("pandas", "to_pandas")
    nullable = {name: pandas.arrays.FloatingArray(values, mask) for name, (values, mask) in masked.items()}
    return pandas.DataFrame({**columns, **nullable}).set_index("step")


def _to_arrow(columns: Mapping[str, Column], masked: Mapping[str, tuple[Column, Bool]]) -> Any:
    arrow = _optional("pyarrow", "to_arrow")
    nullable = {name: arrow.array(values, mask=mask) for name, (values, mask) in masked.items()}
    return arrow.table({**columns, **nullable})


def _optional(package: str, method: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise QueryError(f"{method} needs {package}: pip install {package}") from error
