"""What callers give, checked before anything is done with it: one line that names the argument, the value and the fix.

Pure. What cannot be used raises OptionError; `watch()` and the monitor say it once, and training goes on.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence
from typing import Any, Literal

from seismograd.ending import describe_error
from seismograd.errors import OptionError
from seismograd.guard import Guard
from seismograd.names import MOST_PARAMETERS

# Steps travel as int64.
_MOST_STEPS = 2**63
# Of the note why a run ended: what the server keeps of it.
_MOST_CHARACTERS = 4096


def watch_of(model: object, optimizer: object, step: object, transport: object) -> tuple[list[Any], int]:
    """The optimizers that are to be watched and the number of their first step."""
    optimizers = _optimizers(optimizer)
    _require_model(model)
    _require_transport(transport)
    return optimizers, whole_step(step)


def _optimizers(optimizer: object) -> list[Any]:
    """One or several optimizers as a list."""
    found = list(optimizer) if isinstance(optimizer, Sequence) and not isinstance(optimizer, str) else [optimizer]
    if not found:
        raise OptionError("optimizer: the list is empty; give the optimizer, or a list of them")
    for each in found:
        # Frameworks wrap optimizers in classes of their own; what makes one is the groups of parameters.
        if not hasattr(each, "param_groups"):
            raise OptionError(f"optimizer: {shown(each)} is no optimizer; give a torch.optim.Optimizer")
        if (count := _trainable(each.param_groups)) > MOST_PARAMETERS:
            raise OptionError(
                f"optimizer: {count} trainable parameters are more than the server takes of one, {MOST_PARAMETERS};"
                " give several optimizers, or train fewer and larger parameters"
            )
    return found


def _trainable(groups: Any) -> int:
    """How many parameters of an optimizer will have a column; looked at one by one only where there are very many."""
    lists = [group["params"] for group in groups if isinstance(group, dict) and isinstance(group.get("params"), list)]
    count = sum(map(len, lists))
    return count if count <= MOST_PARAMETERS else sum(each.requires_grad for group in lists for each in group)


def _require_model(model: object) -> None:
    """A module, or None."""
    if model is not None and not (hasattr(model, "named_parameters") and hasattr(model, "modules")):
        raise OptionError(f"model: {shown(model)} is no model; give the torch.nn.Module, or None")


def _require_transport(transport: object) -> None:
    """A stand-in for the network, or None."""
    if transport is not None and not hasattr(transport, "open_run"):
        raise OptionError(f"transport: {shown(transport)} is no transport; leave it out, or see seismograd.testing")


def whole_step(step: object) -> int:
    """A step's number."""
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise OptionError(f"step: {shown(step)} is no whole number; give the step as an int")
    number = int(step)
    if not -_MOST_STEPS <= number < _MOST_STEPS:
        raise OptionError(f"step: a number of {number.bit_length()} bits does not fit; give the step as an int of 64")
    return number


def checkpoint_of(step: object, path: object) -> tuple[int, str]:
    """A checkpoint's step and where it is."""
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"path: {shown(path)} is no path; give a str or a pathlib.Path")
    return whole_step(step), os.fsdecode(path)


def callback_of(callback: object) -> object:
    """What is called when an alert comes."""
    if not callable(callback):
        raise OptionError(f"callback: {shown(callback)} cannot be called; give a function of one argument, the notice")
    return callback


def is_success(error: BaseException) -> bool:
    """Whether what leaves a `with` block is no failure: a program that ends, and says that all is well."""
    if not isinstance(error, SystemExit):
        return False
    return error.code is None or (isinstance(error.code, int) and error.code == 0)


def reason_of(reason: object) -> str:
    """Why a run ended, as text that can travel, whatever was given; an exception says it in one line."""
    try:
        text = describe_error(reason) if isinstance(reason, BaseException) else "" if reason is None else str(reason)
    except Exception:  # noqa: BLE001 - the words of somebody's class fail; the run ends nevertheless
        text = type(reason).__name__
    return text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode()


def ending_of(
    outcome: object, reason: object, timeout_seconds: object, default_seconds: float, guard: Guard
) -> tuple[Literal["finished", "failed"], str, float]:
    """How a run ended, why, and how long that may take; what cannot be used is said, and the run ends nevertheless."""
    usable = isinstance(outcome, str) and outcome in ("finished", "failed")
    if not usable:
        guard.say_once("outcome", f"outcome: {shown(outcome)} is not 'finished' or 'failed'; it is taken for 'failed'")
    known: Literal["finished", "failed"] = "finished" if usable and outcome == "finished" else "failed"
    why = reason_of(reason)
    if timeout_seconds is None:
        return known, why, default_seconds
    numeric = isinstance(timeout_seconds, (int, float)) and not isinstance(timeout_seconds, bool)
    if numeric and math.isfinite(timeout_seconds) and timeout_seconds >= 0:  # type: ignore[arg-type,operator]  # numeric is checked first
        return known, why, float(timeout_seconds)  # type: ignore[arg-type]  # as above
    guard.say_once("timeout", f"timeout_seconds: {shown(timeout_seconds)} cannot be used; {default_seconds:g} is taken")
    return known, why, default_seconds


def shown(value: object) -> str:
    """A value and its type, in a few words: what it is may be a whole model."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else "a value"
    return f"{text[:80]} of type {type(value).__name__}"
