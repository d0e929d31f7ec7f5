"""Which step it is that the user says something about.

A number that is told decides where it is that of the step made last; else the habit of the job does (`habit.py`). What
belongs to a step whose record has gone to the sender already is dropped, and that is said once: on another step it
would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from seismograd.arguments import whole_step
from seismograd.capture.data import identify_data
from seismograd.capture.guard import Guard
from seismograd.capture.habit import Habit
from seismograd.capture.held import Logged, host_or_copy
from seismograd.capture.series import Series


class Said:
    """Takes what the user says; losses, data and numbers are those of the first of the series.

    `release` hands over the step of a series that waits.
    """

    def __init__(self, series: Sequence[Series], guard: Guard, release: Callable[[Series], None]) -> None:
        self._series = series
        self._first = series[0]
        self._guard = guard
        self._release = release
        self._losses = Habit()
        self._others = Habit()

    @property
    def after_steps(self) -> bool:
        """Whether losses follow the steps that they belong to, as far as is known."""
        return self._losses.after is True

    def log(self, loss: Tensor | float | None, data: object, step: int | None, *, skipped: bool) -> None:
        """Loss, data and number of one step."""
        number = None if step is None else whole_step(step)
        first = self._first
        if not skipped and self._is_of_last_step(number, with_loss=loss is not None):
            plain = first.plain
            if plain is not None and plain.held:
                if loss is not None and data is None and number in (None, plain.step) and plain.log(loss):
                    return
                first.held = plain.unfold()
            self._add(loss, data, number)
            return
        if number is not None and number != first.numbering.next_step:
            self._renumber(number)
        self._note(loss, data)
        if skipped:
            first.watch.user_skipped()

    def _is_of_last_step(self, number: int | None, *, with_loss: bool) -> bool:
        """Whether this is said of the step made last; else of the one to come."""
        first = self._first
        if first.under_way:
            return False  # a closure says it, or the backward pass has ended before all have stepped that may
        last, waits, passes = first.last_made, first.waits, first.passes
        any_step, new_gradients = last is not None, first.watch.has_new_gradients()
        habit = self._losses if with_loss else self._others
        is_complete = with_loss and first.last_has_loss and not waits
        if number is not None and number == last:
            # Unless a job that logs before its steps goes back by one, and makes this one again.
            again = is_complete and habit.after is False and not passes.none_since
            habit.after = not again
            return not again
        named_next = number is not None and number == first.numbering.next_step
        if named_next and is_complete:
            return False
        if with_loss:
            return habit.judge_loss(
                passes, any_step=any_step, complete=is_complete, new_gradients=new_gradients, named_next=named_next
            )
        # Of a step that has gone nothing more can be said: it is the next one's.
        return waits and habit.judge_other(any_step=any_step, new_gradients=new_gradients)

    def _add(self, loss: Tensor | float | None, data: object, number: int | None) -> None:
        """To the step made last."""
        first, held = self._first, self._first.held
        logged = Logged(None if loss is None else host_or_copy(loss), identify_data(data))
        if number is not None and number != first.last_made:
            self._renumber(number + 1)
            if held is not None:
                held.step = number
        if held is None:
            if first.plain is not None and self.after_steps:
                # At once: nobody else asks before the next step that is not plain.
                first.plain.waits = first.plain.logs_after = True
            if loss is not None or data is not None:
                self._say_dropped("loss" if loss is not None else "data", first.last_made if number is None else number)
        elif loss is None:
            # More may follow in a call of its own.
            held.draft.data = logged.data or held.draft.data
        else:
            held.add(logged, first.readback)
            self._release(first)

    def _say_dropped(self, what: str, step: int | None) -> None:
        if what == "data":
            why = "it has been sent; log the data with the loss, or before the step"
        elif self._first.last_has_loss:
            why = "it has been sent, with the loss that was logged first; call log once per step"
        else:
            why = "it had been sent when log was called; from now on steps wait until they are logged"
        self._guard.say_once(f"late {what} {self._first.last_has_loss}", f"the {what} of step {step} is dropped: {why}")

    def _note(self, loss: Tensor | float | None, data: object) -> None:
        """For the step to come."""
        noted = self._first.logged or Logged()
        if loss is not None:
            noted.loss = host_or_copy(loss)
        if data is not None:
            noted.data = identify_data(data)
        self._first.logged = noted

    def _renumber(self, next_step: int) -> None:
        numbering = self._first.numbering
        rewound = next_step < numbering.next_step
        numbering.next_step = next_step
        for series in self._series[1:]:
            series.numbering.follow(numbering, rewound=rewound)
