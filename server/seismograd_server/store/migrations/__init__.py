"""Alembic migrations: one file per revision, from the first table on."""
