"""Catalogs of parameters: the content once per run, the use of it per rank, optimizer and version."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, select

from seismograd_server.errors import InvalidBatchError
from seismograd_server.model import Catalog, Composition, Parameter
from seismograd_server.store.schema import catalog_uses, catalogs, ranks
from seismograd_server.store.upsert import insert_into


def encode_parameters(parameters: tuple[Parameter, ...]) -> bytes:
    """Compressed JSON, a list per field; equal parameters give equal bytes."""
    columns = {field.name: [getattr(parameter, field.name) for parameter in parameters] for field in fields(Parameter)}
    # Level 1: names repeat so much that higher levels save little more.
    return zlib.compress(json.dumps(columns, separators=(",", ":")).encode("ascii"), 1)


def decode_parameters(data: bytes) -> tuple[Parameter, ...]:
    """The inverse of `encode_parameters`."""
    columns: dict[str, list[Any]] = json.loads(zlib.decompress(data))
    columns["shape"] = [tuple(shape) for shape in columns["shape"]]
    columns["composition"] = [Composition(number) for number in columns["composition"]]
    return tuple(Parameter(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True))


def save_catalog(connection: Connection, run_id: int, handle: int, catalog: Catalog) -> None:
    """Store a catalog; once more the same one changes nothing.

    Raises:
        InvalidBatchError: the version is known with other parameters.
    """
    content = encode_parameters(catalog.parameters)
    digest = hashlib.sha256(content).digest()
    connection.execute(
        insert_into(connection, catalogs)
        .values(run_id=run_id, digest=digest, content=content)
        .on_conflict_do_nothing(index_elements=[catalogs.c.run_id, catalogs.c.digest])
    )
    same = (catalogs.c.run_id == run_id, catalogs.c.digest == digest)
    catalog_row = connection.scalars(select(catalogs.c.catalog_row).where(*same)).one()
    keys = {"rank_handle": handle, "optimizer": catalog.optimizer, "version": catalog.version}
    connection.execute(
        insert_into(connection, catalog_uses).values(**keys, catalog_row=catalog_row).on_conflict_do_nothing()
    )
    stored = connection.scalars(select(catalog_uses.c.catalog_row).filter_by(**keys)).one()
    if stored != catalog_row:
        raise InvalidBatchError(
            "catalogs",
            f"version {catalog.version} of optimizer {catalog.optimizer} was declared with other parameters: "
            "a change needs a new version",
        )


def load_catalogs_of_rank(connection: Connection, handle: int) -> dict[tuple[int, int], Catalog]:
    """Every catalog that a rank has sent, by (optimizer, version), whatever its launch has declared."""
    rows = connection.execute(
        select(catalog_uses.c.optimizer, catalog_uses.c.version, catalogs.c.content)
        .join(catalogs, catalogs.c.catalog_row == catalog_uses.c.catalog_row)
        .where(catalog_uses.c.rank_handle == handle)
    )
    return {
        (row.optimizer, row.version): Catalog(row.optimizer, row.version, decode_parameters(row.content))
        for row in rows
    }


def load_catalogs(connection: Connection, launch_row: int, optimizer: int) -> dict[tuple[int, int], Catalog]:
    """Every catalog of an optimizer in a launch by (rank handle, version); equal ones share their parameters."""
    rows = connection.execute(
        select(catalog_uses.c.rank_handle, catalog_uses.c.version, catalogs.c.catalog_row, catalogs.c.content)
        .join(catalogs, catalogs.c.catalog_row == catalog_uses.c.catalog_row)
        .join(ranks, ranks.c.handle == catalog_uses.c.rank_handle)
        .where(ranks.c.launch_row == launch_row, catalog_uses.c.optimizer == optimizer)
        .order_by(catalog_uses.c.rank_handle, catalog_uses.c.version)
    )
    contents: dict[int, tuple[Parameter, ...]] = {}
    found: dict[tuple[int, int], Catalog] = {}
    for row in rows:
        if row.catalog_row not in contents:
            contents[row.catalog_row] = decode_parameters(row.content)
        found[row.rank_handle, row.version] = Catalog(optimizer, row.version, contents[row.catalog_row])
    return found
