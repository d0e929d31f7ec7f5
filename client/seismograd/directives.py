"""What the server asked for, and the job's policy on it.

A directive is a hint: nothing changes until the job asks. Alone it may act on its own copy; with several ranks only
`synchronize=True` may change control flow, since ranks that decide differently would wait for each other for ever.
Whatever is decided is told to the server, by every rank for itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from seismograd.record import Directive, DirectiveAnswer, DirectiveKind

_log = logging.getLogger("seismograd")

Report = Callable[[DirectiveAnswer], None]

_ASKS = {DirectiveKind.STOP: "should_stop()", DirectiveKind.CHECKPOINT: "should_checkpoint()"}


class Directives:
    """The directives that have arrived, each handled once although it may arrive more than once.

    `report` tells the server what became of one; it must not raise.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._seen: set[str] = set()
        self._waiting: dict[DirectiveKind, list[Directive]] = {}
        self._stopping = False
        self._calls: Counter[DirectiveKind] = Counter()  # that all ranks make together
        self._warned = False
        self.stop_reason = ""

    def receive(self, directives: Iterable[Directive], step: int | None = None) -> None:
        """Takes what has arrived until the end of `step`."""
        for directive in directives:
            if directive.directive_id in self._seen:
                continue
            self._seen.add(directive.directive_id)
            if directive.kind not in _ASKS:
                self._answer(directive, "ignored", "this is not the job's to decide", step)
                continue
            if directive.kind is DirectiveKind.STOP:
                self.stop_reason = self.stop_reason or directive.reason
                if self._stopping:
                    self._answer(directive, "applied", "the job was told to stop already", step)
                    continue
            self._waiting.setdefault(directive.kind, []).append(directive)

    def wants(self, kind: DirectiveKind) -> bool:
        """Whether this was asked for: a stop stays so, a checkpoint until it has been granted."""
        return kind in self._waiting or (kind is DirectiveKind.STOP and self._stopping)

    def is_turn(self, kind: DirectiveKind, every: object) -> bool:
        """Whether this call, which all ranks make together, is one that votes: each `every`-th is."""
        self._calls[kind] += 1
        if isinstance(every, int) and every >= 1:
            return self._calls[kind] % every == 0
        if not self._warned:
            self._warned = True
            _log.warning("every=%r is no number of calls from 1 up: every call is taken", every)
        return True

    def decided(self, kind: DirectiveKind, step: int | None, *, together: bool) -> None:
        """The job was told to do it after `step`; `together` = by all ranks, whoever of them had been asked."""
        own = self._waiting.pop(kind, [])
        how = f"told by {_ASKS[kind]}" + (" on all ranks together" if together else " on this rank alone")
        for directive in own:
            self._answer(directive, "applied", how, step)
        if kind is DirectiveKind.STOP:
            if self._stopping:
                return  # it says yes for ever: once is news
            self._stopping = True
        if not own:
            self._report(DirectiveAnswer("", kind, "applied", f"{how}: another rank was asked", step, True))

    def end(self, step: int | None) -> None:
        """The job is over: what it never asked about was ignored."""
        for kind, directives in self._waiting.items():
            for directive in directives:
                self._answer(directive, "ignored", f"the job ended without asking {_ASKS[kind]} again", step)
        self._waiting = {}

    def _answer(self, directive: Directive, outcome: str, reason: str, step: int | None) -> None:
        self._report(DirectiveAnswer(directive.directive_id, directive.kind, outcome, reason, step))
