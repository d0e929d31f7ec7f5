"""Writes PostgreSQL's golden database of schema revision 7: `python -m tests.golden.make_postgresql_revision_7`.

Run it only with a program whose newest migration is 0007. It is the database of revision 3 with what came since, as
SQLite's: summaries and what was compacted, spread over partitions, and what people did.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden import make_store_revision_5, make_store_revision_6, make_store_revision_7
from tests.golden.store_dump import make

SOURCE = Path(__file__).with_name("postgresql_revision_3.sql.gz")
TARGET = Path(__file__).with_name("postgresql_revision_7.sql.gz")

if __name__ == "__main__":
    make(TARGET, [make_store_revision_5.fill, make_store_revision_6.fill, make_store_revision_7.fill], SOURCE)
