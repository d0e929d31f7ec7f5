"""The stocked store for tests of the reading side."""

from tests.support.reading import connect, empty_store, stocked, stocked_file

__all__ = ["connect", "empty_store", "stocked", "stocked_file"]
