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
