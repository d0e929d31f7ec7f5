"""Checksums in what is stored plainly: the tables stay as they are, and an older program must not open them.

It would take what is written from now on for damage. What was written before is read as before.

A migration is history: it is never changed again.
"""

from __future__ import annotations

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing to do: new payloads say themselves how they are encoded."""
