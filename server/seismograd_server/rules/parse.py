"""`rules.toml` as rules, or everything that is wrong with it. Pure: text in, rules out."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from seismograd_server.errors import ConfigError
from seismograd_server.model import Severity, Signature
from seismograd_server.rules.places import Path, Places, shown, written
from seismograd_server.rules.policies import POLICY_KEYS, read_policy
from seismograd_server.rules.ruleset import Changes, Match, MatchedPolicy, Number, Override, Rules, SignatureRules
from seismograd_server.rules.schema import SEVERITIES, Key, alert_keys, threshold_keys

_CHANGES = ("signature", "alerts")
_MATCH = ("project", "run", "tags")


class RulesError(ConfigError):
    """Rules that cannot be used.

    Attributes:
        problems: all of them, each a line that names the place, the value, and what would be right.
    """

    def __init__(self, name: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{name}: {self.problems[0]}{more}")


def parse(text: str, name: str = "rules.toml") -> Rules:
    """Read rules.

    Args:
        text: TOML.
        name: what to call it in an error.

    Raises:
        RulesError: it is no TOML, or says something that cannot be.
    """
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulesError(name, [f"is not TOML: {error}"]) from error
    reader = _Reader(Places(text))
    rules = reader.rules(said)
    if reader.problems:
        raise RulesError(name, reader.problems)
    return rules


class _Reader:
    """Goes through what is said, and takes down what is wrong with it instead of stopping there."""

    def __init__(self, places: Places) -> None:
        self._found: list[tuple[int, str]] = []
        self._places = places

    @property
    def problems(self) -> list[str]:
        """What is wrong, from the first line to the last."""
        return [f"line {line}: {what}" if line else what for line, what in sorted(self._found)]

    def rules(self, said: Mapping[str, Any]) -> Rules:
        self._known_only((), said, (*_CHANGES, "override", "policy"))
        overrides = [self._override(path, each) for path, each in self._each("override", said)]
        policies = [self._policy(path, each) for path, each in self._each("policy", said)]
        return Rules(self._changes((), said), tuple(overrides), tuple(policies))

    def _each(self, name: str, said: Mapping[str, Any]) -> list[tuple[Path, object]]:
        tables = said.get(name, [])
        if not isinstance(tables, list):
            self._complain((name,), f"must be written [[{name}]], once for each")
            return []
        return [((name, index), each) for index, each in enumerate(tables)]

    def _policy(self, path: Path, said: object) -> MatchedPolicy:
        table = self._table(path, said)
        self._known_only(path, table, POLICY_KEYS)
        match = self._match((*path, "match"), table["match"]) if "match" in table else Match()
        return MatchedPolicy(match, read_policy(path, table, self._complain))

    def _override(self, path: Path, said: object) -> Override:
        table = self._table(path, said)
        if not isinstance(said, dict):
            return Override(Match(), Changes())
        self._known_only(path, table, ("match", *_CHANGES))
        match = self._match((*path, "match"), table.get("match"))
        changes = self._changes(path, table)
        if not {*_CHANGES} & table.keys():
            self._complain(path, "changes nothing: say something of `signature` or `alerts`")
        return Override(match, changes)

    def _match(self, path: Path, said: object) -> Match:
        if not said:
            self._complain(path, 'is missing or empty: say which runs, as in { project = "mt" }')
            return Match()
        table = self._table(path, said)
        self._known_only(path, table, _MATCH)
        tags = self._table((*path, "tags"), table.get("tags", {}))
        for name in ("project", "run"):
            self._text((*path, name), table.get(name, ""))
        for tag, value in tags.items():
            self._text((*path, "tags", tag), value)
        return Match(str(table.get("project", "*")), str(table.get("run", "*")), {k: str(v) for k, v in tags.items()})

    def _changes(self, path: Path, said: Mapping[str, Any]) -> Changes:
        signatures = self._table((*path, "signature"), said.get("signature", {}))
        self._known_only((*path, "signature"), signatures, [each.value for each in Signature])
        alerts = self._numbers((*path, "alerts"), self._table((*path, "alerts"), said.get("alerts", {})), alert_keys())
        found = {
            Signature(name): self._signature((*path, "signature", name), Signature(name), rules)
            for name, rules in signatures.items()
            if name in list(Signature)
        }
        return Changes({signature: rules for signature, rules in found.items() if rules != SignatureRules()}, alerts)

    def _signature(self, path: Path, signature: Signature, said: object) -> SignatureRules:
        table = dict(self._table(path, said))
        mute, severity = table.pop("mute", None), table.pop("severity", None)
        if mute is not None and not isinstance(mute, bool):
            self._complain((*path, "mute"), f"must be true or false, not {written(mute)}")
            mute = None
        grade: Severity | None = None
        if severity is not None:
            grade = SEVERITIES.get(severity) if isinstance(severity, str) else None
            if grade is None:
                self._complain((*path, "severity"), f"must be one of {', '.join(SEVERITIES)}, not {written(severity)}")
        thresholds = self._numbers(path, table, threshold_keys(signature), also=("mute", "severity"))
        return SignatureRules(mute, grade, thresholds)

    def _numbers(
        self, path: Path, said: Mapping[str, Any], keys: Mapping[str, Key], also: Iterable[str] = ()
    ) -> dict[str, Number]:
        self._known_only(path, said, [*also, *keys])
        found: dict[str, Number] = {}
        for name, value in said.items():
            if name not in keys:
                continue
            if complaint := keys[name].complaint(value):
                self._complain((*path, name), complaint)
            else:
                found[name] = value if isinstance(keys[name].default, int) else float(value)
        return found

    def _known_only(self, path: Path, said: Mapping[str, Any], known: Iterable[str]) -> None:
        known = list(known)
        for name in said:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known here are {', '.join(known)}"
                self._complain((*path, name), f"is unknown: {hint}")

    def _table(self, path: Path, said: object) -> Mapping[str, Any]:
        if isinstance(said, dict):
            return said
        self._complain(path, f"must be a table, not {written(said)}")
        return {}

    def _text(self, path: Path, said: object) -> None:
        if not isinstance(said, str):
            self._complain(path, f"must be a text, not {written(said)}")

    def _complain(self, path: Path, what: str) -> None:
        self._found.append((self._places.line(path) or 0, f"{shown(path)} {what}"))
