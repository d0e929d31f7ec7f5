"""Writes PostgreSQL's golden database of schema revision 3: `python -m tests.golden.make_postgresql_revision_3`.

Run it only with a program whose newest migration is 0003: the first one that kept data in PostgreSQL. What is in it is
what is in SQLite's.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden import make_store_revision_1, make_store_revision_2, make_store_revision_3
from tests.golden.store_dump import make

TARGET = Path(__file__).with_name("postgresql_revision_3.sql.gz")

if __name__ == "__main__":
    make(TARGET, [make_store_revision_1.fill, make_store_revision_2.fill, make_store_revision_3.fill])
