"""What the server asked for, and the job's policy on it.

A directive is a hint: nothing changes until the job asks. Alone it may act on its own copy; with several ranks only
`synchronize=True` may change control flow, since ranks that decide differently would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from seismograd.record import Directive, DirectiveKind

Outcome = Literal["applied", "refused", "ignored"]
Report = Callable[[str, Outcome, str], None]


class Directives:
    """The directives that have arrived, each handled once although it may arrive more than once.

    `report` tells the server what became of one; it must not raise.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._seen: set[str] = set()
        self._waiting: dict[DirectiveKind, list[str]] = {}
        self._stopping = False
        self.stop_reason = ""

    def receive(self, directives: Iterable[Directive]) -> None:
        """Takes what has arrived."""
        for directive in directives:
            if directive.directive_id in self._seen:
                continue
            self._seen.add(directive.directive_id)
            if directive.kind is DirectiveKind.CAPTURE_MORE:
                self._report(directive.directive_id, "ignored", "this client has no flight recorder yet")
                continue
            self._waiting.setdefault(directive.kind, []).append(directive.directive_id)
            if directive.kind is DirectiveKind.STOP and not self.stop_reason:
                self.stop_reason = directive.reason

    def wants_stop(self) -> bool:
        """Whether a stop was asked for; it stays so."""
        return self._stopping or DirectiveKind.STOP in self._waiting

    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint was asked for and has not been granted yet."""
        return DirectiveKind.CHECKPOINT in self._waiting

    def stop_decided(self) -> None:
        """The job was told to stop."""
        self._stopping = True
        self._apply(DirectiveKind.STOP)

    def checkpoint_decided(self) -> None:
        """The job was told to write a checkpoint."""
        self._apply(DirectiveKind.CHECKPOINT)

    def _apply(self, kind: DirectiveKind) -> None:
        for directive_id in self._waiting.pop(kind, []):
            self._report(directive_id, "applied", "")
