"""`seismograd clip`: what clipping did to a run, and which threshold its own norms suggest."""

from __future__ import annotations

from typing import Any

import click

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, json_option, run_argument, run_path, server_url_option
from seismograd_server.display.numbers import figure, octaves, share
from seismograd_server.display.text import plural, printable

# Every step of a run of a million is read within seconds.
_STUDYING_SECONDS = 600.0


@click.command(cls=Command)
@run_argument
@click.option(
    "--at", "thresholds", type=float, multiple=True, metavar="NORM", help="Look at this threshold; may be repeated."
)
@click.option("--steps", type=click.IntRange(256), help="Look at about so many steps of a longer run [default: 65536].")
@server_url_option
@json_option
def clip(*, run: str, thresholds: tuple[float, ...], steps: int | None, server_url: str, as_json: bool) -> None:
    """Recommend a clip threshold for RUN, and tell what each would have done to the norms that it had.

    The coefficient is what a clip multiplies the gradient by. Under plain gradient descent, one less its mean is the
    share of the learning rate that is lost on the average step; one less its mean weighted by rate and norm is
    the share that is lost of the length of the whole path.
    """
    asked: dict[str, Any] = {"at": list(thresholds)} | ({"steps": steps} if steps else {})
    with Remote(server_url) as remote:
        key = remote.find(run)
        answer = remote.json("GET", f"{run_path(key)}/clip", params=asked, timeout=_STUDYING_SECONDS)
    if as_json:
        output.print_json(answer)
        return
    click.echo(f"{printable(str(key))}: {_counted(answer)}")
    _print_recommendation(answer)
    if answer["thresholds"]:
        click.echo()
        _print_quantiles(answer["quantiles"])
        click.echo()
        _print_thresholds(answer)
        click.echo()
        _print_tenths(answer["tenths"])
    for limit in answer["cannot_know"]:
        click.echo(f"- {printable(limit)}")


def _counted(answer: dict[str, Any]) -> str:
    judged = plural(answer["steps"], "step")
    of = "" if answer["looked_at"] == answer["closed_steps"] else f" of {answer['closed_steps']:,}"
    until = "" if answer["onset_step"] is None else f", before the incident at step {answer['onset_step']:,}"
    return f"{judged} with a norm before clipping, among the {answer['looked_at']:,}{of} looked at{until}"


def _print_recommendation(answer: dict[str, Any]) -> None:
    recommended, now = answer["recommended"], answer["now"]
    if now is not None and answer["threshold_in_force"] is not None:
        click.echo(
            f"Clipped at {figure(answer['threshold_in_force'])} now: {share(now['clipped'])} of the steps, "
            f"{share(now['rate_lost'])} of the learning rate lost, {share(now['path_lost'])} of the path"
        )
    if recommended["threshold"] is not None:
        verb = "Keep it" if recommended["keep"] else f"Recommended: {figure(recommended['threshold'], 2)}"
        click.echo(f"{verb}. {printable(recommended['reason'])}")
    else:
        click.echo(printable(recommended["reason"]))


def _print_quantiles(quantiles: list[dict[str, Any]]) -> None:
    shares = [f"{100 * each['share']:g} %" for each in quantiles]
    output.table(
        ["share of steps", *shares],
        [
            ["norm below", *(figure(each["norm"]) for each in quantiles)],
            ["octaves from the median", *(octaves(each["octaves"]) for each in quantiles)],
        ],
        right=shares,
    )


def _print_thresholds(answer: dict[str, Any]) -> None:
    exploding = any(each["clipped_from_onset"] is not None for each in answer["thresholds"])
    columns = ["clipped at", "steps clipped", "mean coefficient", "rate lost", "path lost"]
    rows = []
    for each in answer["thresholds"]:
        row = [
            _named(each["threshold"], answer),
            share(each["clipped"]),
            figure(each["mean_coefficient"]),
            share(each["rate_lost"]),
            share(each["path_lost"]),
        ]
        from_onset = each["clipped_from_onset"]
        rows.append([*row, "–" if from_onset is None else share(from_onset)] if exploding else row)
    output.table([*columns, "from the onset"] if exploding else columns, rows, right=[*columns[1:], "from the onset"])


def _named(threshold: float, answer: dict[str, Any]) -> str:
    names = {"recommended": answer["recommended"]["threshold"], "in force": answer["threshold_in_force"]}
    said = ", ".join(name for name, value in names.items() if value == threshold)
    return f"{figure(threshold, 4)} ({said})" if said else figure(threshold, 4)


def _print_tenths(tenths: list[dict[str, Any]]) -> None:
    output.table(
        ["steps", "median norm", "90th percentile", "octaves", "clipped", "mean coefficient"],
        [
            [
                f"{each['first_step']:,} to {each['last_step']:,}",
                figure(each["median"]),
                figure(each["high"]),
                "–" if each["octaves"] is None else octaves(each["octaves"]),
                "–" if each["now"] is None else share(each["now"]["clipped"]),
                "–" if each["now"] is None else figure(each["now"]["mean_coefficient"]),
            ]
            for each in tenths
        ],
        right=["median norm", "90th percentile", "octaves", "clipped", "mean coefficient"],
    )
