"""`[[policy]]` of the rules: what alerts ask of a job by themselves. Pure: tables in, policies or complaints out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from seismograd_server.alerts.asking import Policy
from seismograd_server.model import DirectiveKind, Severity, Signature
from seismograd_server.rules.places import Path, written

POLICY_KEYS = ("match", "signature", "severity", "ask", "an_hour")
# More a job could not do in an hour and train beside it.
_MOST_AN_HOUR = 60
_KINDS = {kind.word: kind for kind in DirectiveKind}
_SEVERITIES = {each.label: each for each in Severity if each is not Severity.NONE}

Complain = Callable[[Path, str], None]
_Meaning = TypeVar("_Meaning")


def read_policy(path: Path, said: Mapping[str, Any], complain: Complain) -> Policy:
    """A policy as its table says; when something is complained of, what comes back is not to be used."""
    signatures = _words((*path, "signature"), said.get("signature"), {each.value: each for each in Signature}, complain)
    kinds = _words((*path, "ask"), said.get("ask"), _KINDS, complain)
    usual = Policy(frozenset(), ())
    severity = said.get("severity", usual.least.label)
    if severity not in _SEVERITIES:
        complain((*path, "severity"), f"must be one of {', '.join(_SEVERITIES)}, not {written(severity)}")
    often = said.get("an_hour", usual.an_hour)
    if isinstance(often, bool) or not isinstance(often, int) or not 1 <= often <= _MOST_AN_HOUR:
        complain((*path, "an_hour"), f"must be a whole number from 1 to {_MOST_AN_HOUR}, not {written(often)}")
    return Policy(frozenset(signatures), tuple(kinds), _SEVERITIES.get(str(severity), usual.least), often)


def _words(path: Path, said: object, known: Mapping[str, _Meaning], complain: Complain) -> list[_Meaning]:
    """A word, or a list of words, of those that are known; at least one."""
    words = [said] if isinstance(said, str) else said
    if not isinstance(words, list) or not words:
        complain(path, f"is missing or empty: say one or more of {', '.join(known)}")
        return []
    for word in words:
        if not isinstance(word, str) or word not in known:
            complain(path, f"must be of {', '.join(known)}, not {written(word)}")
    return [known[word] for word in dict.fromkeys(words) if isinstance(word, str) and word in known]
