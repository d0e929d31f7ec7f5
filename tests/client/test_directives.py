"""Directives are hints, handled once, and answered."""

from __future__ import annotations

from seismograd.directives import Directives
from seismograd.record import Directive, DirectiveAnswer, DirectiveKind

STOP, CHECKPOINT = DirectiveKind.STOP, DirectiveKind.CHECKPOINT


def directive(name: str, kind: DirectiveKind) -> Directive:
    return Directive(name, kind, "because", "", 0, 0)


def told(answers: list[DirectiveAnswer]) -> list[tuple[str, DirectiveKind, str, int | None, bool]]:
    return [(each.directive_id, each.kind, each.outcome, each.step, each.by_another_rank) for each in answers]


def test_a_stop_stays_wanted_and_is_told_once() -> None:
    answers: list[DirectiveAnswer] = []
    directives = Directives(answers.append)
    assert not directives.wants(STOP)
    for _ in range(2):
        directives.receive([directive("a", STOP)])
    assert directives.wants(STOP)
    directives.decided(STOP, 7, together=False)
    directives.decided(STOP, 8, together=False)

    assert directives.wants(STOP)
    assert directives.stop_reason == "because"
    assert told(answers) == [("a", STOP, "applied", 7, False)]


def test_a_checkpoint_is_granted_once_for_each_time_it_was_asked_for() -> None:
    answers: list[DirectiveAnswer] = []
    directives = Directives(answers.append)
    directives.receive([directive("a", CHECKPOINT)])
    directives.decided(CHECKPOINT, 1, together=True)
    assert not directives.wants(CHECKPOINT)
    directives.receive([directive("a", CHECKPOINT), directive("b", CHECKPOINT)])
    assert directives.wants(CHECKPOINT)
    directives.decided(CHECKPOINT, 2, together=True)

    assert told(answers) == [("a", CHECKPOINT, "applied", 1, False), ("b", CHECKPOINT, "applied", 2, False)]


def test_a_rank_that_acts_because_another_one_was_asked_says_so_once() -> None:
    answers: list[DirectiveAnswer] = []
    directives = Directives(answers.append)
    directives.decided(STOP, 5, together=True)
    directives.decided(STOP, 6, together=True)
    assert told(answers) == [("", STOP, "applied", 5, True)]

    directives.receive([directive("late", STOP)], 9)
    assert told(answers)[1:] == [("late", STOP, "applied", 9, False)]


def test_what_is_not_the_jobs_to_decide_is_said() -> None:
    answers: list[DirectiveAnswer] = []
    Directives(answers.append).receive([directive("a", DirectiveKind.CAPTURE_MORE)])
    assert told(answers) == [("a", DirectiveKind.CAPTURE_MORE, "ignored", None, False)]


def test_what_was_never_asked_about_is_ignored_at_the_end_and_only_then() -> None:
    answers: list[DirectiveAnswer] = []
    directives = Directives(answers.append)
    directives.receive([directive("a", STOP), directive("b", CHECKPOINT)])
    assert not answers
    directives.end(30)
    directives.end(30)
    assert told(answers) == [("a", STOP, "ignored", 30, False), ("b", CHECKPOINT, "ignored", 30, False)]
