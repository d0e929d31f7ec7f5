"""The place where exceptions of ours stop: what fails is said once, and training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from seismograd.errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("seismograd")


class Guard:
    """Calls what may fail, and keeps the failure out of training: said once, then that feature is off."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}  # feature -> why
        self._said: set[str] = set()

    def __call__(self, feature: str, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R | None:
        """The result of the call, or None when it fails now or has failed before."""
        if feature in self.broken:
            return None
        try:
            return function(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - training first: no defect of ours may reach it
            self.failed(feature, error)
            return None

    def failed(self, feature: str, error: Exception) -> None:
        """Says that a feature failed, and why; it is off from now on."""
        self.broken[feature] = f"{type(error).__name__}: {error}"
        _log.warning("%s is off from now on, training goes on: %s", feature, self.broken[feature], exc_info=error)

    def attempt(self, feature: str, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R | None:
        """The same for what the user calls: a wrong call is said once, and the next one may be right."""
        try:
            return function(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - training first: not even a wrong call may end it
            # What OptionError says is complete; others need their kind.
            why = str(error) if isinstance(error, OptionError) else f"{type(error).__name__}: {error}"
            self.say_once(feature, f"a call of {feature} was ignored, training goes on: {why}")
            return None

    def say_once(self, about: str, message: str) -> None:
        """A warning, once for each thing that it is about."""
        if about not in self._said:
            self._said.add(about)
            _log.warning("%s", message)
