"""Parquet in: Neptune's exports (one value a row), and any table with a column of steps."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from seismograd_server.errors import UsageError
from seismograd_server.transfer.extras import required
from seismograd_server.transfer.logs import Log, number_of, step_of
from seismograd_server.transfer.recognising import STEPS, TIMES

_RUN, _PATH, _STEP, _TIME = ("run_id", "sys/id"), ("attribute_path", "path"), "step", "timestamp"
_VALUES = ("float_value", "int_value", "value")
_ROWS = 65_536


def read_neptune(path: Path, run: str | None) -> Log:
    """One run of an export of Neptune: a file, or a folder of files.

    Raises:
        UsageError: no Parquet, other columns than such an export has, or several runs and none of them named.
    """
    dataset = _opened(path)
    names = dataset.schema.names
    key, attribute = _one(names, _RUN), _one(names, _PATH)
    values = [name for name in _VALUES if name in names]
    if key is None or attribute is None or _STEP not in names or not values:
        raise UsageError(f"{path}: is no export of Neptune: it has {', '.join(names)}")
    columns = [key, attribute, _STEP, *values, *([_TIME] if _TIME in names else [])]
    log, runs = Log(run or ""), set[str]()
    for batch in dataset.to_batches(columns=columns, batch_size=_ROWS):
        for row in batch.to_pylist():
            runs.add(str(row[key]))
            if run is not None and row[key] != run:
                continue
            step = step_of(_plain(row[_STEP]))
            value = next((number for name in values if (number := number_of(_plain(row[name]))) is not None), None)
            if step is None or value is None:
                continue
            log.put(row[attribute], step, value)
            if (time := _seconds(row.get(_TIME))) is not None:
                log.times[step] = time
    if run is None and len(runs) > 1:
        raise UsageError(
            f"{path}: holds {len(runs)} runs ({', '.join(sorted(runs)[:5])} ...): name one with --source-run"
        )
    if not log.columns:
        known = ", ".join(sorted(runs)[:5]) or "no run"
        raise UsageError(f"{path}: holds no number at any step of {run or 'a run'}; there is {known}")
    log.name = run or next(iter(runs))
    return log


def read_parquet(path: Path) -> Log:
    """A table with a row a step.

    Raises:
        UsageError: no Parquet, or no column of steps.
    """
    dataset = _opened(path)
    names = dataset.schema.names
    step_name = _one(names, STEPS)
    if step_name is None:
        raise UsageError(f"{path}: no column of steps: name one {', '.join(STEPS[:3])}; there is {', '.join(names)}")
    log = Log(path.stem)
    for batch in dataset.to_batches(batch_size=_ROWS):
        for row in batch.to_pylist():
            step = step_of(row.pop(step_name))
            if step is None:
                raise UsageError(f"{path}: a row has no whole number as {step_name}")
            time = next((_seconds(row[name]) for name in TIMES if row.get(name) is not None), None)
            log.put_row(step, {name: value for name, value in row.items() if name not in TIMES}, time)
    if not log.columns:
        raise UsageError(f"{path}: holds no number at any step")
    return log


def _opened(path: Path) -> Any:
    datasets = required("pyarrow.dataset", "Parquet files")
    arrow = required("pyarrow", "Parquet files")
    if not path.exists():
        raise UsageError(f"{path} cannot be read: there is no such file")
    try:
        return datasets.dataset(path, format="parquet")
    except (arrow.ArrowException, OSError) as error:
        raise UsageError(f"{path}: is no Parquet that can be read: {' '.join(str(error).split())}") from error


def _one(names: list[str], wanted: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _plain(value: object) -> object:
    """Decimals, which Neptune writes steps as, are numbers too."""
    return float(value) if hasattr(value, "as_tuple") else value  # type: ignore[arg-type]  # a Decimal


def _seconds(value: object) -> float | None:
    return value.timestamp() if isinstance(value, datetime) else number_of(value)
