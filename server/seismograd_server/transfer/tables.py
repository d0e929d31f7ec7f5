"""Runs out as tables, CSV and Parquet, a row a step: written beside the file, and put in its place when whole."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from seismograd_server.errors import UsageError
from seismograd_server.transfer.extras import required

Rows = Mapping[str, Sequence[Any]]  # column -> values; None = not known, NaN and Inf are values
_SUFFIXES = (".parquet", ".csv")
_WHOLE = "int64"


class TableWriter(Protocol):
    """Takes rows page by page."""

    def write(self, rows: Rows) -> None:
        """Append a page; every page has the same columns."""


@contextlib.contextmanager
def table_file(path: Path, columns: Mapping[str, str], about: Mapping[str, str]) -> Iterator[TableWriter]:
    """A file that is there when it is whole, and not at all otherwise.

    Args:
        path: ends in .parquet or .csv.
        columns: name -> int64, float64, float32 or string.
        about: what a Parquet file says of itself; CSV has no place for it.

    Raises:
        UsageError: another ending, or a place that cannot be written.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"--to {path}: end it in {' or '.join(_SUFFIXES)}, which says what is written")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    kind = _parquet if path.suffix == ".parquet" else _csv
    try:
        with kind(unfinished, columns, about) as writer:
            yield writer
        unfinished.replace(path)
    except OSError as error:
        raise UsageError(f"--to {path}: cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


class _ParquetWriter:
    def __init__(self, arrow: Any, writer: Any, schema: Any) -> None:
        self._arrow, self._writer, self._schema = arrow, writer, schema

    def write(self, rows: Rows) -> None:
        arrays = [self._arrow.array(rows[field.name], type=field.type, from_pandas=False) for field in self._schema]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))


@contextlib.contextmanager
def _parquet(path: Path, columns: Mapping[str, str], about: Mapping[str, str]) -> Iterator[TableWriter]:
    arrow, parquet = required("pyarrow", "Parquet files"), required("pyarrow.parquet", "Parquet files")
    fields = [arrow.field(name, getattr(arrow, kind)()) for name, kind in columns.items()]
    schema = arrow.schema(fields, metadata={f"seismograd.{name}": value for name, value in about.items()})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        yield _ParquetWriter(arrow, writer, schema)


class _CsvWriter:
    def __init__(self, writer: Any, columns: Iterable[str]) -> None:
        self._writer, self._columns = writer, list(columns)

    def write(self, rows: Rows) -> None:
        # repr gives the shortest digits that are the same number again; None is an empty cell, NaN the word.
        self._writer.writerows(zip(*(rows[name] for name in self._columns), strict=True))


@contextlib.contextmanager
def _csv(
    path: Path,
    columns: Mapping[str, str],
    about: Mapping[str, str],  # noqa: ARG001 (CSV has no place for it)
) -> Iterator[TableWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        yield _CsvWriter(writer, columns)
