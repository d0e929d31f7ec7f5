"""Directives are hints, handled once, and answered."""

from __future__ import annotations

from seismograd.directives import Directives
from seismograd.record import Directive, DirectiveKind


def directive(name: str, kind: DirectiveKind) -> Directive:
    return Directive(name, kind, "because", "", 0, 0)


def test_a_stop_stays_wanted_and_is_reported_once() -> None:
    reports: list[tuple[str, str, str]] = []
    directives = Directives(lambda *report: reports.append(report))
    assert not directives.wants_stop()
    for _ in range(2):
        directives.receive([directive("a", DirectiveKind.STOP)])
    assert directives.wants_stop()
    directives.stop_decided()
    directives.stop_decided()

    assert directives.wants_stop()
    assert directives.stop_reason == "because"
    assert reports == [("a", "applied", "")]


def test_a_checkpoint_is_granted_once_for_each_time_it_was_asked_for() -> None:
    reports: list[str] = []
    directives = Directives(lambda name, _outcome, _reason: reports.append(name))
    directives.receive([directive("a", DirectiveKind.CHECKPOINT)])
    directives.checkpoint_decided()
    assert not directives.wants_checkpoint()
    directives.receive([directive("a", DirectiveKind.CHECKPOINT), directive("b", DirectiveKind.CHECKPOINT)])
    assert directives.wants_checkpoint()
    directives.checkpoint_decided()

    assert reports == ["a", "b"]


def test_what_this_client_cannot_do_is_said() -> None:
    reports: list[tuple[str, str]] = []
    directives = Directives(lambda name, outcome, _reason: reports.append((name, outcome)))
    directives.receive([directive("a", DirectiveKind.CAPTURE_MORE)])

    assert reports == [("a", "ignored")]
