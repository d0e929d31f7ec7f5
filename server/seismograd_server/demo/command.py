"""`seismograd demo`: the command itself."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from seismograd_server.demo.scenarios import SCENARIOS
from seismograd_server.errors import SeismogradError

if TYPE_CHECKING:
    from seismograd_server.demo.processes import Child
    from seismograd_server.demo.story import Outcome


class DemoFailedError(SeismogradError):
    """The demo ran, and did not show what it promises."""


@click.command()
@click.option(
    "--scenario", type=click.Choice(list(SCENARIOS)), default="lstm", show_default=True, help="What explodes."
)
@click.option("--keep", is_flag=True, help="Leave the server up until Ctrl-C.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("seismograd-demo"),
    show_default=True,
    metavar="DIR",
    help="Where the data, the report and the logs go.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and data.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to stderr.")
@click.pass_context
def demo(ctx: click.Context, *, scenario: str, keep: bool, data_dir: Path, seed: int, as_json: bool) -> None:
    """Train a real model on two ranks until it explodes, with the alert as it fires and the post-mortem."""
    # Terminal and HTTP libraries take a moment to import; no other command should wait for them.
    from seismograd_server.demo.display import open_screen  # noqa: PLC0415 - as above
    from seismograd_server.demo.farewell import as_values, tell, wait_for_interrupt  # noqa: PLC0415 - as above
    from seismograd_server.demo.story import run_demo  # noqa: PLC0415 - as above

    _require_torch()
    console, screen = open_screen(to_stderr=as_json)

    def afterwards(outcome: Outcome, url: str, server: Child) -> None:
        tell(console, outcome, url, data_dir, keep=keep)
        if as_json:
            click.echo(json.dumps(as_values(outcome, url if keep else None)))
        if keep:
            wait_for_interrupt(server)

    with _terminated_like_interrupted(), _tail_shown():
        outcome = run_demo(SCENARIOS[scenario], data_dir, screen, seed=seed, afterwards=afterwards)
    if not outcome.verdict.passed:
        raise DemoFailedError("; ".join(outcome.verdict.problems))
    ctx.exit(0)


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise DemoFailedError("the demo trains with PyTorch, which is not installed: pip install torch")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that no child outlives it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _tail_shown() -> Iterator[None]:
    """Show the last lines of a child that failed, above the one-line error."""
    from seismograd_server.demo.processes import ChildError  # noqa: PLC0415 - only once the demo runs

    try:
        yield
    except ChildError as error:
        if error.tail:
            click.echo(error.tail, err=True)
        raise
