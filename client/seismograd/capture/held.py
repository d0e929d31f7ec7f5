"""The step that waits for its loss, and what the user has said about a step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import SupportsFloat

from torch import Tensor

from seismograd.capture.draft import Draft, send
from seismograd.capture.readback import Readback, RingFullError, Transfer
from seismograd.errors import OptionError
from seismograd.record import Quantity

Moving = tuple[list[object], Transfer]  # names of the values on their way, and the way


@dataclass(slots=True, eq=False)
class Held:
    """A finished step that waits for its loss, or for the next step to begin without one."""

    draft: Draft
    step: int
    catalog_version: int
    columns: int
    transfers: list[Moving]
    on_host: bool

    @property
    def given_up(self) -> bool:
        """Whether its norms could not set out. It keeps its number and its loss, and is counted as dropped."""
        return not (self.on_host or self.transfers)

    def add(self, logged: Logged, readback: Readback) -> None:
        """What the user says about this step."""
        draft, loss, data = self.draft, logged.loss, logged.data
        if data is not None:
            draft.data = data
        if loss is not None:
            draft.logged = True
        if isinstance(loss, float):
            draft.scalars[Quantity.LOSS] = loss
        if self.given_up or not (isinstance(loss, Tensor) or isinstance(data, Tensor)):
            return
        extra = Draft([], draft.source, draft.flags, 0.0, data=data)
        if isinstance(loss, Tensor):
            draft.device_scalars[Quantity.LOSS] = extra.device_scalars[Quantity.LOSS] = loss
        with contextlib.suppress(RingFullError):  # then the step goes without it
            self.transfers.append(send(readback, extra))


@dataclass(slots=True, eq=False)
class Logged:
    """What the user has said about a step."""

    loss: Tensor | float | None = None
    data: str | Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is a loss that the host has, and nothing else."""
        return type(self.loss) is float and self.data is None


def host_or_copy(loss: object) -> Tensor | float:
    """A number on the host at once; on a device a copy, since the job may go on to change its tensor."""
    if type(loss) is float:
        return loss
    if not isinstance(loss, Tensor):
        if not isinstance(loss, SupportsFloat):  # texts are none
            raise OptionError(f"loss: a {type(loss).__name__} is no number; log a float or a tensor of one element")
        return float(loss)
    if loss.numel() != 1 or loss.is_complex():
        raise OptionError(
            f"loss: a tensor of {loss.numel()} elements of {loss.dtype} is not one real number; log loss.mean()"
        )
    loss = loss.detach()
    return float(loss) if loss.device.type == "cpu" else loss.clone()
