"""One client's stream as the log sees it: how many of its frames wait, and what is to be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import SeismogradError
from seismograd_server.model import Directive, StreamKey, Watermark
from seismograd_server.pipeline import Notice, Receipt, Rejection

# Answers to a client that does not read are merged; notices and rejections cannot be, and are bounded.
_KEPT = 1_000


class Stream:
    """Used on the event loop; the worker only reads and replaces `handles`, which are never changed in place.

    `unclaimed` and `told` are the worker's alone.
    """

    def __init__(self) -> None:
        self.handles: frozenset[int] = frozenset()
        self.unclaimed = b""  # catalogs that came before any word of whose they are; the worker's
        self.told: set[tuple[str, int]] = set()  # (directive, rank handle) that went down this stream
        self.waiting = 0  # frames that are not answered yet
        self._marks: dict[StreamKey, Watermark] = {}
        self._rejections: list[Rejection] = []
        self._notices: list[Notice] = []
        self._directives: list[Directive] = []
        self._error: SeismogradError | None = None
        self._ended = False
        self._news = asyncio.Event()

    def speak_for(self, handles: set[int]) -> None:
        """Remember the ranks that the stream speaks for."""
        if not handles <= self.handles:
            self.handles |= handles

    def take(self, outcome: Outcome) -> None:
        """Hear what became of some frames."""
        self.waiting -= outcome.frames
        if outcome.error is not None and self._error is None:
            self._error = outcome.error
        if outcome.receipt is not None:
            self._marks.update((mark.stream, mark) for mark in outcome.receipt.watermarks)
            self._rejections = (self._rejections + list(outcome.receipt.rejections))[-_KEPT:]
        self._news.set()

    def warn(self, notice: Notice) -> None:
        """An alert of the stream's run has changed."""
        self._notices = [*self._notices, notice][-_KEPT:]
        self._news.set()

    def ask(self, directives: Sequence[Directive]) -> None:
        """Something is asked of the stream's ranks."""
        self._directives = [*self._directives, *directives][-_KEPT:]
        self._news.set()

    def fail(self, error: SeismogradError) -> None:
        """The stream must end for this reason."""
        self._error = self._error or error
        self._news.set()

    def end(self) -> None:
        """The client sends no more."""
        self._ended = True
        self._news.set()

    async def answer(self, now: float) -> telemetry.StreamStepsResponse | None:
        """Wait for news and give it as one message; None = everything has been answered and the client is done.

        Raises:
            the error that the stream must end with.
        """
        while not (self._marks or self._rejections or self._notices or self._directives):
            if self._error is not None:
                raise self._error
            if self._ended and not self.waiting:
                return None
            self._news.clear()
            await self._news.wait()
        response = telemetry.StreamStepsResponse(server_time_unix_seconds=now)
        add_watermarks(response.watermarks, self._marks.values())
        response.rejections.extend(_rejection_message(each) for each in self._rejections)
        response.alerts.extend(_notice_message(each) for each in self._notices)
        response.directives.extend(_directive_message(each) for each in self._directives)
        self._marks, self._rejections, self._notices, self._directives = {}, [], [], []
        return response


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes of a stream, with the monotonic time of their arrival."""

    stream: Stream
    data: bytes
    arrived: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of some frames of a stream: a receipt or an error."""

    stream: Stream
    frames: int
    receipt: Receipt | None
    error: SeismogradError | None


def add_watermarks(to: RepeatedCompositeFieldContainer[telemetry.Watermark], marks: Iterable[Watermark]) -> None:
    """Add watermarks to a message; made within it, which takes half as long as to copy them into it."""
    for mark in marks:
        message = to.add()
        message.rank_handle = mark.stream.rank_handle
        message.optimizer = mark.stream.optimizer
        message.kind = int(mark.stream.kind)  # type: ignore[assignment]  # the generated type is an enum, the wire's an integer
        message.accepted_sequence = mark.accepted
        message.durable_sequence = mark.durable


def _rejection_message(rejection: Rejection) -> telemetry.Rejection:
    return telemetry.Rejection(
        rank_handle=rejection.stream.rank_handle,
        optimizer=rejection.stream.optimizer,
        kind=int(rejection.stream.kind),  # type: ignore[arg-type]  # as above
        first_sequence=rejection.first_sequence,
        count=rejection.count,
        field=rejection.field,
        message=rejection.message,
    )


def _notice_message(notice: Notice) -> telemetry.AlertNotice:
    alert = notice.alert
    return telemetry.AlertNotice(
        alert_id=alert.alert_id,
        signature=alert.signature.value,
        severity=alert.severity.label,
        state=alert.state.value,
        step=notice.step,
        reason=alert.reason,
    )


def _directive_message(directive: Directive) -> telemetry.Directive:
    return telemetry.Directive(
        directive_id=directive.directive_id,
        kind=int(directive.kind),  # type: ignore[arg-type]  # as above
        reason=directive.reason,
        alert_id=directive.alert_id,
        first_step=directive.first_step,
        last_step=directive.last_step,
    )
