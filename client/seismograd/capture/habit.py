"""Whether a job says things before or after the step that they belong to: told by what it does, then remembered.

What can be seen at a call of `log(loss=)`, from the surest to the least sure:

    no step was made yet                          --> before the step
    no forward pass since the last step           --> after it, as a loss comes out of a forward pass; unless that step
                                                      has its loss, and so far they came before
    other gradients than at the last step         --> before the next one
    neither                                       --> as the job did before, else by what is more likely

The last is a call behind the forward pass, and as well one behind the step in a job that computes a little more in
between. Such a job has mostly shown before which of them it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

import torch


def _no_count() -> int:
    return 0


# How many nodes of autograd this thread has made; a torch without it tells nothing, and the rest must do.
nodes_made: Callable[[], int] = getattr(torch.autograd, "_get_sequence_nr", _no_count)

# This part of an iteration's nodes is no forward pass, but the mean of a loss, or its product with a number.
_LITTLE = 16


class ForwardPasses:
    """Tells how much of a forward pass there has been since the last step of any of the optimizers.

    `stepped((index, nodes_made()))` is called when an optimizer has made a step.
    """

    def __init__(self) -> None:
        # The latest three: two iterations, since several optimizers may step after one forward pass.
        self._steps = deque([(0, nodes_made())], maxlen=3)
        # A method would cost a training thread, in whose caches there is nothing of ours, three microseconds.
        self.stepped = self._steps.append

    @property
    def stepped_by(self) -> int:
        """Index of the optimizer that stepped last."""
        return self._steps[-1][0]

    @property
    def none_since(self) -> bool:
        """Whether it is sure that there has been none since the last step."""
        part = self.part
        return part is not None and part * _LITTLE <= 1.0

    @property
    def part(self) -> float | None:
        """Nodes made since the last step, as a part of those of an iteration; None where they tell nothing."""
        nodes = [made for _, made in self._steps]
        since, whole = nodes_made() - nodes[-1], max((end - begin for begin, end in pairwise(nodes)), default=0)
        # Steps and losses may be the business of different threads. And a replayed graph makes no nodes.
        return since / whole if since >= 0 and whole > 0 else None


class Habit:
    """What a job does: `after` its steps, or before them (False), or not known yet (None)."""

    def __init__(self) -> None:
        self.after: bool | None = None

    def judge_loss(
        self, passes: ForwardPasses, *, any_step: bool, complete: bool, new_gradients: bool, named_next: bool
    ) -> bool:
        """Whether a loss is that of the step made last, which may have one (`complete`); else of the one to come.

        That its number names the one to come proves little: jobs may count their steps by one otherwise than we do.
        """
        if not any_step or (complete and self.after is False):
            self.after = False
        elif passes.none_since and (passes.stepped_by != 0 or not new_gradients):
            # Another optimizer's backward pass may have left new gradients in the parameters of the first.
            self.after = True
        elif new_gradients:
            self.after = False
        elif self.after is None:
            part = passes.part
            self.after = not named_next and (part is None or part < 0.5)
        return self.after

    def judge_other(self, *, any_step: bool, new_gradients: bool) -> bool:
        """The same of data and numbers, which are known before the forward pass already."""
        if not any_step or new_gradients:
            self.after = False
        # Never the other way round: that nothing was computed since the step says nothing here.
        return self.after is not False
