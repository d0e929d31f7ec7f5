"""What the server says: watermarks, rejections, directives, alerts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from seismograd.outbox.queue import Queue, StreamMark
from seismograd.outbox.streamlog import StreamName
from seismograd.record import AlertNotice, Directive, DirectiveKind, RecordKind
from seismograd_proto.v1 import telemetry

_log = logging.getLogger("seismograd")

_News = TypeVar("_News")
_KINDS = frozenset(int(kind) for kind in RecordKind)
_DIRECTIVE_KINDS = frozenset(int(kind) for kind in DirectiveKind)

# A job that never asks must not collect news without end; the newest are kept.
_MOST_NEWS = 256


class Inbound:
    """Applies responses to the queue and keeps the news for the job. A server that lies can lose nothing with it."""

    def __init__(self, queue: Queue, capture: Callable[[Directive], None]) -> None:
        """`capture` takes what concerns the flight recorder: nothing that the job would have to decide."""
        self._queue = queue
        self._capture = capture
        self._notices: deque[AlertNotice] = deque(maxlen=_MOST_NEWS)
        self._directives: deque[Directive] = deque(maxlen=_MOST_NEWS)
        self._rejections_said: set[str] = set()

    def apply(self, response: telemetry.StreamStepsResponse, rank_handle: int) -> None:
        """Sender's thread: takes everything from one response but its timing."""
        for rejection in response.rejections:
            self._reject(rejection, rank_handle)
        for mark in marks_of(response.watermarks, rank_handle):
            self._queue.confirm(mark)
        self._notices.extend(
            AlertNotice(each.alert_id, each.signature, each.severity, each.state, each.step, each.reason)
            for each in response.alerts
        )
        for each in response.directives:
            if each.kind in _DIRECTIVE_KINDS:
                kind = DirectiveKind(each.kind)
                take = self._capture if kind is DirectiveKind.CAPTURE_MORE else self._directives.append
                take(Directive(each.directive_id, kind, each.reason, each.alert_id, each.first_step, each.last_step))

    def _reject(self, rejection: telemetry.Rejection, rank_handle: int) -> None:
        if rejection.rank_handle != rank_handle or rejection.kind not in _KINDS:
            return
        stream = StreamName(RecordKind(rejection.kind), rejection.optimizer)
        end = rejection.first_sequence + rejection.count
        count = self._queue.discard(stream, rejection.first_sequence, end, "rejected")
        if count and rejection.field not in self._rejections_said:
            self._rejections_said.add(rejection.field)
            _log.warning("the server refused %d records: %s: %s", count, rejection.field, rejection.message)

    def take_notices(self) -> list[AlertNotice]:
        """Any thread: alerts since the last call."""
        return _drain(self._notices)

    def take_directives(self) -> list[Directive]:
        """Any thread: directives since the last call."""
        return _drain(self._directives)


def marks_of(watermarks: Iterable[telemetry.Watermark], rank_handle: int) -> Iterator[StreamMark]:
    """The watermarks that are about this rank."""
    for each in watermarks:
        if each.rank_handle == rank_handle and each.kind in _KINDS:
            stream = StreamName(RecordKind(each.kind), each.optimizer)
            yield StreamMark(stream, each.accepted_sequence, each.durable_sequence)


def _drain(news: deque[_News]) -> list[_News]:
    found = []
    while news:
        found.append(news.popleft())
    return found
