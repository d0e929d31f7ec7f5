"""Many rows of a large table at once, the way that is quickest for the database.

COPY takes PostgreSQL half the time of as many INSERTs, and this process a third of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert


def append_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, at least one, that name the same columns; what they do not name has its default."""
    if connection.dialect.name == "postgresql":
        _copy(connection, table, rows)
    else:
        connection.execute(insert(table), rows)


def append_numbered(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert rows, at least one, behind all others; give the number that each has got in the table's first column."""
    (number,) = table.primary_key.columns
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(insert(table).returning(number, sort_by_parameter_order=True), rows))
    # Nobody else writes meanwhile, so that each number is the last one plus one; to be told all costs as much again.
    connection.execute(insert(table), rows)
    last: int = connection.exec_driver_sql("SELECT last_insert_rowid()").scalar_one()
    return list(range(last - len(rows) + 1, last + 1))


def _copy(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    names = tuple(rows[0])
    statement, types = _copying(connection.dialect, table, names)
    driver: Any = connection.connection.dbapi_connection
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)  # the binary format converts nothing: a value is written as its column has it
        for row in rows:
            copy.write_row([row[name] for name in names])


@cache
def _copying(dialect: Dialect, table: Table, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """The statement, and the types of its columns as PostgreSQL calls them."""
    quoted = ", ".join(dialect.identifier_preparer.quote(name) for name in names)
    types = [table.columns[name].type.compile(dialect).lower() for name in names]
    return f"COPY {dialect.identifier_preparer.format_table(table)} ({quoted}) FROM STDIN (FORMAT BINARY)", types
