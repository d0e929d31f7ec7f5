"""What the server knows of a run, as the demo sees it through the JSON API; and where its training failed. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

# Training counts as failed when the loss is not finite or so many times its best.
FAILED_TIMES_BEST = 10.0


@dataclass(frozen=True, slots=True)
class SeenAlert:
    """An alert of a run, as it was when it became critical, or when it opened if it never did.

    Attributes:
        critical_step: the step at which it was first critical; None = it never was.
        reason: what was said then.
        inhibited: whether a worse alert speaks for it.
    """

    alert_id: str
    signature: str
    severity: str
    opened_step: int
    critical_step: int | None
    reason: str
    leading_rank: int | None
    leading_layer: str | None
    inhibited: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A run at one moment; norms and losses by step, NaN where not known."""

    run: str
    state: str = "starting"
    steps: tuple[int, ...] = ()
    norms: tuple[float, ...] = ()
    losses: tuple[float | None, ...] = ()  # None = not logged; NaN and Inf are what the model gave
    alerts: tuple[SeenAlert, ...] = field(default=())

    @property
    def over(self) -> bool:
        """Whether the server counts the run as ended."""
        return self.state not in {"starting", "running"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Where and how training failed."""

    step: int
    how: str


def failure_of(picture: Picture) -> Failure | None:
    """The first step whose loss is not finite, or ten times the best so far; None = training never failed."""
    best = math.inf
    for step, loss in zip(picture.steps, picture.losses, strict=True):
        if loss is None:
            continue
        if not math.isfinite(loss):
            return Failure(step, f"the loss is {loss}")
        best = min(best, loss)
        if loss > FAILED_TIMES_BEST * best:
            return Failure(step, f"the loss is {loss:.3g}, ten times its best of {best:.3g}")
    return None


def number(value: Any) -> float:
    """A number of the API: NaN and infinities are strings there, and null means not known."""
    return math.nan if value is None else float(value)


def series_of(answer: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Steps, norms and losses of a series of the API, as fields of a Picture."""
    columns = answer["series"]
    return {
        "steps": tuple(columns["step"]),
        "norms": tuple(number(value) for value in columns["grad_norm"]),
        "losses": tuple(None if value is None else number(value) for value in columns["loss"]),
    }


def alert_of(answer: dict[str, Any]) -> SeenAlert:
    """An alert of the API with its history."""
    told = sorted(answer["history"], key=lambda event: event["step"])
    critical = next((event for event in told if event["severity"] == "critical"), None)
    first = critical or next(iter(told), answer)
    evidence = answer["evidence"]
    return SeenAlert(
        alert_id=answer["alert_id"],
        signature=answer["signature"],
        severity=answer["severity"],
        opened_step=answer["opened_step"],
        critical_step=critical["step"] if critical else None,
        reason=first["reason"],
        leading_rank=evidence["leading_rank"],
        leading_layer=evidence["leading_layer"],
        inhibited=bool(answer["inhibited_by"]),
    )
