"""What jobs are asked for: stored first, then told down the streams of the ranks concerned until they have answered.

    a person (`ask`) or an alert (`for_alerts`, in the second transaction) --> store --> `untold` --> a rank's stream
    its answer (`answered`, after the first transaction) --> nobody is told any more

At least once: a stream that opens anew is told again whatever its ranks have not answered. What is kept here is a cache
of the store, which changes after a commit and never before.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from seismograd_server.alerts.asking import CapturePolicy, Policy, Wanted, is_heard, ranks_to_ask, wanted
from seismograd_server.errors import ConflictError, UsageError
from seismograd_server.model import (
    BY_ALERT,
    Addressee,
    Answer,
    AskedDirective,
    Catalog,
    Directive,
    DirectiveKind,
    Rank,
    RunKey,
    RunState,
    Transition,
)
from seismograd_server.pipeline.ranks import RankBook, Sender
from seismograd_server.store.database import Database, Transaction

# Whoever asked an hour ago has helped himself otherwise since, and a window so old is in no recorder any more.
_EXPIRES_SECONDS = 3600.0
_RECENTLY = 3600.0  # what the policy of captures looks back on


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks of a run.

    Attributes:
        kind: what is asked for.
        asked_by: the person.
        reason: why; shown to whoever looks at the job.
        first_step: of a capture; None = `steps_before` before the last closed step.
        last_step: of a capture; None = `steps_after` after the last closed step.
        all_ranks: a capture of every rank, instead of one replica of every shard.
    """

    kind: DirectiveKind
    asked_by: str
    reason: str = ""
    first_step: int | None = None
    last_step: int | None = None
    all_ranks: bool = False


class Asking:
    """Used by the log's worker alone."""

    def __init__(self, database: Database, book: RankBook, policy: CapturePolicy) -> None:
        self._database = database
        self._book = book
        self._policy = policy
        self._open: dict[int, dict[str, Directive]] = {}  # by rank handle and id

    def start(self, now: float) -> None:
        """Take up what the last server had not been answered. Raises StorageError."""
        with self._database.read() as transaction:
            for handle, directive in transaction.directives.unanswered(now):
                self._open.setdefault(handle, {})[directive.directive_id] = directive

    # --------------------------------------------------------------------------------------------------- to ask

    def ask(self, key: RunKey, request: Request, now: float) -> AskedDirective:
        """Store what a person asks, and have it told from now on.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: the run is over, or no rank of it can do this.
            UsageError: a window that ends before it begins.
            StorageError: nothing has been asked.
        """
        with self._database.begin() as transaction:
            run = transaction.runs.get(key)
            if run.state is not RunState.RUNNING:
                raise ConflictError(f"run {key} is {run.state.value}: nobody is there to be asked")
            ranks = _able(transaction, run.run_id, request.kind)
            if not ranks:
                raise ConflictError(
                    f"no rank of run {key} that is still there understands {request.kind.word!r}: its client is older, "
                    "or nothing of it has connected yet"
                )
            directive = Directive(
                directive_id=secrets.token_hex(12),
                run_id=run.run_id,
                kind=request.kind,
                asked_by=request.asked_by,
                asked_at=now,
                expires_at=now + _EXPIRES_SECONDS,
                reason=request.reason,
            )
            if request.kind is DirectiveKind.CAPTURE_MORE:
                directive = self._with_window(directive, request, run.last_step or 0)
                if not request.all_ranks:
                    ranks = self._first(ranks, None)
            asked = _add(transaction, directive, ranks)
        self.take_over([asked])
        return asked

    def _with_window(self, directive: Directive, request: Request, last_closed: int) -> Directive:
        first = last_closed - self._policy.steps_before if request.first_step is None else request.first_step
        last = last_closed + self._policy.steps_after if request.last_step is None else request.last_step
        if last < first:
            raise UsageError(f"last_step: {last} is before the first step, {first}")
        return replace(directive, first_step=first, last_step=last)

    def for_alerts(
        self,
        transaction: Transaction,
        run_id: int,
        transitions: Sequence[Transition],
        policies: Sequence[Policy],
        now: float,
    ) -> list[AskedDirective]:
        """In the second transaction: what a run's alerts ask for by themselves. `take_over` it after the commit."""
        if not any(is_heard(each) for each in transitions) or not (self._policy.automatic or policies):
            return []
        able = {kind: _able(transaction, run_id, kind) for kind in DirectiveKind}
        launches = transaction.runs.launches(run_id)
        launch = launches[-1].launch_row if launches else 0
        recent = _of_launch(transaction, launch, transaction.directives.recent(run_id, now - _RECENTLY))
        everyone = {rank.rank for rank in able[DirectiveKind.CAPTURE_MORE]}
        found = []
        for each in wanted(transitions, recent, self._policy, policies, now, ranks=everyone):
            ranks: Sequence[Rank] = able[each.kind]
            if not each.by_policy:
                ranks = self._first(ranks, each.alert.evidence.leading_rank)
            if ranks:
                found.append(_add(transaction, _directive(run_id, launch, each, now), ranks))
        return found

    def _first(self, ranks: Sequence[Rank], leading: int | None) -> list[Rank]:
        """Those of some ranks that are asked first."""
        by_number = {rank.rank: rank for rank in ranks}
        catalogs = {rank.rank: _newest_catalogs(self._book.sender(rank.handle)) for rank in ranks}
        chosen = ranks_to_ask(catalogs, leading, self._policy.ranks)
        # Ranks that have not described their parameters yet cannot be told apart.
        return [by_number[number] for number in chosen or sorted(by_number)[: self._policy.ranks]]

    def take_over(self, asked: Iterable[AskedDirective]) -> None:
        """What is stored now is told from now on."""
        for each in asked:
            for addressee in each.addressees:
                self._open.setdefault(addressee.rank_handle, {})[each.directive.directive_id] = each.directive

    # ------------------------------------------------------------------------------------------ to tell, to hear

    @property
    def waited_for(self) -> frozenset[int]:
        """The ranks that may have something to be told; mostly none."""
        return frozenset(self._open)

    def untold(self, handle: int, now: float) -> list[Directive]:
        """What a rank has not answered and can still be told, in the order in which it was asked."""
        waiting = self._open.get(handle)
        if waiting is None:
            return []
        for directive_id in [each.directive_id for each in waiting.values() if each.expires_at <= now]:
            del waiting[directive_id]
        found = list(waiting.values())
        if not found:
            del self._open[handle]
        return found

    def sent(self, told: Sequence[tuple[str, int]], now: float) -> None:
        """Note that (directive, rank handle) is on its way. Raises StorageError."""
        with self._database.begin() as transaction:
            transaction.directives.sent(told, now)

    def answered(self, answers: Iterable[Answer]) -> None:
        """After the commit: these ranks need not be told any more."""
        for answer in answers:
            waiting = self._open.get(answer.rank_handle, {})
            if answer.directive_id:
                waiting.pop(answer.directive_id, None)
                continue
            # It acted with the others, on the newest one of that kind.
            same = [each.directive_id for each in waiting.values() if each.kind is answer.kind]
            for directive_id in same[-1:]:
                del waiting[directive_id]

    def ended(self, handle: int) -> None:
        """A rank is gone, and with it whom one could tell."""
        self._open.pop(handle, None)


def _directive(run_id: int, launch: int, each: Wanted, now: float) -> Directive:
    alert = each.alert
    if each.kind is DirectiveKind.CAPTURE_MORE:
        about = f"{alert.alert_id} {each.first_step}-{each.last_step}" + " of all" * each.by_policy
    else:
        about = f"{alert.alert_id} {each.kind.word} {alert.last_step}"
    return Directive(
        # Of what it is made of, so that a replay asks nothing twice. A job that was started again is another one, and
        # may explode at the same step.
        directive_id=hashlib.sha256(f"{launch} {about}".encode()).hexdigest()[:24],
        run_id=run_id,
        kind=each.kind,
        asked_by=BY_ALERT,
        asked_at=now,
        expires_at=now + _EXPIRES_SECONDS,
        reason=f"{'by policy, ' * each.by_policy}{alert.signature.value}: {alert.reason}",
        alert_id=alert.alert_id,
        first_step=each.first_step,
        last_step=each.last_step,
    )


def _able(transaction: Transaction, run_id: int, kind: DirectiveKind) -> list[Rank]:
    """The ranks of the latest launch that are still there and understand it."""
    launches = transaction.runs.launches(run_id)
    ranks = transaction.runs.ranks(launches[-1].launch_row) if launches else []
    return [rank for rank in ranks if rank.ended_at is None and kind.capability in rank.capabilities]


def _of_launch(transaction: Transaction, launch: int, asked: Iterable[AskedDirective]) -> list[AskedDirective]:
    """What was asked, without captures of earlier launches: their steps are in no recorder of this one."""
    handles = {rank.handle for rank in transaction.runs.ranks(launch)}
    return [
        each
        for each in asked
        if each.directive.kind is not DirectiveKind.CAPTURE_MORE
        or any(addressee.rank_handle in handles for addressee in each.addressees)
    ]


def _add(transaction: Transaction, directive: Directive, ranks: Sequence[Rank]) -> AskedDirective:
    transaction.directives.add(directive, [rank.handle for rank in ranks])
    return AskedDirective(directive, tuple(Addressee(rank.handle, rank.rank) for rank in ranks))


def _newest_catalogs(sender: Sender) -> list[Catalog]:
    newest: dict[int, Catalog] = {}
    for (optimizer, _), catalog in sorted(sender.catalogs.items()):
        newest[optimizer] = catalog
    return list(newest.values())
