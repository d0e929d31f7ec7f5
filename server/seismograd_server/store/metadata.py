"""What all tables have in common: the names of their constraints, and how rows are numbered."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Identity, Integer, MetaData

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the type is spelled INTEGER; elsewhere rows need 64 bits.
RowNumber = BigInteger().with_variant(Integer, "sqlite")
# A uint32 of the wire, all of whose values may come: SQLite's INTEGER holds 64 bits anyway, PostgreSQL's 31 and a sign.
Unsigned32 = Integer().with_variant(BigInteger, "postgresql")


def row_number(name: str) -> Column[int]:
    """The key of a table whose rows are numbered as they come; a migration writes `sa.Identity()` for it."""
    return Column(name, RowNumber, Identity(), primary_key=True, autoincrement=True)
