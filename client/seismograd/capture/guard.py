"""How capture calls what may fail: through a function that the monitor gives, which never raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Guard(Protocol):
    """`guard("what it is about", function, ...)` calls the function; None when it failed now or before."""

    def __call__(self, feature: str, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R | None:
        """The result of the call, or None."""
        ...

    def failed(self, feature: str, error: Exception) -> None:
        """The feature failed where the caller has caught it: said once; it is off."""
        ...

    def say_once(self, about: str, message: str) -> None:
        """A warning, once for each thing that it is about."""
        ...
