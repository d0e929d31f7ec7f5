"""Tables of steps: CSV, JSON lines, and the `trainer_state.json` of Hugging Face's Trainer."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seismograd_server.display.text import plural
from seismograd_server.errors import UsageError
from seismograd_server.transfer.logs import Log, kind_of, number_of, step_of
from seismograd_server.transfer.recognising import STEPS, TIMES

# A cell longer than this is no number of a log; the module's own limit is for text.
_LONGEST_CELL = 2**20
# Words for "there is no value here".
_EMPTY = frozenset({"", "null", "none", "n/a", "-"})


def read_csv(path: Path) -> Log:
    """A table with a line of names, and a line for each step.

    Raises:
        UsageError: no line of names, no column of steps, a line with more cells than names, or a cell that is no number
            in a column of numbers; the message names line, column and value.
    """
    log = Log(path.stem)
    csv.field_size_limit(_LONGEST_CELL)
    with _opened(path) as file:
        try:
            reader = csv.reader(file, strict=True)
            names = [each.strip().strip("\ufeff") for each in next(reader, [])]
            if not any(names):
                raise UsageError(f"{path}: is empty: the first line names the columns")
            step_name = _step_column(path, names)
            for row in reader:
                if any(cell.strip() for cell in row):
                    _put_cells(log, path, reader.line_num, dict(_cells(path, reader.line_num, names, row)), step_name)
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num} is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
    _settle_text(log, path)
    return _checked(log, path)


def read_json_lines(path: Path) -> Log:
    """An object a line, as `wandb` and many loops write them. A torn last line is left out and said.

    Raises:
        UsageError: a line amid the file is no object, or no line has a step.
    """
    log, without = Log(path.stem), 0
    step_name: str | None = None
    for number, row in _json_objects(path, log):
        if step_name is None:
            step_name = next((name for name in STEPS if name in row), None)
        step = None if step_name is None else step_of(row.get(step_name))
        if step is None:
            without += 1
            continue
        _put_object(log, path, number, step, row)
    if without:
        log.notes.append(f"{plural(without, 'line')} without a step left out")
    return _checked(log, path)


def read_trainer_state(path: Path) -> Log:
    """The history that Hugging Face's Trainer keeps beside its checkpoints.

    Raises:
        UsageError: it is no JSON (half-written?), or no state of a Trainer.
    """
    try:
        state = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no whole JSON ({error}): is it still being written?") from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise UsageError(f"{path}: has no log_history: this is no trainer_state.json")
    log = Log(path.parent.name or path.stem)
    for number, row in enumerate(history, start=1):
        step = step_of(row.get("step")) if isinstance(row, dict) else None
        if step is None:
            raise UsageError(f"{path}: entry {number} of log_history has no step")
        _put_object(log, path, number, step, row)
    skipped = {"log_history", "best_model_checkpoint", "stateful_callbacks"}
    log.config = {name: value for name, value in state.items() if name not in skipped and number_of(value) is not None}
    return _checked(log, path)


def _cells(path: Path, line: int, names: list[str], row: list[str]) -> Iterator[tuple[str, str]]:
    if len(row) > len(names):
        raise UsageError(f"{path}: line {line} has {len(row)} cells, and there are {len(names)} names")
    return zip(names, (cell.strip() for cell in row), strict=False)


def _put_cells(log: Log, path: Path, line: int, row: Mapping[str, str], step_name: str) -> None:
    step = step_of(row.get(step_name, ""))
    if step is None:
        raise UsageError(f"{path}: line {line}: {step_name} is {row.get(step_name, '')!r}, not a whole number")
    for name, cell in row.items():
        if name == step_name or cell.lower() in _EMPTY:
            continue
        number = number_of(cell)
        if number is not None and name not in log.unreadable:
            log.put(name, step, number)
        elif number is None:
            log.unreadable.setdefault(name, f"text ({cell[:40]!r} in line {line})")
    time = next((number_of(row[name]) for name in TIMES if row.get(name)), None)
    if time is not None:
        log.times[step] = time


def _settle_text(log: Log, path: Path) -> None:
    """A column of words is no measure; one with numbers and a word in it is broken, and must not be half-imported."""
    for name, kind in log.unreadable.items():
        if name in log.columns and log.columns[name].steps:
            raise UsageError(f"{path}: column {name} holds numbers and {kind}: mend or leave out that column")


def _put_object(log: Log, path: Path, number: int, step: int, row: Mapping[str, Any]) -> None:
    time = next((number_of(row[name]) for name in TIMES if number_of(row.get(name)) is not None), None)
    measures = {name: value for name, value in row.items() if name not in STEPS}
    for name, value in measures.items():
        if isinstance(value, str) and number_of(value) is None and name in log.columns:
            raise UsageError(f"{path}: entry {number}: {name} is {value[:40]!r}, and was a number before")
    log.put_row(step, measures, time)


def _json_objects(path: Path, log: Log) -> Iterator[tuple[int, dict[str, Any]]]:
    with _opened(path) as file:
        torn: tuple[int, str] | None = None
        for number, line in enumerate(_lines(path, file), start=1):
            if torn is not None:
                raise UsageError(f"{path}: line {torn[0]} is no JSON object: {torn[1]}")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                torn = number, str(error)
                continue
            if not isinstance(row, dict):
                raise UsageError(f"{path}: line {number} holds {kind_of(row)}, not an object")
            yield number, row
    if torn is not None:
        if torn[0] == 1:
            raise UsageError(f"{path}: line 1 is no JSON object: {torn[1]}")
        log.notes.append(f"the last line, {torn[0]}, is torn: left out")


def _lines(path: Path, file: Iterable[str]) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error


def _step_column(path: Path, names: list[str]) -> str:
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise UsageError(f"{path}: {', '.join(repeated)} is the name of several columns")
    lower = {name.lower(): name for name in reversed(names)}
    found = next((lower[name] for name in STEPS if name in lower), None)
    if found is None:
        raise UsageError(f"{path}: no column of steps: name one {', '.join(STEPS[:3])}; there is {', '.join(names)}")
    return found


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _checked(log: Log, path: Path) -> Log:
    if not log.columns:
        raise UsageError(f"{path}: holds no number at any step")
    return log
