"""`seismograd export`: a run as a table, for pandas, polars, DuckDB or a spreadsheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, json_option, run_argument, run_path, server_url_option
from seismograd_server.display.text import plural, printable
from seismograd_server.errors import UsageError
from seismograd_server.model import Range, RunKey, joined_ranges
from seismograd_server.transfer.tables import table_file

# Rows of one answer: a range of no more steps is always answered step by step.
_PAGE_STEPS = 20_000
_OVERVIEW_POINTS = 2_000
# Columns of one answer about layers, and numbers in it (as the server limits them).
_LAYER_COLUMNS, _LAYER_VALUES = 1000, 2**19
_STEP_COLUMNS = {
    "step": "int64",
    "attempt": "int64",
    "time": "float64",
    "grad_norm": "float64",
    "nonfinite": "int64",
    "loss": "float64",
    "learning_rate": "float64",
    "loss_scale": "float64",
    "clip_threshold": "float64",
    "clip_coefficient": "float64",
    "step_seconds": "float64",
    "ranks_present": "int64",
    "flags": "int64",
}
_LAYER_TABLE = {"step": "int64", "layer": "string", "grad_norm": "float32", "nonfinite": "bool_"}
# What the columns mean, for whoever finds the file in a year.
_UNITS = (
    "grad_norm: L2 norm of the finite gradient elements, before clipping and after unscaling; nonfinite: number of "
    "elements that are NaN or Inf; time: Unix seconds; step_seconds: seconds; empty or null: not known"
)


@click.command(cls=Command)
@run_argument
@click.option("--to", "target", required=True, metavar="FILE", type=click.Path(path_type=Path), help=".parquet or .csv")
@click.option("--layers", is_flag=True, help="Also FILE.layers: the gradient norm of every layer at every step.")
@click.option("--first-step", type=int, help="From this step on.")
@click.option("--last-step", type=int, help="Up to this step.")
@server_url_option
@json_option
def export(
    run: str,
    target: Path,
    *,
    layers: bool,
    first_step: int | None,
    last_step: int | None,
    server_url: str,
    as_json: bool,
) -> None:
    """Write RUN as a table, a row a step (project/run, or the run alone when its name is unique)."""
    with Remote(server_url) as remote:
        reader = _Reader(remote, remote.find(run))
        steps = reader.write_steps(target, first_step, last_step)
        written = {str(target): steps}
        if layers:
            beside = target.with_name(f"{target.stem}.layers{target.suffix}")
            written[str(beside)] = reader.write_layers(beside, first_step, last_step)
    key = reader.key
    if as_json:
        files = [{"path": path, "rows": rows} for path, rows in written.items()]
        output.print_json({"project": key.project, "run": key.run, "files": files, "notes": reader.notes})
        return
    for path, rows in written.items():
        click.echo(f"{path}: {plural(rows, 'row')} of {printable(str(key))}")
    for note in reader.notes:
        click.echo(f"  note: {note}")


class _Reader:
    """Reads a run page by page."""

    def __init__(self, remote: Remote, key: RunKey) -> None:
        self.key = key
        self.notes: list[str] = []
        self._remote = remote
        self._path = run_path(key)

    @property
    def _about(self) -> dict[str, str]:
        return {"project": self.key.project, "run": self.key.run, "version": version("seismograd"), "columns": _UNITS}

    def write_steps(self, target: Path, first: int | None, last: int | None) -> int:
        """Write the steps; gives how many."""
        count = 0
        with table_file(target, _STEP_COLUMNS, self._about) as table:
            pages = self._stretches(first, last, _PAGE_STEPS)
            for answer in self._kept(pages, lambda start, end: self._series(start, end, _PAGE_STEPS), "steps"):
                rows = {name: [_value(each) for each in answer["series"][name]] for name in _STEP_COLUMNS}
                table.write(rows)
                count += answer["count"]
            if not count:
                raise UsageError(f"run {printable(str(self.key))} has no step to write: nothing was written")
        return count

    def write_layers(self, target: Path, first: int | None, last: int | None) -> int:
        """Write the layers' norms; gives how many."""
        count = 0
        with table_file(target, _LAYER_TABLE, self._about) as table:
            width = self._layer_width(first, last)

            def asked(start: int, end: int) -> Any:
                query = {"first_step": start, "last_step": end, "columns": width}
                return self._remote.json("GET", f"{self._path}/layers", params=query)

            for answer in self._kept(self._stretches(first, last, width), asked, "the layers of steps"):
                names = answer["layers"]
                norms = [_value(each) for row in answer["grad_norm"] for each in row]
                table.write(
                    {
                        "step": [step for step in answer["steps"] for _ in names],
                        "layer": names * len(answer["steps"]),
                        "grad_norm": norms,
                        "nonfinite": [each > 0 for row in answer["nonfinite_steps"] for each in row],
                    }
                )
                count += len(norms)
        return count

    def _kept(self, pages: Iterable[Range], ask: Callable[[int, int], Any], what: str) -> Iterator[dict[str, Any]]:
        """The answers about every single step that there is; a note says of which there are summaries alone."""
        gone: list[Range] = []
        for start, end in pages:
            answer = ask(start, end)
            if answer["detail"] == "kept" and answer.get("resolution") == 1:
                yield answer
                continue
            begun = start
            for each in answer.get("kept", ()):
                first, last = max(start, each["first_step"]), min(end, each["last_step"])
                if first <= last and (part := ask(first, last))["detail"] == "kept":
                    yield part
                    gone.append((begun, first - 1))
                    begun = last + 1
            gone.append((begun, end))
        for start, end in joined_ranges(gone):
            self.notes.append(f"of {what} {start:,} to {end:,} only summaries are kept: left out")

    def _layer_width(self, first: int | None, last: int | None) -> int:
        """Steps of one answer about layers, for as many as there are."""
        answer = self._remote.json("GET", f"{self._path}/layers", params=_range(first, last) | {"columns": 1})
        if not answer["layers"]:
            raise UsageError(f"run {printable(str(self.key))} has no norms of layers")
        return max(1, min(_LAYER_COLUMNS, _LAYER_VALUES // len(answer["layers"])))

    def _stretches(self, first: int | None, last: int | None, width: int) -> Iterator[tuple[int, int]]:
        """Ranges with steps in them, each no wider than `width`: logged steps may be far apart."""
        answer = self._series(first, last, _OVERVIEW_POINTS)
        series = answer["series"]
        # Where only summaries are kept, the first and the last one may be of more steps than were asked for.
        firsts = [step if first is None else max(first, step) for step in series["step"]]
        lasts = [step if last is None else min(last, step) for step in series.get("last_step", series["step"])]
        begun: int | None = None
        end = 0
        for start, stop in zip(firsts, lasts, strict=True):
            if begun is not None and stop - begun >= width:
                yield begun, end
                begun = None
            if stop - start >= width:
                yield from (
                    self._stretches(start, stop, width) if (start, stop) != (first, last) else _cut(start, stop, width)
                )
                continue
            begun = start if begun is None else begun
            end = stop
        if begun is not None:
            yield begun, end

    def _series(self, first: int | None, last: int | None, points: int) -> Any:
        return self._remote.json("GET", f"{self._path}/series", params=_range(first, last) | {"points": points})


def _range(first: int | None, last: int | None) -> dict[str, int]:
    return {name: value for name, value in (("first_step", first), ("last_step", last)) if value is not None}


def _cut(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    for begun in range(start, stop + 1, width):
        yield begun, min(begun + width - 1, stop)


def _value(value: Any) -> Any:
    """A number of the API; what is not finite comes as a word."""
    return float(value) if isinstance(value, str) else value
