"""Series as a server sends them, joined to numpy arrays; tables for pandas and Arrow on request."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd.errors import BadAnswerError, QueryError
from seismograd.notebook import CurveShown, LayersShown, NormsShown
from seismograd_proto.v1 import query

Column = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class GradNorms(NormsShown):
    """Global L2 norms of the finite gradient elements, before clipping and after unscaling.

    One row per closed step; or, when points were asked for, per `resolution` steps, with the exact extremes.
    """

    steps: npt.NDArray[np.int64]  # of several steps the first
    values: npt.NDArray[np.float64]  # of several steps the largest; NaN = not captured
    nonfinite_counts: npt.NDArray[np.uint64]  # elements that were NaN or Inf
    minimum: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]  # of the finite norms, to 12 bits or better
    last_steps: npt.NDArray[np.int64]
    resolution: int = 1

    def __len__(self) -> int:
        return len(self.steps)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame indexed by step. Raises QueryError without pandas."""
        return _to_pandas(self._columns(), {})

    def to_arrow(self) -> Any:
        """A pyarrow.Table. Raises QueryError without pyarrow."""
        return _to_arrow(self._columns(), {})

    def _columns(self) -> dict[str, Column]:
        columns: dict[str, Column] = {"step": self.steps, "grad_norm": self.values, "nonfinite": self.nonfinite_counts}
        if self.resolution > 1:
            columns |= {"last_step": self.last_steps, "grad_norm_min": self.minimum, "grad_norm_mean": self.mean}
        return columns


@dataclass(frozen=True, slots=True, eq=False)
class Curve(CurveShown):
    """One scalar by step; `known` says where it was recorded, because NaN is a value.

    One row per closed step; or, when points were asked for, per `resolution` steps, with the exact extremes.
    """

    name: str
    steps: npt.NDArray[np.int64]  # of several steps the first
    values: npt.NDArray[np.float64]  # of several steps the largest; NaN where not known
    known: Bool
    nonfinite_counts: npt.NDArray[np.uint64]  # known values that are NaN or Inf
    minimum: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]  # of the finite values, to 12 bits or better
    last_steps: npt.NDArray[np.int64]
    resolution: int = 1

    def __len__(self) -> int:
        return len(self.steps)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame indexed by step, nullable: NA is not NaN. Raises QueryError without pandas."""
        return _to_pandas(self._columns(), self._masked())

    def to_arrow(self) -> Any:
        """A pyarrow.Table, null where not known. Raises QueryError without pyarrow."""
        return _to_arrow(self._columns(), self._masked())

    def _columns(self) -> dict[str, Column]:
        return {"step": self.steps} | ({"last_step": self.last_steps} if self.resolution > 1 else {})

    def _masked(self) -> dict[str, tuple[Column, Bool]]:
        columns = {self.name: (self.values, ~self.known)}
        if self.resolution > 1:
            columns |= {f"{self.name}_min": (self.minimum, ~self.known), f"{self.name}_mean": (self.mean, ~self.known)}
        return columns


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
class Layers(LayersShown):
    """Gradient norms by step and layer; NaN = not captured.

    One row per closed step; or, when points were asked for, per `resolution` steps, with the exact extremes.
    """

    names: tuple[str, ...]
    steps: npt.NDArray[np.int64]  # [n], of several steps the first
    values: npt.NDArray[np.float32]  # [n, len(names)], of several steps the largest
    minimum: npt.NDArray[np.float32]  # [n, len(names)]
    mean: npt.NDArray[np.float32]  # [n, len(names)], of the finite norms, to 12 bits or better
    last_steps: npt.NDArray[np.int64]  # [n]
    resolution: int = 1

    def __len__(self) -> int:
        return len(self.steps)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame of `values`, steps by layers. Raises QueryError without pandas."""
        return _to_pandas(self._columns(), {})

    def to_arrow(self) -> Any:
        """A pyarrow.Table of `values`, a column per layer. Raises QueryError without pyarrow."""
        return _to_arrow(self._columns(), {})

    def _columns(self) -> dict[str, Column]:
        return {"step": self.steps, **{name: self.values[:, index] for index, name in enumerate(self.names)}}


def join_norms(chunks: Iterable[query.GetSeriesResponse]) -> GradNorms:
    """Joins the chunks of one answer. Raises BadAnswerError when a column's length contradicts its chunk."""
    found = list(chunks)
    resolution = _resolution(found)
    steps = _joined(found, "steps", "<i8")
    if resolution is None:
        values = _joined(found, "gradient_norms", "<f8")
        return GradNorms(steps, values, _joined(found, "nonfinite_counts", "<u8"), values, values, steps)
    counts = [(chunk.count, each.values) for chunk in found for each in chunk.counts if each.name == "nonfinite"]
    return GradNorms(
        steps,
        _bucketed(found, "grad_norm", "maxima"),
        _join(counts, "<u8", "nonfinite"),
        _bucketed(found, "grad_norm", "minima"),
        _bucketed(found, "grad_norm", "means"),
        _joined(found, "last_steps", "<i8"),
        resolution,
    )


def join_curve(chunks: Iterable[query.GetSeriesResponse], name: str) -> Curve:
    """Joins one scalar of the chunks of one answer. Raises BadAnswerError."""
    found = list(chunks)
    resolution = _resolution(found)
    steps = _joined(found, "steps", "<i8")
    if resolution is None:
        scalars, masks = _join_scalars(found)
        values = scalars.get(name, np.full(len(steps), np.nan))
        known = masks.get(name, np.zeros(len(steps), np.bool_))
        odd = (known & ~np.isfinite(values)).astype(np.uint64)
        return Curve(name, steps, values, known, odd, values, values, steps)
    nonfinite = _bucketed(found, name, "nonfinite_counts", "<u8")
    return Curve(
        name,
        steps,
        _bucketed(found, name, "maxima"),
        (_bucketed(found, name, "known_counts", "<u8") + nonfinite) > 0,
        nonfinite,
        _bucketed(found, name, "minima"),
        _bucketed(found, name, "means"),
        _joined(found, "last_steps", "<i8"),
        resolution,
    )


def join_series(chunks: Iterable[query.GetSeriesResponse]) -> Series:
    """Joins the chunks of one answer. Raises BadAnswerError when a column's length contradicts its chunk."""
    found = list(chunks)

    def column(name: str, kind: str) -> Column:
        return _joined(found, name, kind)

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
    found = list(chunks)
    resolution = _resolution(found)
    names: dict[str, int] = {}
    columns: list[list[int]] = []
    latest: list[int] = []
    for chunk in found:
        latest = [names.setdefault(name, len(names)) for name in chunk.layers] or latest
        # Without names and without norms: older servers send steps whose layers are gone like this.
        columns.append(latest if chunk.layers or chunk.gradient_norms else [])

    def table(field: str) -> npt.NDArray[np.float32]:
        joined = np.full((sum(chunk.count for chunk in found), len(names)), np.nan, np.float32)
        start = 0
        for chunk, places in zip(found, columns, strict=True):
            values = _column(getattr(chunk, field), chunk.count * len(places), "<f4", field)
            joined[start : start + chunk.count, places] = values.reshape(chunk.count, len(places))
            start += chunk.count
        return joined

    steps, values = _joined(found, "steps", "<i8"), table("gradient_norms")
    if resolution is None:
        return Layers(tuple(names), steps, values, values, values, steps)
    last_steps = _joined(found, "last_steps", "<i8")
    return Layers(tuple(names), steps, values, table("minima"), table("means"), last_steps, resolution)


def _resolution(chunks: Sequence[query.GetSeriesResponse | query.GetLayersResponse]) -> int | None:
    """Steps a row where the rows are buckets; None = they are single steps."""
    return max((int(chunk.resolution) for chunk in chunks), default=0) or None


def _joined(chunks: Sequence[query.GetSeriesResponse | query.GetLayersResponse], field: str, kind: str) -> Column:
    return _join([(chunk.count, getattr(chunk, field)) for chunk in chunks], kind, field)


def _bucketed(chunks: Sequence[query.GetSeriesResponse], name: str, field: str, kind: str = "<f8") -> Column:
    parts = [(chunk.count, getattr(each, field)) for chunk in chunks for each in chunk.summaries if each.name == name]
    return _join(parts, kind, f"{field} of {name}")


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
        raise QueryError(f'{method} needs {package}: pip install "seismograd[notebook]"') from error
