"""How the job ended, and what of it is due by when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seismograd_proto.v1 import telemetry

_CLOSE_RESERVE = 0.25  # share of the time to finish that is kept for CloseRun
# Of the same, the longest pause between two attempts to connect: what the back-off says may be longer than all of it.
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is over; what is left has until `deadline` (monotonic clock)."""

    outcome: Literal["finished", "failed"] | None  # None = it was killed: nobody says goodbye for it
    reason: str
    deadline: float
    timeout_seconds: float

    def is_late(self, now: float) -> bool:
        """Whether it is time to say goodbye, also to a server that still owes an answer."""
        return now >= self.deadline - _CLOSE_RESERVE * self.timeout_seconds

    @property
    def pause_seconds(self) -> float:
        """The longest pause before the next attempt to connect."""
        return _PAUSE * self.timeout_seconds

    def request(self, rank_handle: int) -> telemetry.CloseRunRequest:
        """The goodbye itself."""
        failed = self.outcome == "failed"
        return telemetry.CloseRunRequest(
            rank_handle=rank_handle,
            outcome=telemetry.RANK_OUTCOME_FAILED if failed else telemetry.RANK_OUTCOME_FINISHED,
            reason=self.reason,
        )
