"""One optimizer's series of records, and the step that waits for its loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seismograd.capture.layout import Layout
from seismograd.capture.numbering import Numbering
from seismograd.capture.pending import Draft
from seismograd.capture.readback import Readback, Transfer
from seismograd.capture.stepwatch import OptimizerWatch

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


@dataclass(slots=True, eq=False)
class Logged:
    """What the user has said about a step."""

    loss: Tensor | float | None = None
    data: str | Tensor | None = None


class Series:
    """One optimizer's part of the session."""

    def __init__(self, index: int, watch: OptimizerWatch, first_step: int) -> None:
        self.index = index
        self.watch = watch
        self.numbering = Numbering(first_step)
        self.readback = Readback()
        self.held: Held | None = None
        self.catalog_version = 0
        self.layout: Layout = watch.layout


def host_or_copy(loss: Tensor | float) -> Tensor | float:
    """A number on the host at once; on a device a copy, since the job may go on to change its tensor."""
    if not isinstance(loss, Tensor):
        return float(loss)
    if loss.numel() != 1:
        raise ValueError(f"the loss has {loss.numel()} elements, expected one number; log loss.mean()")
    loss = loss.detach()
    return float(loss) if loss.device.type == "cpu" else loss.clone()
