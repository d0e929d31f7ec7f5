"""What a job is asked for, by whom, and what each of its ranks made of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

BY_ALERT = "seismograd"  # who asks when no person does; the directive then names its alert


class DirectiveKind(enum.IntEnum):
    """What a directive asks for (numbers as on the wire)."""

    CAPTURE_MORE = 1
    CHECKPOINT = 2
    STOP = 3

    @property
    def word(self) -> str:
        """As people write it, in commands and JSON."""
        return _WORDS[self]

    @property
    def capability(self) -> str:
        """As a client names it among what it understands."""
        return self.name.lower()

    @classmethod
    def of_word(cls, word: str) -> DirectiveKind:
        """The kind that people call so. Raises ValueError for any other word."""
        for kind, own in _WORDS.items():
            if own == word:
                return kind
        raise ValueError(f"{word!r} is none of {', '.join(_WORDS.values())}")


_WORDS = {DirectiveKind.STOP: "stop", DirectiveKind.CHECKPOINT: "checkpoint", DirectiveKind.CAPTURE_MORE: "capture"}


class DirectiveOutcome(enum.StrEnum):
    """What a rank made of a directive."""

    APPLIED = "applied"
    REFUSED = "refused"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Directive:
    """Something asked of some ranks of one launch. A hint: nothing happens but what the job itself lets happen."""

    directive_id: str
    run_id: int
    kind: DirectiveKind
    asked_by: str  # a person's name, or BY_ALERT
    asked_at: float  # Unix seconds
    expires_at: float  # nobody is told any more from then on
    reason: str = ""
    alert_id: str = ""  # the alert behind it; "" = a person asked
    first_step: int = 0  # of the window wanted; CAPTURE_MORE only
    last_step: int = 0  # of the same, inclusive


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rank says it made of a directive.

    `directive_id` is empty for a rank that acted with others without having seen it: then `kind` says what was done.
    """

    rank_handle: int
    directive_id: str
    outcome: DirectiveOutcome
    reason: str
    kind: DirectiveKind | None = None
    step: int | None = None  # the last one made when it was decided
    by_another_rank: bool = False


@dataclass(frozen=True, slots=True)
class Addressee:
    """A rank that was asked, and where that stands."""

    rank_handle: int
    rank: int
    sent_at: float | None = None  # first sent down its stream; None = not yet, or it never heard of it
    outcome: DirectiveOutcome | None = None  # None = no answer yet
    reason: str = ""
    step: int | None = None
    by_another_rank: bool = False
    answered_at: float | None = None


@dataclass(frozen=True, slots=True)
class AskedDirective:
    """A directive with everyone it was addressed to, by rank."""

    directive: Directive
    addressees: tuple[Addressee, ...]
