"""The flight recorder's other half: what the server asks for is frozen out of the rings and delivered beside the steps.

    directive --> window of steps --> copied out of the rings before they overwrite it --> detail records, paced
                       '--> every step that follows, until the window ends: sampled whole (`sample_until`)

Details are records of a kind of their own, with sequences of their own: each recorded step once, whole, also the rows
of replicas that ship totals only, and steps that the queue had to drop. They never delay ordinary records: a portion of
them is handed to the queue, where ordinary records go first, and the next portion not before that one is durable.

Belongs to the sender's thread, but for `sample_until`, which the training thread reads.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from seismograd.outbox.columns import record_size
from seismograd.outbox.queue import Queue
from seismograd.outbox.rings import Rings
from seismograd.outbox.streamlog import StreamName
from seismograd.record import Directive, DirectiveAnswer, DirectiveKind, RecordKind, StepRecord, Travels

_log = logging.getLogger("seismograd")

# A frame of this size costs the server about what an ordinary one does. One portion per round trip of a frame and its
# ack, a tenth of a second, is a megabyte a second.
_PORTION_BYTES = 128 * 1024
# A queue so short delays no ordinary record by more than a frame.
_SHORT_QUEUE_BYTES = 4 * _PORTION_BYTES
# Steps sampled whole in a row at most, whatever is asked: as many as a ring promises to hold.
_MOST_SAMPLED = 256
# Answered directives that are remembered: the server repeats only what it has no answer to.
_REMEMBERED = 256


@dataclass(slots=True)
class _Window:
    """A directive that is not answered yet."""

    directive: Directive
    oldest: int | None  # step that the ring began with, when it was asked; None = nothing was overwritten
    records: int = 0
    left_out: int = 0  # for want of memory

    def holds(self, step: int) -> bool:
        return self.directive.first_step <= step <= self.directive.last_step


class Recorder:
    """Answers each directive once, when its window is durable on the server, or with what there was at the end."""

    def __init__(self, rings: Rings, queue: Queue, answer: Callable[[DirectiveAnswer], None], most_bytes: int) -> None:
        """`most_bytes` bounds what is frozen and not yet delivered."""
        self._rings = rings
        self._queue = queue
        self._answer = answer
        self._most_bytes = most_bytes
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._windows: list[_Window] = []
        self._frozen: deque[StepRecord] = deque()
        self._bytes = 0
        self._taken: dict[int, set[int]] = {}  # sequences of the steps that were frozen, by optimizer
        self._seen: dict[int, int] = {}  # up to which sequence a ring has been looked through, by optimizer
        self._next: Counter[int] = Counter()  # sequence of the next detail, by optimizer
        self._on_the_way: dict[StreamName, int] = {}  # where the portion in the queue ends
        self.sample_until: int | None = None  # steps up to this one are to be sampled whole

    def ask(self, directive: Directive) -> None:
        """Freezes what the rings hold of a window, and what is still to come of it. Once more changes nothing."""
        self._safely(lambda: self._ask(directive))

    def turn(self, *, hurry: bool = False) -> None:
        """Freezes what is new, hands over the next portion, and answers what is complete.

        With `hurry` a portion need not be durable before the next one goes, as long as the queue is short.
        """
        if self._windows or self._frozen:
            self._safely(lambda: self._turn(hurry=hurry))

    def end(self) -> None:
        """The run is over: answers with what there was."""
        self._safely(self._end)

    @property
    def idle(self) -> bool:
        """Whether nothing that is frozen waits for its turn."""
        return not self._frozen

    def _safely(self, function: Callable[[], None]) -> None:
        """A defect here costs the details, never the ordinary records that the same thread ships."""
        try:
            function()
        except Exception:  # noqa: BLE001  # as above
            _log.exception("a defect in the flight recorder; steps are shipped as before")
            self._windows.clear()
            self._frozen.clear()
            self._bytes = 0
            self.sample_until = None

    # -------------------------------------------------------------------------------------------------- what is to do

    def _ask(self, directive: Directive) -> None:
        if directive.directive_id in self._known:
            return
        self._known.append(directive.directive_id)
        if not any(True for _ in self._rings):
            self._tell(directive, "refused", "no flight recorder here: the process that had it is gone", None)
            return
        newest, oldest, overwritten = self._extent()
        if newest is not None and oldest is not None and overwritten and directive.last_step < oldest:
            self._tell(directive, "refused", f"too old: the recorder begins at step {oldest}", newest)
            return
        self._look()  # what is new belongs to the older windows too
        window = _Window(directive, oldest if overwritten else None)
        for optimizer, ring in self._rings:
            records = ring.steps(directive.first_step, directive.last_step)
            self._freeze_all(optimizer, [each for each in records if each.sequence < self._seen[optimizer]], window)
        self._windows.append(window)
        begin = -1 if newest is None else newest
        if directive.last_step > begin:
            until = min(directive.last_step, begin + _MOST_SAMPLED)
            self.sample_until = until if self.sample_until is None else max(until, self.sample_until)

    def _turn(self, *, hurry: bool) -> None:
        self._look()
        if self._arrived() or (hurry and self._queue.totals().queued_bytes < _SHORT_QUEUE_BYTES):
            self._hand_over()
        newest, _, _ = self._extent()
        if newest is None or self._frozen or not self._arrived():
            return
        for window in [each for each in self._windows if each.directive.last_step <= newest]:
            self._complete(window, [], newest)

    def _end(self) -> None:
        newest, _, _ = self._extent()
        for window in list(self._windows):
            notes = ["the run ended"] if newest is None or newest < window.directive.last_step else []
            if late := sum(window.holds(record.step) for record in self._frozen):
                notes.append(f"{late} were not delivered in time")
            self._complete(window, notes, newest)
        self._frozen.clear()
        self._bytes = 0

    # ------------------------------------------------------------------------------------------------------- freezing

    def _extent(self) -> tuple[int | None, int | None, bool]:
        """Newest and oldest step of the first optimizer that has any, and whether something older was overwritten."""
        for _, ring in self._rings:
            ends = ring.sequences(ring.end - 1, ring.end), ring.sequences(ring.oldest, ring.oldest + 1)
            if ends[0] and ends[1]:
                return ends[0][0].step, ends[1][0].step, ends[1][0].sequence > 0
        return None, None, False

    def _look(self) -> None:
        for optimizer, ring in self._rings:
            end = ring.end
            for record in ring.sequences(max(self._seen.get(optimizer, 0), ring.oldest), end):
                if holding := [window for window in self._windows if window.holds(record.step)]:
                    self._freeze(optimizer, record, holding)
            self._seen[optimizer] = max(self._seen.get(optimizer, 0), end)
            # What the ring has forgotten cannot be asked for again.
            self._taken[optimizer] = {each for each in self._taken.get(optimizer, ()) if each >= ring.oldest}

    def _freeze_all(self, optimizer: int, records: list[StepRecord], window: _Window) -> None:
        """What the ring holds already; when memory is short, the latest, which are nearest to what happened."""
        taken = self._taken.get(optimizer, set())
        room = self._most_bytes - self._bytes
        first = len(records)
        while first and room >= 0:
            first -= 1
            room -= 0 if records[first].sequence in taken else record_size(records[first])
        first += room < 0
        window.left_out += first
        for record in records[first:]:
            self._freeze(optimizer, record, [window])

    def _freeze(self, optimizer: int, record: StepRecord, holding: list[_Window]) -> None:
        taken = self._taken.setdefault(optimizer, set())
        size = record_size(record)
        fits = record.sequence in taken or self._bytes + size <= self._most_bytes
        for window in holding:
            window.records += fits
            window.left_out += not fits
        if record.sequence in taken or not fits:
            return
        taken.add(record.sequence)
        self._bytes += size
        total = record.total_norm if record.gradient_norms is None else None
        self._frozen.append(
            replace(
                record,
                kind=RecordKind.DETAIL,
                sequence=self._next[optimizer],
                total_norm=total,
                travels=Travels.ALL,
            )
        )
        self._next[optimizer] += 1

    # ------------------------------------------------------------------------------------------------------ delivering

    def _arrived(self) -> bool:
        return all(self._queue.durable(stream) >= end for stream, end in self._on_the_way.items())

    def _hand_over(self) -> None:
        size = 0
        while self._frozen and size < _PORTION_BYTES:
            record = self._frozen.popleft()
            size += record_size(record)
            self._on_the_way[StreamName(RecordKind.DETAIL, record.optimizer)] = record.sequence + 1
            self._queue.offer(record)
        self._bytes = max(0, self._bytes - size)

    # ------------------------------------------------------------------------------------------------------- answering

    def _complete(self, window: _Window, notes: list[str], newest: int | None) -> None:
        self._windows.remove(window)
        parts = [f"{window.records} records of steps {window.directive.first_step} to {window.directive.last_step}"]
        if window.oldest is not None and window.oldest > window.directive.first_step:
            parts.append(f"those before step {window.oldest} were overwritten")
        if window.left_out:
            parts.append(f"{window.left_out} did not fit into memory")
        self._tell(window.directive, "applied", ", ".join(parts + notes), newest)

    def _tell(self, directive: Directive, outcome: str, reason: str, step: int | None) -> None:
        answer = DirectiveAnswer(directive.directive_id, DirectiveKind.CAPTURE_MORE, outcome, reason, step)
        self._answer(answer)
