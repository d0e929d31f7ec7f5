"""What every signature's detector is: a small state machine over steps, in the light of what they share."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from seismograd_server.detect.context import Context
from seismograd_server.detect.facts import Step
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Finding, Signature


class Detector(Protocol):
    """One signature. Implementations are dataclasses: their fields are their whole state, and are saved as they are.

    Except for the first one: `config`, a frozen dataclass of the thresholds, each with its default.
    """

    signature: ClassVar[Signature]

    def __init__(self, config: Any) -> None:
        """Start afresh with these thresholds."""

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step; `context` holds what the steps before it have taught. Returns a change, or None."""

    def idle(self, stretch: Stretch, context: Context) -> int:
        """Of how many of the next steps, all of them calm, it can say unseen that it would not tell anything.

        `context` is as it was before the stretch. 0 is always right: it wants to see the next one.
        """

    def skip(self, stretch: Stretch) -> None:
        """Take in that this stretch, shortened to what it was idle at, has passed without it."""

    def status(self, context: Context) -> DetectorStatus:
        """Say what can be seen now, and why not more."""
