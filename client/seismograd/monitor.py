"""What the user holds: `watch()` and Monitor. The one place where exceptions stop.

    monitor = seismograd.watch(model, optimizer, project="mt", run="lstm-7")
    ...                                   # the training loop, unchanged
    monitor.log(loss=loss)                # after the step (or before it, always in the same place)

Nothing here ever raises into training but a wrong call signature: what fails is said once by
`logging.getLogger("seismograd")`, and that feature is off from then on.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from seismograd.arguments import callback_of, checkpoint_of, ending_of, is_success, watch_of
from seismograd.capture.collective import any_rank
from seismograd.capture.oddities import as_many_as_fit
from seismograd.capture.session import Session
from seismograd.capture.untraced import untraced
from seismograd.directives import Directives
from seismograd.ending import Ending
from seismograd.guard import Guard
from seismograd.options import OptionError, Options
from seismograd.outbox.sender import FlushReport, Sender, SenderState
from seismograd.outbox.transport import Transport
from seismograd.record import AlertNotice, DirectiveAnswer, DirectiveKind
from seismograd.weakly import LastWord, weakly

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("seismograd")


def watch(
    model: torch.nn.Module | None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    project: str | None = None,
    run: str | None = None,
    config: object = None,
    tags: Mapping[str, str] | None = None,
    server: str | None = None,
    scaler: object = None,
    step: int = 0,
    transport: Transport | None = None,
    **options: Any,
) -> Monitor:
    """Begins to watch the optimizers of a model; every step from now on is recorded.

    Args:
        model: names the parameters; the wrapped model under DDP or FSDP, the compiled one under torch.compile (else it
            is compiled twice), a pipeline's stage with the names that its layers have in the whole model. None =
            parameters without names.
        optimizer: one or several; run-level numbers are those of the first. More than four of one parameter each, which
            step inside the backward pass, are watched as one.
        project: groups runs; default `SEISMOGRAD_PROJECT`, else "default".
        run: name of the run, the same on all ranks; default `SEISMOGRAD_RUN`, else made of script and launch.
        config: hyper-parameters to show (mapping, dataclass or argparse namespace); secrets are redacted.
        tags: at most 32 labels of the run.
        server: "host:port"; default `SEISMOGRAD_SERVER`, else "localhost:7450".
        scaler: the GradScaler, if there is one. torch's own is found without being named.
        step: number of the first step, for resumed runs.
        transport: a stand-in for the network, for tests (`seismograd.testing`).
        options: anything else that `seismograd.options.Options` knows, such as `tied`.

    Returns:
        The monitor. With options that cannot work it is inert: that is logged, and training goes on.
    """
    del scaler  # steps are seen through the class of torch's scaler; the argument keeps call sites explicit
    guard = Guard()
    try:
        optimizers, first_step = watch_of(model, optimizer, step, transport)
        chosen = Options.from_environment(project=project, run=run, tags=tags, server=server, **options)
    except OptionError as error:
        _log.error("training goes on without telemetry: %s", error)
        return _inert()
    sender = None if chosen.mode == "off" else guard("the sender", Sender, chosen, transport)
    if sender is None:
        return _inert()
    monitor = Monitor(None, sender, guard, chosen)
    begun = guard(
        "watch",
        Session,
        model,
        guard("the number of optimizers", as_many_as_fit, optimizers) or optimizers,
        chosen,
        sender,
        guard,
        config=config,
        first_step=first_step,
    )
    monitor.begin(begun)
    return monitor


class Monitor:
    """A watched run on this rank. Every method returns at once but `finish` (bounded) and what asks to synchronize."""

    def __init__(
        self, session: Session | None, sender: Sender | None, guard: Guard, options: Options | None = None
    ) -> None:
        self._session = session
        self._sender = sender
        self._guard = guard
        self._options = options
        self._directives = Directives(self._answer_directive)
        self._callbacks: list[Callable[[AlertNotice], object]] = []
        self._ending: Ending | None = None
        self._report: FlushReport | None = None
        self._told: tuple[Literal["finished", "failed"], str, float] | None = None  # an end nobody has waited for

    def begin(self, session: Session | None) -> None:
        """Takes the session that `watch()` has made, and arranges for the end of the process."""
        self._session = session
        if session is not None and self._sender is not None:
            self._ending = Ending(self, LastWord(weakref.ref(session), self._sender, self._guard))
            session.when_forgotten = self._ending.forgotten

    # ---------------------------------------------------------------------------------------- the job tells

    @untraced
    def log(
        self,
        *,
        loss: torch.Tensor | float | None = None,
        batch: object = None,
        step: int | None = None,
        skipped: bool = False,
    ) -> None:
        """Says what belongs to a step; call it once per step, always before or always after `optimizer.step()`.

        Args:
            loss: this rank's loss; a tensor on a device is read later, without a synchronisation.
            batch: which data the step saw: sample indexes, a name; a tensor of one dimension lists indexes.
            step: the step's number, where the job counts otherwise than from `watch(step=)` by one. A number that
                goes back begins a new branch.
            skipped: the job has looked at the gradients and will not make this step.
        """
        if self._is_open("log") and self._session is not None:
            self._guard.attempt("log", self._session.log, loss, batch, step, skipped=skipped)

    def checkpoint_saved(self, step: int, path: str) -> None:
        """Says that the job has written a checkpoint, so that an alert can name the last good one."""
        checkpoint = self._guard.attempt("checkpoint_saved", checkpoint_of, step, path)
        if self._is_open("checkpoint_saved") and checkpoint is not None and self._sender is not None:
            self._guard("checkpoint_saved", self._sender.checkpoint_saved, *checkpoint)

    def _is_open(self, method: str) -> bool:
        """Whether there is a run that goes on; a call after its end is said once."""
        if self._report is not None and self._session is not None:
            after = f"the monitor is closed: {method}() after finish() is ignored; watch() begins another run"
            self._guard.say_once("the closed monitor", after)
        return self._session is not None and self._report is None

    def on_alert(self, callback: Callable[[AlertNotice], object]) -> None:
        """Calls `callback(notice)` for alerts of this run, in the training thread.

        That is at the end of a step, and before `should_stop` or `should_checkpoint` says yes. A callback that raises
        is logged and not called again.
        """
        if self._guard.attempt("on_alert", callback_of, callback) is None or not self._is_open("on_alert"):
            return
        self._callbacks.append(callback)
        if self._session is not None:
            self._session.at_boundary(weakly(self.at_step_boundary))

    # ------------------------------------------------------------------------------------------ the job asks

    def should_stop(self, *, synchronize: bool = False, every: int = 1) -> bool:
        """Whether the server asked the job to stop.

        Alone it is a hint to this rank only. With `synchronize=True`, which every rank must then call, all ranks get
        the same answer by one all-reduce in this call; with `every=n` only each n-th call does so, and the others
        return False. That all-reduce fails as any other one of the job's would.
        """
        return self._asked(DirectiveKind.STOP, synchronize, every)

    def should_checkpoint(self, *, synchronize: bool = False, every: int = 1) -> bool:
        """Whether the server asked for a checkpoint: True once for each time it asked. As `should_stop` otherwise."""
        return self._asked(DirectiveKind.CHECKPOINT, synchronize, every)

    def _asked(self, kind: DirectiveKind, synchronize: bool, every: int) -> bool:
        self._guard("directives", self._receive_directives)
        wanted = self._directives.wants(kind)
        if synchronize:
            # Whatever is wrong on this rank alone, the others wait for its vote: nothing may return before it.
            wanted = self._directives.is_turn(kind, every) and any_rank(wanted)
        if wanted:
            self._guard("directives", self._directives.decided, kind, self._last_step, together=synchronize)
            self._guard("directives", self.at_step_boundary)  # the job may end here, and the alert is why
        return wanted

    @property
    def state(self) -> SenderState | None:
        """How the shipping goes; None for an inert monitor."""
        return None if self._sender is None else self._sender.state

    @property
    def active(self) -> bool:
        """Whether steps are being recorded."""
        return self._session is not None and self._report is None and "capture" not in self._guard.broken

    @property
    def run(self) -> str | None:
        """Name of the run, for a checkpoint from which it shall go on; None until it is known (the first step)."""
        return None if self._session is None else self._session.run

    @property
    def next_step(self) -> int:
        """Number that the next step will have: what `watch(step=)` wants to hear when the run goes on."""
        return 0 if self._session is None else self._session.next_step

    # ------------------------------------------------------------------------------------------------ the end

    def finish(
        self,
        outcome: Literal["finished", "failed"] = "finished",
        reason: str | BaseException = "",
        timeout_seconds: float | None = None,
    ) -> FlushReport:
        """Ends the run: removes every hook and delivers what is left, within two seconds by default.

        `reason` may be the exception that ended it. A second call returns the first one's report. At the normal end of
        a process it is called by itself.
        """
        self.finish_soon(outcome, reason, timeout_seconds)
        told, self._told = self._told, None
        if told is not None and self._sender is not None:
            self._report = self._guard("the last delivery", self._sender.finish, *told) or self._report
        return self._report or FlushReport()

    def finish_soon(
        self,
        outcome: Literal["finished", "failed"] = "finished",
        reason: str | BaseException = "",
        timeout_seconds: float | None = None,
        *,
        used_seconds: float = 0.0,
    ) -> None:
        """All of `finish` but the waiting, which it then does. `used_seconds` of the time have gone already."""
        if self._report is not None:
            return
        self._report = FlushReport()
        if self._ending is not None:
            self._ending.cancel()
        if self._session is not None:
            self._guard("the end", self._session.close)
        self._guard("directives", self._end_directives)
        if self._sender is not None and self._options is not None:
            default = self._options.finish_timeout_seconds
            self._told = ending_of(outcome, reason, timeout_seconds, default, self._guard)
            self._guard("the last word", self._sender.finish_soon, *self._told, used_seconds=used_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or is_success(error):
            self.finish()
        else:
            self.finish("failed", error)

    def __reduce__(self) -> tuple[Callable[[], Monitor], tuple[()]]:
        """A copy, as of a model that holds its monitor: the run goes on with the original, the copy is inert."""
        return _inert, ()

    def __repr__(self) -> str:
        if self._session is None or self._options is None or self._sender is None:
            return "<seismograd.Monitor: inert>"
        state = self._sender.state
        step = self._session.last_step
        return (
            f"<seismograd.Monitor {self._options.project}/{self._options.run or '(unnamed)'}"
            f" to {self._options.server}: {self._session.watched_parameters} parameters,"
            f" {'no step yet' if step is None else f'step {step}'}, {state.phase.value},"
            f" {state.acknowledged} of {state.offered} records durable>"
        )

    # ------------------------------------------------------------------------------------------- not for users

    def at_step_boundary(self) -> None:
        """In the training thread, after a step: tells the callbacks which alerts have come."""
        if self._sender is None or not self._callbacks:
            return
        for notice in self._sender.take_notices():
            for callback in list(self._callbacks):
                try:
                    callback(notice)
                except Exception:  # noqa: BLE001 - somebody's callback must not end somebody's training
                    _log.exception("the callback %r failed and is not called again", callback)
                    self._callbacks.remove(callback)

    @property
    def _last_step(self) -> int | None:
        return None if self._session is None else self._session.last_step

    def _receive_directives(self) -> None:
        if self._sender is not None:
            self._directives.receive(self._sender.take_directives(), self._last_step)

    def _end_directives(self) -> None:
        self._receive_directives()
        self._directives.end(self._last_step)

    def _answer_directive(self, answer: DirectiveAnswer) -> None:
        if self._sender is not None:
            self._guard("directives", self._sender.answer_directive, answer)


def _inert() -> Monitor:
    return Monitor(None, None, Guard())
