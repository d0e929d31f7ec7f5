"""What may be said in `rules.toml`: read off the dataclasses that the detectors and the alerts are configured with."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from seismograd_server.alerts.fleet import FleetPolicy
from seismograd_server.alerts.lifecycle import DEFAULT_POLICY
from seismograd_server.detect.watch import WatchConfig
from seismograd_server.model import Severity, Signature
from seismograd_server.rules.places import written
from seismograd_server.rules.ruleset import Number

# The word that takes back a severity that an earlier part of the rules has set.
OWN = "own"
SEVERITIES: Mapping[str, Severity] = {
    OWN: Severity.NONE,
    **{each.label: each for each in Severity if each is not Severity.NONE},
}
# More steps than any run has; a limit keeps a typing error from filling the memory of a detector.
_MOST = 1_000_000_000
# How names end of what is a share of a whole or a probability: more than all of it there cannot be.
_SHARES = ("share", "fit", "significance")


@dataclass(frozen=True, slots=True)
class Key:
    """A number that may be set.

    Attributes:
        name: as it is written.
        default: as it is shipped.
    """

    name: str
    default: Number

    def complaint(self, value: object) -> str:
        """What is wrong with a value, and what would be right; empty = nothing.

        A threshold never changes its sign, and what is counted is at least one if it usually is: the other way round
        a rule would mean its opposite, or divide by zero.
        """
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return f"must be {'a whole number' if whole else 'a number'}, not {written(value)}"
        least: Number = -_MOST
        most: Number = 1 if self.name.endswith(_SHARES) else _MOST
        if self.default > 0:
            least = 1 if whole else 0
        elif self.default < 0:
            most = 0
        else:
            least = 0
        return "" if least <= value <= most else f"must lie between {least:,} and {most:,}, not be {written(value)}"


def threshold_keys(signature: Signature) -> dict[str, Key]:
    """The thresholds of a signature, by name; empty = it has none that may be set."""
    config = _config_of(signature)
    return _keys(config) if is_dataclass(config) and not isinstance(config, type) else {}


def alert_keys() -> dict[str, Key]:
    """How patient alerts are."""
    return _keys(DEFAULT_POLICY)


def _config_of(signature: Signature) -> Any:
    """The shipped thresholds of a signature: of one run, or of several together; None = it has none."""
    return FleetPolicy() if signature is Signature.FLEET else getattr(WatchConfig(), signature.value, None)


def _keys(config: Any) -> dict[str, Key]:
    return {each.name: Key(each.name, getattr(config, each.name)) for each in fields(config)}


# An entry of "Attributes:" in a docstring: its name, and what is said of it on this and the lines below.
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)

_HEADER = """\
# Rules of a seismograd server: what is looked for, how grave it is, how patient alerts are.
#
# Every key is here with its default, and commented out; write down only what is different, so that better defaults of
# later versions reach you. `seismograd rules check FILE` says what is wrong, `seismograd rules backtest --rules FILE`
# what would have fired. A server reads the file again when it changes:
#
#     [rules]
#     file = "rules.toml"
#
# An octave is a factor of two: 3.0 is eightfold, -3.0 an eighth.
"""
_OVERRIDES = """\
# What is different for some runs: those that fit everything in `match`; * and ? stand for any text. All tables from
# above may stand in an override. Of several that fit, a later one outranks an earlier one.
#
#[[override]]
#match = { project = "mt", run = "lstm-*", tags = { team = "speech" } }
#signature.spike.mute = true
#signature.runaway.severity = "warning"
#alerts.hold_seconds = 30.0
"""

_POLICIES = """\
# What an alert asks of the job by itself, once people are told of it. Nothing, unless a policy says so (what the
# flight recorder holds is asked for in any case: [capture] in the server's configuration). To stop or to save is a
# hint: a job does so only if its code calls should_stop or should_checkpoint. A capture is asked of every rank. `match`
# as above, or left out for every run. Each kind is asked at most `an_hour` times an hour of one run, and every answer
# is kept.
#
#[[policy]]
#signature = ["runaway", "nonfinite"]
#severity = "critical"  # at least
#ask = ["capture", "checkpoint", "stop"]
#an_hour = 2
#match = { project = "mt" }
"""


def documented_defaults() -> str:
    """A `rules.toml` that changes nothing, with every key, its default and its reason."""
    parts = [_HEADER, "[alerts]\n" + _documented(DEFAULT_POLICY)]
    for signature in Signature:
        config = _config_of(signature)
        head = f'[signature.{signature.value}]\n#mute = false\n#severity = "{OWN}"  # {", ".join(SEVERITIES)}\n'
        parts.append(head + (_documented(config) if config is not None else ""))
    return "\n".join([*parts, _OVERRIDES, _POLICIES])


def _documented(config: Any) -> str:
    """The fields of a configuration as commented keys, each behind the comment that its source has."""
    source = textwrap.dedent(inspect.getsource(type(config)))
    lines, found = source.splitlines(), list[str]()
    said = dict(_ATTRIBUTE.findall(inspect.getdoc(type(config)) or ""))
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        first = node.lineno - 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        found += [line.strip() for line in lines[first : node.lineno - 1]]
        if name in said:
            found += textwrap.wrap(" ".join(said[name].split()), 118, initial_indent="# ", subsequent_indent="# ")
        found.append(f"#{name} = {getattr(config, name)!r}")
    return "".join(f"{line}\n" for line in found)
