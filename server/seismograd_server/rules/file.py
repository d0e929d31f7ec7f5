"""The file of rules that a server follows: read when it starts, and again whenever it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from seismograd_server.errors import ConfigError
from seismograd_server.instruments import Instruments
from seismograd_server.rules.parse import parse
from seismograd_server.rules.ruleset import Rules

_log = structlog.get_logger(__name__)


def read_rules(path: Path) -> Rules:
    """Read a file of rules.

    Raises:
        ConfigError: it cannot be read; a RulesError, when it says something that cannot be.
    """
    return parse(_text_of(path), f"rules {path}")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"rules {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"rules {path} are not UTF-8: {error.reason} at byte {error.start}") from error


@dataclass(frozen=True, slots=True)
class RulesInForce:
    """What people are shown of the rules that a server follows.

    Attributes:
        source: the file; empty = there is none, and the shipped defaults are followed.
        text: the file as it was when it could last be used.
        refusal: why the file as it is now cannot be used; empty = it is.
    """

    source: str = ""
    text: str = ""
    refusal: str = ""


class RulesFile:
    """The rules as the file last was when it could be used.

    A chore of the maintenance thread: it looks every second or so. What is broken is logged and counted once for each
    change of the file, and the rules before it stay.
    """

    name = "rules"

    def __init__(self, path: Path, instruments: Instruments) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be used; a server must not start with other rules than it was told.
        """
        self._path = path
        self._instruments = instruments
        self._stamp = self._look()
        self._rules, self._shown = self._read()

    def current(self) -> Rules:
        """The rules to follow now; from any thread."""
        return self._rules

    def in_force(self) -> RulesInForce:
        """What people are shown of them; from any thread."""
        return self._shown

    def step(self, now: float) -> bool:  # noqa: ARG002 (a chore's form)
        """Look whether the file has changed, and read it again if so."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._rules, self._shown = self._read()
        except ConfigError as error:
            self._shown = replace(self._shown, refusal=str(error))
            self._instruments.rules_reloads.labels(result="refused").inc()
            self._instruments.rules_refused.set(1)
            _log.error("the rules cannot be used: those before them stay", reason=str(error))
        else:
            self._instruments.rules_reloads.labels(result="loaded").inc()
            self._instruments.rules_refused.set(0)
            _log.info("the rules have been read again", file=str(self._path))
        return False

    def _read(self) -> tuple[Rules, RulesInForce]:
        text = _text_of(self._path)
        return parse(text, f"rules {self._path}"), RulesInForce(str(self._path), text)

    def _look(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None = it cannot be seen."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
