"""What is known of the host of a rank.

A migration is history: it is never changed again, and so repeats what `schema.py` says today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that is empty for ranks that opened before."""
    op.add_column("ranks", sa.Column("host_facts", sa.Text(), nullable=False, server_default=sa.text("''")))
