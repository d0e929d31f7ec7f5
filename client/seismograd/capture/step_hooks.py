"""The hooks of an optimizer's steps: which calls of them begin and end a step, and how they go when nobody watches.

Torch gives hooks to the `step()` of each class. One that calls the `step()` of its base class begins twice, and ends
twice; one that raises begins, and never ends. What the hooks are told is the same in both, and so may gradients be,
where a job makes a failed step again. The call stack tells: torch calls hooks from a function of its own, which is
there as long as the step goes on. To look costs microseconds, and is only done where a step seems to begin within
another one, and where gradients are clipped after one has begun.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch

this_thread = threading.get_ident


def _nothing(*_: object) -> None:
    """A hook that is left behind."""


def _caller_of_hooks() -> CodeType | None:
    """The function of torch that all steps run in, whatever their classes; None = this torch has another one."""
    hooking: Any = getattr(torch.optim.Optimizer, "profile_hook_step", None)
    code = getattr(None if hooking is None else hooking(_nothing), "__code__", None)
    return code if isinstance(code, CodeType) and "args" in code.co_varnames else None


_CALLER = _caller_of_hooks()


def steps_on_stack(is_of: Callable[[object], bool], most: int) -> int:
    """How many steps of an optimizer this thread is in, one within the other, as far as `most`."""
    found = 0
    frame = inspect.currentframe()
    while frame is not None and found < most:
        if frame.f_code is _CALLER:
            arguments = frame.f_locals.get("args")
            found += bool(arguments) and is_of(arguments[0])  # type: ignore[index]  # the optimizer stands first there
        frame = frame.f_back
    return found


class StepHooks:
    """Hooks of one optimizer. Whoever inherits says what they do; `in_step`: one has begun, and none has ended it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.inert = False
        self.in_step = False
        self._nested = False  # a step has begun within the step
        self._thread = 0  # that the latest step has begun in
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def close(self) -> None:
        """Removes the hooks.

        Within a step torch may be going through them, and fails where one is gone: hooks that do nothing stay there.
        """
        self.inert = True
        within = steps_on_stack(self.is_of, 1) > 0
        for handle in self._handles:
            if within:
                _hollow_out(handle)
            else:
                handle.remove()

    def is_of(self, optimizer: object) -> bool:
        """Whether this is the optimizer watched."""
        return optimizer is self.optimizer

    def _before_step(self, optimizer: object, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        raise NotImplementedError

    def _after_step(self, optimizer: object, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        raise NotImplementedError

    def _forget_step(self) -> None:
        """The step that has begun has raised: there is none."""
        self.in_step = self._nested = False

    def _begins_within(self) -> bool:
        """Called where a step begins and another one has: whether it is a part of that. Else that one has raised."""
        self._nested = steps_on_stack(self.is_of, 2) > 1
        if not self._nested:
            self._forget_step()
        return self._nested

    def _ends_within(self) -> bool:
        """Called where a step ends, and one had begun within another: whether it is a part of that."""
        self._nested = steps_on_stack(self.is_of, 2) > 1
        return self._nested

    def _goes_on(self) -> bool:
        """Whether there is a step that has begun, and has neither ended nor raised."""
        # What another thread clips meanwhile, mostly for a model of its own, says nothing about the step.
        if self.in_step and _CALLER is not None and self._thread == this_thread() and not steps_on_stack(self.is_of, 1):
            self._forget_step()
        return self.in_step


def _hollow_out(handle: Any) -> None:
    """Leaves a hook in its place that does nothing, and keeps nothing alive."""
    for each in getattr(handle, "handles", [handle]):  # several optimizers may stand for one
        hooks = each.hooks_dict_ref()
        if hooks is not None and each.id in hooks:
            hooks[each.id] = _nothing
